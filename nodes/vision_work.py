"""What the vision nodes do when they run: settings to options, answers to pictures, masks, boxes and texts.

Apart from the nodes' schemas because it needs the whole engine, and ComfyUI's start must not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker

from ..captioning import (
    CaptionOptions,
    GenerationOptions,
    Instruction,
    RegionCaption,
    RegionOcrText,
    Regions,
    Result,
    VisionOptions,
    as_rgb,
    boxes_text,
    draw_masks,
    draw_overlay,
    find_instruction,
    iterate_masks,
    mask_boxes,
)
from ..captioning.region_prompts import NoRegionsError, join_region_answers, region_boxes
from ..captioning.region_selection import gives_regions, require_somewhere, select_in_record, select_regions
from ..captioning.regions import REGION_KINDS, Region
from ..captioning.tiles import TileOptions, is_tileable
from ..captioning.vision_options import DEFAULT_REGION_MODEL
from ..models_cache import find_entry, free_bytes
from . import host
from .inputs import frames, no_images, require_texts
from .model import ModelChoice
from .work import Settings, Work, caption_all

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

SHARE_OF_FREE_MEMORY = 0.5
"""The most of it that the masks of single objects may take."""

_ENGINE_INPUTS = ("checkpoint", "model", "num_beams", "max_new_tokens")
_PER_FRAME = ("text_input", "regions")
_SPECK = 1e-4  # of a mask: smaller parts are what a brush has left


@dataclass(frozen=True)
class VisionSettings(Settings):
    """What the engine is asked, besides the instruction."""

    checkpoint: str = DEFAULT_REGION_MODEL
    # a phrase, a question, or regions ("": there are none); None: none is taken
    text_input: str | None = None
    vision: VisionOptions = field(default_factory=VisionOptions)

    def options(self) -> CaptionOptions:
        """See :meth:`.Settings.options`."""
        require_texts(checkpoint=self.checkpoint)
        generation = GenerationOptions(num_beams=self.num_beams, max_new_tokens=self.max_new_tokens)
        return CaptionOptions(generation=generation, text_input=self.text_input, vision=self.vision)


@dataclass(frozen=True)
class Drawing:
    """How what was found is drawn and cut out. In pixels."""

    fill: bool = True
    grow: float = 0.0
    feather: float = 0.0
    margin: int = 0


@dataclass(frozen=True)
class Batch:
    """Pictures of one size, and what is asked about them."""

    pictures: list[numpy.ndarray]  # [H, W, C] float, 0 to 1
    instruction: Instruction
    settings: list[VisionSettings]  # one per picture
    select: str
    drawing: Drawing
    has_mask: bool = False  # of regions

    @property
    def questions(self) -> list[Work]:
        """One for each picture, but for those without a region to ask about."""
        return [
            Work(torch.from_numpy(picture)[None], (self.instruction.name,), settings)
            for picture, settings in zip(self.pictures, self.settings, strict=True)
            if settings.text_input != ""
        ]

    def results(self, answers: Iterator[Result]) -> list[Result]:
        """One for each picture: what was answered, or a result without regions where nothing was asked."""
        return [
            join_region_answers(self.instruction, (), ()) if settings.text_input == "" else next(answers)
            for settings in self.settings
        ]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Batch:
        """From the values of the node's inputs.

        Raises:
            ValueError: one of them is of another kind, or missing for this task.
        """
        values = dict(row)
        task, select = values.pop("task", "OD"), values.pop("select", "")
        require_texts(task=task, select=select)
        instruction = find_instruction(task)
        pictures = frames(values.pop("image", None))
        phrases, regions = (_one_each(name, values.pop(name, ""), pictures) for name in _PER_FRAME)
        drawing = Drawing(
            bool(values.pop("fill", True)),
            _number(values, "mask_grow"),
            _number(values, "mask_feather"),
            int(_number(values, "crop_margin")),
        )
        vision = _vision_options(instruction, values)
        mask = values.pop("region_mask", None)
        asked = _text_inputs(instruction, phrases, regions, mask, pictures)
        # A replaced node of another pack may have more inputs, see replacements.py.
        known = {name: values[name] for name in _ENGINE_INPUTS if name in values}
        settings = [VisionSettings(text_input=text, vision=vision, **known) for text in asked]
        has_mask = instruction.input == "region" and mask is not None
        return cls(pictures, instruction, settings, select, drawing, has_mask)

    @property
    def has_places(self) -> bool:
        """Whether the answers are about places: found, or asked about."""
        return gives_regions(self.instruction.name)


def _vision_options(instruction: Instruction, values: dict[str, Any]) -> VisionOptions:
    """Takes them out of ``values``. A task that finds no regions has no use for most of them."""
    threshold, nms = _number(values, "threshold"), _number(values, "nms", 1)
    scores, most = bool(values.pop("scores", False)), int(_number(values, "max_regions"))
    tiling, size = values.pop("tiling", "off"), int(_number(values, "tile_size"))
    if tiling not in ("off", "auto"):
        raise ValueError(f"tiling is {tiling!r}; it takes off or auto.")
    options = VisionOptions()
    if instruction.answer in REGION_KINDS:
        options = VisionOptions(scores, threshold or None, most or None, nms if nms < 1 else None)
    if tiling == "auto" and is_tileable(instruction):
        options = dataclasses.replace(options, tile=TileOptions(size or None))
    return options


def _number(values: dict[str, Any], name: str, default: float = 0) -> float:
    """Takes it out of ``values``.

    Raises:
        ValueError: the value, which may have come over a wire of any type, is none.
    """
    value = values.pop(name, default)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"The input '{name}' got {value!r:.80}; it takes a number. Look at what is connected to it."
        )
    return float(value)


# What is asked ----------------------------------------------------------------------------


def with_their_frames(lists: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Texts of which there is one for each frame, as our nodes give them, put together by batch."""
    counts = [len(frames(image)) for image in lists.get("image", ())]
    together = dict(lists)
    for name in _PER_FRAME:
        texts = lists.get(name, [])
        if len(texts) == sum(counts) > len(counts):
            left = iter(texts)
            together[name] = [tuple(itertools.islice(left, count)) for count in counts]
    return together


def _one_each(name: str, text: Any, pictures: Sequence[numpy.ndarray]) -> list[str]:
    """A text for each picture: one for all, or see :func:`with_their_frames`."""
    texts = list(text) if isinstance(text, tuple) else [text] * len(pictures)
    for one in texts:
        require_texts(**{name: one})
    return texts


def _text_inputs(
    instruction: Instruction,
    phrases: list[str],
    regions: list[str],
    mask: Any,
    pictures: Sequence[numpy.ndarray],
) -> Sequence[str | None]:
    """What the engine gets as text input, for each picture. What is wrong is said before anything is done."""
    if instruction.input == "none":
        return [None] * len(pictures)
    if instruction.input == "text":
        for number, phrase in enumerate(phrases):
            if not phrase.strip():
                which = f" for frame {number}" if len(set(phrases)) > 1 else ""
                raise ValueError(
                    f"{instruction.name} needs a text input{which}. Write into 'text_input' what it is "
                    f"about: {instruction.summary[0].lower()}{instruction.summary[1:]}"
                )
        return phrases
    if mask is not None:
        return list(_boxes_of_mask(mask, pictures))
    if not any(text.strip() for text in regions):
        raise ValueError(
            f"{instruction.name} needs regions. Connect a mask to 'region mask', or write boxes into "
            "'regions': left,top,right,bottom in pixels or from 0 to 1."
        )
    return [_checked_regions(text, picture) for text, picture in zip(regions, pictures, strict=True)]


def _checked_regions(text: str, picture: numpy.ndarray) -> str:
    """The same text; "" if it is an earlier result in which nothing was found, or nothing at all.

    Raises:
        InstructionError: it cannot be read, or a region is not within the picture.
    """
    if not text.strip():
        return ""
    try:
        region_boxes(text, (picture.shape[1], picture.shape[0]))
    except NoRegionsError:
        return ""
    return text


def _boxes_of_mask(mask: Any, pictures: Sequence[numpy.ndarray]) -> Iterator[str]:
    """The boxes around the parts of each mask, "" of an empty one. Of fewer masks than pictures the last is
    for all others."""
    if not hasattr(mask, "detach") or mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ValueError(f"The region mask is {_kind(mask)}, no mask. Connect a MASK output.")
    masks = mask.detach().cpu().float().reshape(-1, *mask.shape[-2:]).numpy()
    for number, picture in enumerate(pictures):
        shown = masks[min(number, len(masks) - 1)]
        least = max(1, round(shown.size * _SPECK))
        yield boxes_text(mask_boxes(shown, (picture.shape[1], picture.shape[0]), least_pixels=least))


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"of the shape {list(shape)}"


# What is answered -------------------------------------------------------------------------


@dataclass
class Seen:
    """The node's outputs, and what is shown on it."""

    overlay: list[Any] = field(default_factory=list)  # [B, H, W, 3] per batch
    mask: list[Any] = field(default_factory=list)  # [B, H, W] per batch
    object_masks: list[Any] = field(default_factory=list)  # [1, H, W] per object
    text: list[str] = field(default_factory=list)  # per picture
    json: list[str] = field(default_factory=list)  # per picture
    boxes: list[Any] = field(default_factory=list)  # per picture
    bounding_boxes: list[Any] = field(default_factory=list)  # per batch
    crops: list[Any] = field(default_factory=list)  # [1, h, w, C] per object
    count: list[Any] = field(default_factory=list)  # per picture
    shown: list[str] = field(default_factory=list)

    def outputs(self) -> tuple[list[Any], ...]:
        """In the order of the schema."""
        return (
            self.overlay, self.mask, self.object_masks, self.text, self.json, self.boxes,
            self.bounding_boxes, self.crops, self.count,
        )  # fmt: skip


def see_all(batches: Sequence[Batch], *, per_object: bool = True) -> Seen:
    """Ask about all pictures of all batches, and draw what was found.

    Args:
        batches: in order.
        per_object: whether to make a mask for each object.

    Raises:
        ValueError: there is no picture, a setting is outside its range, all region masks are empty, what is
            selected is nowhere, or the masks of single objects would take more of the memory than they may.
        ModelFilesError: the checkpoint is not there and cannot be had.
        InterruptProcessingException: the user cancelled.
    """
    if not batches:
        raise no_images()
    work = [question for batch in batches for question in batch.questions]
    if not work and any(batch.has_mask for batch in batches):
        raise ValueError(
            "The region mask is empty. Paint over what the question is about, for example in the mask editor "
            "of Load Image."
        )
    answers = iter([result for (result,) in caption_all(work)] if work else [])
    looks = [Look(batch, batch.results(answers)) for batch in batches]
    _require_found(looks)
    if per_object:
        _require_memory(looks)
    seen = Seen()
    for look in looks:
        look.describe(seen)
        if look.batch.has_places:
            look.draw(seen, per_object=per_object)
        else:
            look.block(seen)
    _block_empty(seen, looks, per_object)
    return seen


class Look:
    """The answers about one batch."""

    def __init__(self, batch: Batch, results: Sequence[Result]) -> None:
        self.batch = batch
        self.all = list(results)
        self.selected: list[tuple[Region, ...]] = [
            select_regions(found, batch.select, missing_ok=True) for found in map(_regions, results)
        ]

    def describe(self, seen: Seen) -> None:
        """Texts, JSON, and what is shown."""
        for picture, settings, whole, regions in zip(
            self.batch.pictures, self.batch.settings, self.all, self.selected, strict=True
        ):
            record = select_in_record(whole.to_dict(), self.batch.select, missing_ok=True)
            seen.text.append(record["text"])
            size = {"width": picture.shape[1], "height": picture.shape[0]}
            seen.json.append(json.dumps({**size, **record}, ensure_ascii=False))
            note = not_trained(settings.choice, self.batch.instruction.name)
            lines = _numbered(whole, regions) if self.batch.has_places else whole.text
            cut = f"Cut off after {settings.max_new_tokens} tokens." if whole.truncated else ""
            seen.shown.append("\n\n".join(part for part in (note, lines, cut) if part))

    def draw(self, seen: Seen, *, per_object: bool) -> None:
        """Everything that has to do with places."""
        drawing = self.batch.drawing
        overlays, masks, boxes = [], [], []
        for picture, regions in zip(self.batch.pictures, self.selected, strict=True):
            host.heed_cancel()
            image = as_rgb(picture)
            overlays.append(_tensor(draw_overlay(image, regions, fill=drawing.fill)))
            soft = {"grow": drawing.grow, "feather": drawing.feather}
            masks.append(_tensor(draw_masks(regions, image.size, per_object=False, **soft)[0]))
            if per_object:
                for mask in iterate_masks(regions, image.size, per_object=True, **soft):
                    host.heed_cancel()
                    seen.object_masks.append(_tensor(mask)[None])
            seen.crops.extend(_crops(picture, image, regions, drawing.margin))
            placed = [list(region.box) for region in regions if region.box is not None]
            seen.boxes.append(placed or ExecutionBlocker(None))
            boxes.append([_bounding_box(region, image.size) for region in regions if region.box is not None])
            seen.count.append(len(regions))
        seen.overlay.append(torch.stack(overlays))
        seen.mask.append(torch.stack(masks))
        seen.bounding_boxes.append(boxes)

    def block(self, seen: Seen) -> None:
        """Of a task that answers in words: no pictures, and nothing that stands for them."""
        for values in (seen.overlay, seen.mask, seen.bounding_boxes):
            values.append(_answers_in_words(self.batch))
        for values in (seen.boxes, seen.count):
            values.extend(_answers_in_words(self.batch) for _ in self.batch.pictures)


def not_trained(choice: ModelChoice, instruction: str) -> str:
    """What to say on the node of a model that does not know the task; nothing if it does, or if it has learnt
    who knows what from LoRAs."""
    entry = find_entry(choice.checkpoint)
    if entry is None or not entry.instructions or instruction in entry.instructions or choice.loras:
        return ""
    better = "Florence-2-DocVQA" if instruction == "DOCVQA" else DEFAULT_REGION_MODEL
    return f"{entry.name} was not trained on {instruction}: its answer may make no sense. {better} was."


def _regions(result: Result) -> tuple[Region, ...]:
    return result.regions if isinstance(result, (Regions, RegionCaption, RegionOcrText)) else ()


def _numbered(whole: Result, selected: Sequence[Region]) -> str:
    """One line for each region with the number by which it is selected."""
    kept = set(map(id, selected))
    lines = [
        " ".join(part for part in (f"{number}:", region.label, _score(region)) if part)
        for number, region in enumerate(_regions(whole))
        if id(region) in kept
    ]
    return "\n".join(lines) or "nothing found"


def _score(region: Region) -> str:
    return "" if region.score is None else f"{region.score:.2f}"


# Boxes and cut-outs -----------------------------------------------------------------------


def _pixels(region: Region, size: tuple[int, int], margin: int = 0) -> tuple[int, int, int, int]:
    """The whole pixels that a region's box touches and ``margin`` more, within the picture; one at least."""
    assert region.box is not None
    edges = []
    for low, high, length in zip(region.box[:2], region.box[2:], size, strict=True):
        first = min(max(math.floor(low) - margin, 0), length - 1)
        edges.append((first, min(max(math.ceil(high) + margin, first + 1), length)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _bounding_box(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = _pixels(region, size)
    box: dict[str, Any] = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    box["label"] = region.label
    if region.score is not None:
        box["score"] = region.score
    return box


def _crops(
    picture: numpy.ndarray, image: Image, regions: Sequence[Region], margin: int
) -> Iterator[torch.Tensor]:
    """``[1, h, w, 3]`` of each region that has a place."""
    pixels = torch.from_numpy(picture) if picture.shape[-1] == 3 else _tensor(image)
    for region in regions:
        if region.box is not None:
            left, top, right, bottom = _pixels(region, image.size, margin)
            yield pixels[None, top:bottom, left:right].clone()


def _tensor(image: Image) -> torch.Tensor:
    """``[H, W, 3]`` of an RGB image, ``[H, W]`` of a mask; float32, 0 to 1."""
    import numpy as np

    return torch.from_numpy(np.array(image)).float().div_(255)


# What there is none of --------------------------------------------------------------------


def _answers_in_words(batch: Batch) -> Any:
    return ExecutionBlocker(
        f"the task {batch.instruction.name} answers in words, so Florence-2 Vision Tasks has only 'text' "
        f"and 'json' for it. Choose a task that finds regions, such as {_with_regions(batch)}, or "
        "disconnect what hangs on the other outputs."
    )


def _with_regions(batch: Batch) -> str:
    return "OCR_WITH_REGION" if batch.instruction.name == "OCR" else "OD"


def _block_empty(seen: Seen, looks: Sequence[Look], per_object: bool) -> None:
    """A list of nothing would be an error of the host's; what is connected does not run instead."""
    wordy = [look.batch for look in looks if not look.batch.has_places]
    nothing: Callable[[], Any] = lambda: ExecutionBlocker(None)  # noqa: E731
    if len(wordy) == len(looks):
        nothing = lambda: _answers_in_words(wordy[0])  # noqa: E731
    elif not per_object:
        seen.object_masks.append(
            ExecutionBlocker(
                "the masks of single objects are switched off at Florence-2 Vision Tasks. Switch 'object "
                "masks' on, or disconnect what hangs on them."
            )
        )
    for values in (seen.object_masks, seen.crops):
        if not values:
            values.append(nothing())


def _require_found(looks: Sequence[Look]) -> None:
    """
    Raises:
        ValueError: something is selected that is in no picture, though something else is.
    """
    found: dict[str, list[Sequence[Region]]] = {}
    for look in looks:
        found.setdefault(look.batch.select, []).extend(map(_regions, look.all))
    for select, pictures in found.items():
        try:
            require_somewhere(pictures, select)
        except ValueError as error:
            raise ValueError(f"Nothing to select: {error}") from error


def _require_memory(looks: Sequence[Look]) -> None:
    """
    Raises:
        ValueError: a mask for each object would take more of the memory than they may.
    """
    count, taken = 0, 0
    for look in looks:
        for picture, regions in zip(look.batch.pictures, look.selected, strict=True):
            count += len(regions)
            taken += 4 * picture.shape[0] * picture.shape[1] * len(regions)
    free = free_bytes(torch.device("cpu"))
    if free is not None and taken > free * SHARE_OF_FREE_MEMORY:
        raise ValueError(
            f"The masks of {count} single objects would take {taken / 2**30:.2f} GB, and of the "
            f"{free / 2**30:.2f} GB of memory that are free they may take {SHARE_OF_FREE_MEMORY:.0%}. Switch "
            "'object masks' off, raise 'threshold', or give fewer or smaller images at a time."
        )
