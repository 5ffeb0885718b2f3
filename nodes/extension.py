"""What ComfyUI is given: the list of nodes, and on hosts that ask for it the replacements of other packs'."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .caption import PromptGenCaptions, PromptGenTagger
from .caption_folder import PromptGenCaptionFolder
from .doc_vqa import PromptGenDocVQA
from .flux import PromptGenFluxTextEncode
from .load_folder import PromptGenLoadFolder
from .lora import PromptGenLora
from .model import PromptGenModelLoader
from .paligemma import PromptGenPaliGemma
from .remote import PromptGenRemoteTagger
from .replacements import register_replacements
from .save_captions import PromptGenSaveCaptions
from .text import PromptGenAnalyzer, PromptGenEditTags, PromptGenSplitCaption
from .vision import PromptGenVision


class PromptGenExtension(ComfyExtension):
    """The pack."""

    async def on_load(self) -> None:
        """Called by current hosts only."""
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order in which the menus list them."""
        host.use_model_folders()
        return [
            PromptGenTagger,
            PromptGenCaptions,
            PromptGenVision,
            PromptGenDocVQA,
            PromptGenPaliGemma,
            PromptGenRemoteTagger,
            PromptGenModelLoader,
            PromptGenLora,
            PromptGenFluxTextEncode,
            PromptGenSplitCaption,
            PromptGenEditTags,
            PromptGenAnalyzer,
            PromptGenLoadFolder,
            PromptGenCaptionFolder,
            PromptGenSaveCaptions,
        ]
