"""Nodes on text alone: splitting mixed captions, reading analyses, editing tags."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from .. import captioning
from .inputs import (
    ANY_ORDER,
    CATEGORY,
    headed,
    order_input,
    require_texts,
    shown,
    split_in_order,
    tag_inputs,
    text_output,
)

# The fields with a switch: those that other packs' analyzers have. "All" gives the rest as well.
FIELDS = tuple(field for field in captioning.ANALYSIS_FIELDS if field != "image_composition")

PARENTHESES = {"keep": None, "escape": True, "plain": False}


class PromptGenSplitCaption(io.ComfyNode):
    """Take a mixed caption apart."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenSplitCaption",
            display_name="Split Mixed Caption",
            category=CATEGORY,
            description="Splits a mixed caption into its prose, its tags and its analysis.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="The answer to MIXED_CAPTION, MIXED_CAPTION_PLUS or LONG_PROMPT.",
                ),
                order_input(),
            ],
            outputs=[
                text_output("prose", tooltip="The sentences; for Flux, T5-XXL's part."),
                text_output("tags", tooltip="The tags; for Flux, CLIP-L's part."),
                text_output("analysis", tooltip="The named fields of MIXED_CAPTION_PLUS, or nothing."),
            ],
        )

    @classmethod
    def execute(cls, caption: str, order: str = ANY_ORDER) -> Any:
        require_texts(caption=caption)
        parts = split_in_order(caption, order)
        named = {"prose": parts.prose, "tags": parts.tags, "analysis": parts.analysis}
        text = headed({name: part for name, part in named.items() if part})
        return io.NodeOutput(*named.values(), ui=shown([text]))


class PromptGenAnalyzer(io.ComfyNode):
    """Choose from the named fields of an analysis."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenAnalyzer",
            display_name="Caption Analyzer",
            category=CATEGORY,
            description="Reads the answer to ANALYZE, or the analysis in a mixed caption, and gives the "
            "values of the fields that are switched on, as a line of text and as JSON.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "analysis",
                    multiline=True,
                    default="",
                    tooltip="The answer to ANALYZE or MIXED_CAPTION_PLUS.",
                ),
                io.Int.Input(
                    "subject_index",
                    optional=True,
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Which subject of the image, counted from 0.",
                ),
                io.Boolean.Input(
                    "all_fields",
                    display_name="all",
                    optional=True,
                    default=True,
                    tooltip="All fields, whatever is switched on below.",
                ),
                *(
                    io.Boolean.Input(
                        field,
                        optional=True,
                        default=False,
                        tooltip=f"Give the field '{field.replace('_', ' ')}'.",
                    )
                    for field in FIELDS
                ),
            ],
            outputs=[
                text_output(
                    "sentence", tooltip="The chosen values in one line, without those that are unknown (NA)."
                ),
                text_output(
                    "json", tooltip="The chosen fields of the subject as a JSON object, NA included."
                ),
            ],
        )

    @classmethod
    def execute(cls, analysis: str, subject_index: int = 0, all_fields: bool = True, **switches: bool) -> Any:
        require_texts(analysis=analysis)
        parsed = captioning.parse_analysis(captioning.split_mixed(analysis).analysis or analysis)
        subject = parsed.subject(subject_index)
        fields = list(subject) if all_fields else [name for name in FIELDS if switches.get(name)]
        sentence = parsed.sentence(fields, subject_index)
        chosen = {name: subject[name] for name in fields if name in subject}
        return io.NodeOutput(sentence, json.dumps(chosen, ensure_ascii=False, indent=2), ui=shown([sentence]))


class PromptGenEditTags(io.ComfyNode):
    """The engine's clean-up of tags, for any text of tags."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenEditTags",
            display_name="Edit Tags",
            category=CATEGORY,
            description="Cleans up tags: replace, leave out, underscores, parentheses, prefix and suffix, "
            "no tag twice. Merges two texts of tags.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "tags", multiline=True, default="", tooltip="Tags, separated by commas or line breaks."
                ),
                *tag_inputs(),
                io.Combo.Input(
                    "parentheses",
                    options=list(PARENTHESES),
                    optional=True,
                    default="keep",
                    tooltip=r"escape writes \( and \), so that ComfyUI does not take them for weights; plain "
                    "writes ( and ).",
                ),
                io.Boolean.Input(
                    "deduplicate",
                    optional=True,
                    default=True,
                    tooltip="Leave out a tag that is already there; case, underscores and escaped "
                    "parentheses make no difference.",
                ),
                io.String.Input(
                    "more_tags",
                    multiline=True,
                    optional=True,
                    default="",
                    tooltip="More tags, put after the first ones and cleaned up with them.",
                ),
            ],
            outputs=[
                io.String.Output("edited", display_name="tags", tooltip="The tags in one line."),
                io.Int.Output("count", display_name="count", tooltip="How many tags there are."),
            ],
        )

    @classmethod
    def execute(
        cls,
        tags: str,
        prefix: str = "",
        suffix: str = "",
        exclude_tags: str = "",
        replace: str = "",
        underscores: str = "keep",
        parentheses: str = "keep",
        deduplicate: bool = True,
        more_tags: str = "",
    ) -> Any:
        more_tags = "" if more_tags is None else more_tags  # a wire with nothing on it
        require_texts(
            tags=tags,
            more_tags=more_tags,
            prefix=prefix,
            suffix=suffix,
            exclude_tags=exclude_tags,
            replace=replace,
        )
        if parentheses not in PARENTHESES:
            raise ValueError(f"parentheses is {parentheses!r}; it takes {', '.join(PARENTHESES)}.")
        options = captioning.TagOptions(
            prefix=prefix,
            suffix=suffix,
            exclude=exclude_tags,
            replace=replace,
            underscores=underscores,  # type: ignore[arg-type]
            escape_parentheses=PARENTHESES[parentheses],
            deduplicate=deduplicate,
        )
        edited = captioning.edit_tags(
            [*captioning.split_tags(tags), *captioning.split_tags(more_tags)], options
        )
        text = captioning.join_tags(edited)
        return io.NodeOutput(text, len(edited), ui=shown([text]))
