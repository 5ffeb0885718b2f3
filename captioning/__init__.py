"""The engine's public face: pictures and instructions in, typed results out.

Importing this loads nothing heavy; a name's module is loaded when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis import ANALYSIS_FIELDS as ANALYSIS_FIELDS
    from .analysis import Analysis as Analysis
    from .analysis import parse_analysis as parse_analysis
    from .captioner import Captioner as Captioner
    from .captioner import CaptionOptions as CaptionOptions
    from .captioner import GenerationOptions as GenerationOptions
    from .captioner import ImageResult as ImageResult
    from .captioner import default_instruction as default_instruction
    from .choosing import best_regions as best_regions
    from .choosing import box_iou as box_iou
    from .cleaning import CleaningOptions as CleaningOptions
    from .errors import ImageError as ImageError
    from .errors import InstructionError as InstructionError
    from .features import FeatureCache as FeatureCache
    from .features import shared_feature_cache as shared_feature_cache
    from .images import as_rgb as as_rgb
    from .images import image_extensions as image_extensions
    from .images import open_image as open_image
    from .instructions import INSTRUCTIONS as INSTRUCTIONS
    from .instructions import AnswerKind as AnswerKind
    from .instructions import Instruction as Instruction
    from .instructions import find_instruction as find_instruction
    from .instructions import find_instructions as find_instructions
    from .mask_bounds import mask_box as mask_box
    from .mask_bounds import mask_boxes as mask_boxes
    from .masks import draw_masks as draw_masks
    from .masks import iterate_masks as iterate_masks
    from .mixed import MixedParts as MixedParts
    from .mixed import split_mixed as split_mixed
    from .overlay import draw_overlay as draw_overlay
    from .presets import PRESETS as PRESETS
    from .presets import Preset as Preset
    from .presets import apply_preset as apply_preset
    from .region_prompts import boxes_text as boxes_text
    from .region_selection import select_regions as select_regions
    from .regions import Region as Region
    from .regions import parse_regions as parse_regions
    from .results import AnalysisResult as AnalysisResult
    from .results import Caption as Caption
    from .results import Mixed as Mixed
    from .results import OcrText as OcrText
    from .results import RegionCaption as RegionCaption
    from .results import RegionOcrText as RegionOcrText
    from .results import Regions as Regions
    from .results import Result as Result
    from .results import Tags as Tags
    from .results import parse_answer as parse_answer
    from .retries import RetryOptions as RetryOptions
    from .tags import TagOptions as TagOptions
    from .tags import edit_prose as edit_prose
    from .tags import edit_tags as edit_tags
    from .tags import join_tags as join_tags
    from .tags import split_tags as split_tags
    from .tiles import TileOptions as TileOptions
    from .vision_options import VisionOptions as VisionOptions

_NAMES = {
    "analysis": ("ANALYSIS_FIELDS", "Analysis", "parse_analysis"),
    "captioner": ("CaptionOptions", "Captioner", "GenerationOptions", "ImageResult", "default_instruction"),
    "choosing": ("best_regions", "box_iou"),
    "cleaning": ("CleaningOptions",),
    "errors": ("ImageError", "InstructionError"),
    "features": ("FeatureCache", "shared_feature_cache"),
    "images": ("as_rgb", "image_extensions", "open_image"),
    "instructions": ("INSTRUCTIONS", "AnswerKind", "Instruction", "find_instruction", "find_instructions"),
    "masks": ("draw_masks", "iterate_masks"),
    "mask_bounds": ("mask_box", "mask_boxes"),
    "mixed": ("MixedParts", "split_mixed"),
    "overlay": ("draw_overlay",),
    "presets": ("PRESETS", "Preset", "apply_preset"),
    "region_prompts": ("boxes_text",),
    "region_selection": ("select_regions",),
    "regions": ("Region", "parse_regions"),
    "results": (
        "AnalysisResult",
        "Caption",
        "Mixed",
        "OcrText",
        "RegionCaption",
        "RegionOcrText",
        "Regions",
        "Result",
        "Tags",
        "parse_answer",
    ),
    "retries": ("RetryOptions",),
    "tags": ("TagOptions", "edit_prose", "edit_tags", "join_tags", "split_tags"),
    "tiles": ("TileOptions",),
    "vision_options": ("VisionOptions",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
