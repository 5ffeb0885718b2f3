"""Nodes of other packs that ours stand in for, on hosts that know node replacement (0.14 and later).

The host puts ours in the place of a node that is not installed: in the browser when a workflow is opened and
the user agrees, and on the server when such a prompt is queued. It renames inputs, sets values and moves
outputs; it does not translate values. So ours take the values that users had: ``promptgen_base_v2.0`` is an
alias in the catalogue of checkpoints, ``extra_mixed`` one in the table of instructions.

What to know of the host's two ways, for whoever changes the table:

* The browser finds a saved value by its place in ``old_widget_ids``. Saved lists differ from release to
  release; ``web/js/oldWidgets.js`` brings them into this order. It moves the links of the inputs and outputs
  that are named, and drops all others.
* The server finds a value by its name, and fails if the prompt lacks it. So only inputs are named that every
  prompt has, or is given before the server looks (``complete_inputs``). In some prompts it changes a
  link after it has renamed the input to which the link leads, and fails if it cannot find the old name. So an
  input that another of these nodes feeds keeps it as well.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from comfy_api import latest

from .limits import MOST_BEAMS, MOST_NEW_TOKENS

logger = logging.getLogger(__name__)

# The switches of Miaoshouai_Caption_Analyzer, in their order; ours have the same names.
_ANALYZER_FIELDS = (
    "camera_angle", "art_style", "location", "text", "distance_to_camera", "background",
    "position_in_image", "gender", "age", "hair_style", "hair_color", "facial_expression",
    "eye_direction", "facing_direction", "race", "ear", "expression", "body", "accessory",
    "pants", "clothing", "shoes", "action",
)  # fmt: skip


# What loads a checkpoint for Florence2Run. Lists that older releases saved are shorter, as are its own.
_LOADERS = ("DownloadAndLoadFlorence2Model", "Florence2ModelLoader")
_LOADER_WIDGETS = ("model", "precision", "attention", "convert_to_safetensors")

# What prompts may lack: optional inputs, and those that older releases did not have yet.
_LOADER_DEFAULTS = {"precision": "fp16", "lora": None}
_DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LOADERS, _LOADER_DEFAULTS),
    "Florence2Run": {"max_new_tokens": 1024, "num_beams": 3, "output_mask_select": ""},
    "Miaoshouai_Tagger": {"prefix_caption": "", "suffix_caption": "", "replace_tags": ""},
}

# Theirs allowed more: answers longer than the model has places for, and very many candidates.
_MOST = {"max_new_tokens": MOST_NEW_TOKENS, "num_beams": MOST_BEAMS}
_WITH_MOST = ("Florence2Run", "Miaoshouai_Tagger")


def _renamed(**old_by_new: str) -> list[dict[str, Any]]:
    return [{"new_id": new, "old_id": old} for new, old in old_by_new.items()]


REPLACEMENTS: tuple[dict[str, Any], ...] = (
    {
        # With an image connected. One with a folder instead becomes two of ours in the browser: before this
        # replacement, web/js/oldFolders.js puts a node that loads the folder in front of it. On the server,
        # which cannot do that, the replaced node says that it lacks an image. The sampling of
        # "random_prompt: always" had no seed.
        "old_node_id": "Miaoshouai_Tagger",
        "new_node_id": "PromptGenTagger",
        "old_widget_ids": [
            "model", "folder_path", "caption_method", "max_new_tokens", "num_beams", "random_prompt",
            "prefix_caption", "suffix_caption", "replace_tags",
        ],
        "input_mapping": _renamed(
            image="images",
            checkpoint="model",
            instruction="caption_method",
            num_beams="num_beams",
            max_new_tokens="max_new_tokens",
            prefix="prefix_caption",
            suffix="suffix_caption",
            replace="replace_tags",
        ),
        # images, filenames, captions, folder_path, batch_size -> caption, tags
        "output_mapping": [{"old_idx": 2, "new_idx": 0}],
    },
    {
        # Ours knows its modes by the same names. A caption file is called after its image, without a prefix.
        "old_node_id": "Miaoshouai_SaveTags",
        "new_node_id": "PromptGenSaveCaptions",
        "old_widget_ids": ["save_folder", "filename_prefix", "mode"],
        "input_mapping": _renamed(
            captions="captions", filenames="filenames", folder="save_folder", mode="mode"
        ),
        # captions -> saved captions, paths
        "output_mapping": [{"old_idx": 0, "new_idx": 0}],
    },
    {
        # What becomes of the analysis and of a missing part is left to our defaults: the analysis does not
        # leak into CLIP-L.
        "old_node_id": "Miaoshouai_Flux_CLIPTextEncode",
        "new_node_id": "PromptGenFluxTextEncode",
        "old_widget_ids": ["guidance"],
        "input_mapping": _renamed(clip="clip", caption="caption", guidance="guidance"),
        # CONDITIONING, EMPTY CONDITIONING, t5xxl, clip_l, analyze
        "output_mapping": [{"old_idx": index, "new_idx": index} for index in range(5)],
    },
    {
        # Their subject_index 0 is all subjects, 1 the first; ours counts from 0. Left at the first.
        "old_node_id": "Miaoshouai_Caption_Analyzer",
        "new_node_id": "PromptGenAnalyzer",
        "old_widget_ids": ["subject_index", *_ANALYZER_FIELDS],
        "input_mapping": [
            {"new_id": "analysis", "old_id": "analyze"},
            {"new_id": "analyze", "old_id": "analyze"},  # for links that the server changes later; see above
            {"new_id": "all_fields", "set_value": False},
            *({"new_id": field, "old_id": field} for field in _ANALYZER_FIELDS),
        ],
        # selected analyze -> sentence, json
        "output_mapping": [{"old_idx": 0, "new_idx": 0}],
    },
    {
        # Captions are among its tasks: ours takes them, too, answers in text, and has no pictures to give for
        # them, where theirs gave black ones. Theirs drew words at random unless told not to, with a seed;
        # ours takes the most likely ones, as a box does not get better by chance.
        "old_node_id": "Florence2Run",
        "new_node_id": "PromptGenVision",
        "old_widget_ids": [
            "text_input", "task", "fill_mask", "keep_model_loaded", "max_new_tokens", "num_beams",
            "do_sample", "output_mask_select", "seed",
        ],
        "input_mapping": [
            *_renamed(
                image="image",
                text_input="text_input",
                task="task",
                fill="fill_mask",
                max_new_tokens="max_new_tokens",
                num_beams="num_beams",
                select="output_mask_select",
                model="florence2_model",
            ),
            {"new_id": "checkpoint", "set_value": "Florence-2-base-ft"},  # must be there; 'model' is used
            # for links that the server changes later, see above
            {"new_id": "florence2_model", "old_id": "florence2_model"},
        ],
        # image, mask, caption, data, bbox_count -> overlay, mask, object masks, text, json, boxes, bounding
        # boxes, crops, count. What reads 'data', which has another form for each task, can take our 'boxes'.
        "output_mapping": [
            {"old_idx": old, "new_idx": new} for old, new in ((0, 0), (1, 1), (2, 3), (4, 8))
        ],
    },
    *(
        {
            # Names of the Hub, or of folders in models/LLM: ours knows both. Files of weights stay as they
            # are, and there is one kind of attention.
            "old_node_id": old,
            "new_node_id": "PromptGenModelLoader",
            "old_widget_ids": list(_LOADER_WIDGETS),
            "input_mapping": _renamed(checkpoint="model", precision="precision", lora="lora"),
            # florence2_model -> model
            "output_mapping": [{"old_idx": 0, "new_idx": 0}],
        }
        for old in _LOADERS
    ),
    {
        # Names of the Hub, which ours knows. Theirs had no strength.
        "old_node_id": "DownloadAndLoadFlorence2Lora",
        "new_node_id": "PromptGenLora",
        "old_widget_ids": ["model"],
        "input_mapping": [*_renamed(lora="model"), {"new_id": "strength", "set_value": 1.0}],
        # lora -> LoRA
        "output_mapping": [{"old_idx": 0, "new_idx": 0}],
    },
)  # fmt: skip
"""As ``io.NodeReplace`` takes them."""


def complete_inputs(message: dict[str, Any]) -> dict[str, Any]:
    """What was sent to be queued, in which nodes that will be replaced have all inputs that are looked for,
    as their pack would fill them in, and no number that is larger than ours take."""
    from nodes import NODE_CLASS_MAPPINGS as INSTALLED

    prompt = message.get("prompt")
    for node in prompt.values() if isinstance(prompt, dict) else ():
        kind = node.get("class_type") if isinstance(node, dict) else None
        if isinstance(kind, str) and kind not in INSTALLED and isinstance(node.get("inputs"), dict):
            _complete(kind, node["inputs"])
    return message


def _complete(kind: str, inputs: dict[str, Any]) -> None:
    for name, value in _DEFAULTS.get(kind, {}).items():
        inputs.setdefault(name, value)
    if kind in _WITH_MOST:
        for name, most in _MOST.items():
            if isinstance(inputs.get(name), int):
                inputs[name] = min(inputs[name], most)


async def register_replacements() -> None:
    """Tell the host. One that does not know of replacements, or knows them in another way, is left alone: the
    nodes do without."""
    node_replace = getattr(latest.io, "NodeReplace", None)
    if node_replace is None:
        return
    try:
        from server import PromptServer

        PromptServer.instance.add_on_prompt_handler(complete_inputs)
        registry = latest.ComfyAPI().node_replacement
        for replacement in REPLACEMENTS:
            done = registry.register(node_replace(**replacement))
            if inspect.isawaitable(done):
                await done
    except Exception:
        logger.warning("Nodes of other packs cannot be replaced on this ComfyUI.", exc_info=True)
