"""Flux's two text encoders: prose to T5-XXL, tags to CLIP-L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .. import captioning
from .inputs import ANY_ORDER, CATEGORY, order_input, require_texts, split_in_order, text_output

if TYPE_CHECKING:
    from ..captioning import MixedParts

LEAVE_OUT, TO_T5XXL, TO_CLIP_L = "leave out", "add to T5-XXL", "add to CLIP-L"
PROSE, NOTHING = "the prose", "nothing"

# What a CLIP's tokenizer names its encoders -> what it is.
_KNOWN_CLIPS = {
    frozenset(["l"]): "an SD 1.5 CLIP (CLIP-L alone)",
    frozenset(["h"]): "an SD 2 CLIP",
    frozenset(["g"]): "CLIP-G alone",
    frozenset(["l", "g"]): "an SDXL CLIP (CLIP-L and CLIP-G)",
    frozenset(["l", "g", "t5xxl"]): "an SD 3 CLIP (CLIP-L, CLIP-G and T5-XXL)",
    frozenset(["l", "g", "t5xxl", "llama"]): "a HiDream CLIP",
    frozenset(["t5xxl"]): "T5-XXL alone",
}


class PromptGenFluxTextEncode(io.ComfyNode):
    """Encode a mixed caption for Flux."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenFluxTextEncode",
            display_name="Flux CLIP Text Encode (PromptGen)",
            category=CATEGORY,
            description="Splits a mixed caption and encodes it for Flux: its prose with T5-XXL, its tags "
            "with CLIP-L.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="From DualCLIPLoader with clip_l and t5xxl and the type 'flux', or from a Flux "
                    "checkpoint that holds both.",
                ),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="A mixed caption (MIXED_CAPTION, MIXED_CAPTION_PLUS, LONG_PROMPT); prose or tags "
                    "alone go to both encoders.",
                ),
                io.Float.Input(
                    "guidance",
                    optional=True,
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Flux's guidance, as in CLIPTextEncodeFlux.",
                ),
                io.Combo.Input(
                    "analysis_goes",
                    options=[LEAVE_OUT, TO_T5XXL, TO_CLIP_L],
                    optional=True,
                    default=LEAVE_OUT,
                    tooltip="What to do with the analysis of MIXED_CAPTION_PLUS: what it knows is added to "
                    "one of the texts, as words without the fields' names, or left out.",
                ),
                io.Combo.Input(
                    "without_tags",
                    options=[PROSE, NOTHING],
                    optional=True,
                    default=PROSE,
                    tooltip="What CLIP-L gets when the caption has no tags.",
                ),
                order_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="The encoded caption; Flux's positive input.",
                ),
                io.Conditioning.Output(
                    "empty_conditioning",
                    display_name="empty conditioning",
                    tooltip="Empty texts encoded with the same guidance, for a negative input.",
                ),
                text_output("t5xxl", tooltip="The text that T5-XXL got."),
                io.String.Output("clip_l", display_name="clip_l", tooltip="The text that CLIP-L got."),
                text_output("analysis", tooltip="The caption's analysis, empty if it has none."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        caption: str,
        guidance: float = 3.5,
        analysis_goes: str = LEAVE_OUT,
        without_tags: str = PROSE,
        order: str = ANY_ORDER,
    ) -> Any:
        _require_flux(clip)
        require_texts(caption=caption)
        parts = split_in_order(caption, order)
        t5xxl, clip_l = texts_for_flux(parts, analysis_goes, without_tags)
        return io.NodeOutput(
            _encode(clip, t5xxl, clip_l, guidance),
            _encode(clip, "", "", guidance),
            t5xxl,
            clip_l,
            parts.analysis,
        )


def texts_for_flux(parts: MixedParts, analysis_goes: str, without_tags: str) -> tuple[str, str]:
    """What T5-XXL and what CLIP-L gets. T5-XXL gets the tags where there is no prose.

    Raises:
        ValueError: a choice that the menus do not have.
    """
    if analysis_goes not in (LEAVE_OUT, TO_T5XXL, TO_CLIP_L):
        raise ValueError(
            f"analysis_goes is {analysis_goes!r}; it takes '{LEAVE_OUT}', '{TO_T5XXL}' or '{TO_CLIP_L}'."
        )
    if without_tags not in (PROSE, NOTHING):
        raise ValueError(f"without_tags is {without_tags!r}; it takes '{PROSE}' or '{NOTHING}'.")
    t5xxl = parts.prose or parts.tags
    clip_l = parts.tags or (parts.prose if without_tags == PROSE else "")
    known = captioning.parse_analysis(parts.analysis).sentence() if parts.analysis else ""
    if known and analysis_goes == TO_T5XXL:
        t5xxl = "\n\n".join(part for part in (t5xxl, known) if part)
    if known and analysis_goes == TO_CLIP_L:
        clip_l = ", ".join(part for part in (clip_l, known) if part)
    return t5xxl, clip_l


def _encode(clip: Any, t5xxl: str, clip_l: str, guidance: float) -> Any:
    """As core's CLIPTextEncodeFlux does."""
    tokens = clip.tokenize(clip_l)
    tokens["t5xxl"] = clip.tokenize(t5xxl)["t5xxl"]
    return clip.encode_from_tokens_scheduled(tokens, add_dict={"guidance": guidance})


def _require_flux(clip: Any) -> None:
    """
    Raises:
        ValueError: the CLIP is not CLIP-L with T5-XXL.
    """
    remedy = (
        "This node needs Flux's pair of text encoders: use DualCLIPLoader with clip_l and t5xxl files and "
        "the type 'flux', or a Flux checkpoint that holds both."
    )
    if clip is None:
        raise ValueError(f"There is no CLIP: the checkpoint that was loaded has none inside. {remedy}")
    encoders = frozenset(clip.tokenize(""))
    if encoders == {"l", "t5xxl"}:
        return
    found = _KNOWN_CLIPS.get(encoders, f"text encoders called {', '.join(sorted(encoders)) or 'nothing'}")
    raise ValueError(f"The CLIP that is connected is {found}. {remedy}")
