"""Nodes for tests in a real ComfyUI: pictures of every shape, a tiny Flux CLIP, and looks into the process.

Put beside the pack by ``test_comfyui_nodes.py``; core has no node that gives a list of pictures of different
sizes on every version that we support.
"""

import json
import sys
from types import SimpleNamespace

import numpy
import torch
from PIL import Image


def _folder():
    import folder_paths

    return folder_paths.get_input_directory()


class TestPictures:
    """Pictures of the input folder as a list, or as one batch; as RGB, as RGBA or as masks."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"files": ("STRING", {"multiline": True}), "form": (["list", "batch"],),
                             "mode": (["RGB", "RGBA", "L"],)}}  # fmt: skip

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, files, form, mode):
        pictures = []
        for name in files.split("\n"):
            if name:
                image = Image.open(f"{_folder()}/{name}").convert(mode)
                pictures.append(torch.from_numpy(numpy.asarray(image).astype(numpy.float32) / 255.0)[None])
        if form == "list":
            return (pictures,)
        return ([torch.cat(pictures) if pictures else torch.zeros(0, 64, 64, 3)],)


class TestTexts:
    """Shows the list of texts that it gets."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"texts": ("STRING", {"forceInput": True})}}

    RETURN_TYPES = ()
    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, texts):
        return {"ui": {"texts": texts}}


class TestClip:
    """Real text encoders with few, random parameters, always the same."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"kind": (["flux", "sd1", "sdxl", "sd3", "t5xxl", "none"],)}}

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, kind):
        import comfy.sd
        import comfy.sd1_clip
        import comfy.sdxl_clip
        import comfy.text_encoders.flux as flux
        import comfy.text_encoders.sd3_clip as sd3
        from comfy.text_encoders import genmo

        if kind == "none":
            return (None,)
        small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
        t5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
        clip, tokenizer = {
            "flux": lambda: (flux.flux_clip(), flux.FluxTokenizer),
            "sd1": lambda: (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
            "sdxl": lambda: (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
            "sd3": lambda: (sd3.sd3_clip(), sd3.SD3Tokenizer),
            "t5xxl": lambda: (genmo.mochi_te(), genmo.MochiT5Tokenizer),
        }[kind]()
        options = {"dtype": torch.float32, "clip_l_model_config": small, "clip_g_model_config": small,
                   "t5xxl_model_config": t5}  # fmt: skip
        with torch.inference_mode():
            made = comfy.sd.CLIP(
                SimpleNamespace(params={}, clip=clip, tokenizer=tokenizer), model_options=options
            )
            generator = torch.Generator().manual_seed(7)
            for parameter in made.cond_stage_model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return (made,)


class TestSameConditioning:
    """Compares two conditionings, number by number."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"a": ("CONDITIONING",), "b": ("CONDITIONING",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, a, b):
        same = len(a) == len(b) == 1 and torch.equal(a[0][0], b[0][0]) and a[0][1].keys() == b[0][1].keys()
        for key, value in a[0][1].items():
            other = b[0][1].get(key)
            same = same and (torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other)
        pooled = a[0][1].get("pooled_output") is not None
        facts = {"same": bool(same), "guidance": a[0][1]["guidance"], "norm": float(a[0][0].norm())}
        facts["pooled"] = pooled
        return {"ui": {"facts": [json.dumps(facts)]}}


class TestLoadedModels:
    """What the pack's shared manager and the host hold at this moment."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"after": ("*", {"forceInput": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802
        return True

    @classmethod
    def IS_CHANGED(cls, **_):  # noqa: N802
        return float("nan")

    RETURN_TYPES = ()
    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, after):
        from comfy import model_management

        manager = next(m for name, m in sys.modules.items() if name.endswith(".models_cache.manager"))
        infos = manager.shared_manager().loaded()
        loaded = [[info.name, info.device, info.dtype, info.in_use] for info in infos]
        held = [
            type(item.model.model).__name__ for item in model_management.current_loaded_models if item.model
        ]
        return {"ui": {"loaded": [json.dumps(loaded)], "held": held}}


class TestModules:
    """What the pack has loaded: its own modules without its name, and libraries."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"after": ("*", {"forceInput": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802
        return True

    RETURN_TYPES = ()
    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, after):
        return {"ui": {"modules": [name.rpartition("promptgen-tagger.")[2] for name in sys.modules]}}


class AnyType(str):
    """Goes with every input's type."""

    def __ne__(self, other):
        return False


class TestValues:
    """A list of whatever stands in the JSON, on a wire that fits everywhere."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"values": ("STRING", {"multiline": True})}}

    RETURN_TYPES = (AnyType("*"),)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, values):
        return (json.loads(values),)


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        TestPictures,
        TestTexts,
        TestClip,
        TestSameConditioning,
        TestLoadedModels,
        TestModules,
        TestValues,
    )
}
