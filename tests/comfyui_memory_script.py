"""Run within a ComfyUI checkout by ``test_comfyui_memory.py``: its memory management with a small budget.

Without a GPU, ``cpu:0`` stands for one: torch knows it as a device that is not ``cpu``, and the host's own
code keeps its books for it. Only the amount of free memory and "is this the CPU?" are told to it.

Usage: python comfyui_memory_script.py CHECKOUT PACK SCENARIO
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

CHECKOUT, PACK, SCENARIO = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
os.chdir(CHECKOUT)
sys.path.insert(0, CHECKOUT)
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

GPU = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu", 0)

import comfy.model_management as mm  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402

BUDGET = 40e6  # bytes on the device

real_free_memory = mm.get_free_memory


def free_memory(dev=None, torch_free_too=False):
    if dev is not None and dev != GPU:
        return real_free_memory(dev, torch_free_too)
    used = sum(m.model_loaded_memory() for m in mm.current_loaded_models if m.device == GPU and m.model)
    free = max(0, BUDGET - used)
    return (free, 0) if torch_free_too else free


mm.get_free_memory = free_memory
mm.is_device_cpu = lambda device: device == torch.device("cpu")
mm.get_torch_device = lambda: GPU
mm.unet_offload_device = lambda: torch.device("cpu")
mm.minimum_inference_memory = lambda: 1e6
mm.extra_reserved_memory = lambda: 0
mm.vram_state = (
    mm.VRAMState[sys.argv[-1]] if sys.argv[-1] in mm.VRAMState.__members__ else mm.VRAMState.NORMAL_VRAM
)
if SCENARIO == "novram":
    mm.vram_state = mm.VRAMState.NO_VRAM
if SCENARIO == "lowvram":
    mm.vram_state = mm.VRAMState.LOW_VRAM
mm.should_use_fp16 = lambda *args, **options: False


def load_pack() -> ModuleType:
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pack = load_pack()
host = importlib.import_module(".nodes.host", pack.__name__)
captioning = importlib.import_module(".captioning", pack.__name__)
models_cache = importlib.import_module(".models_cache", pack.__name__)
# What stands for a GPU must not have its weights rearranged as a CPU's are.
importlib.import_module(".florence2.model", pack.__name__).can_pack = lambda dtype: False
host.use_model_folders()
manager = host.manager()
PICTURE = PACK / "examples" / "circle-heart-square.png"


def caption(picture=PICTURE, model="demo", quantization="none"):
    """As a node runs: in inference mode, with a node executing."""
    from comfy_execution.utils import CurrentNodeContext

    with torch.inference_mode(), CurrentNodeContext("prompt", "1"):
        result = captioning.Captioner(
            model,
            dtype="fp32",
            feature_cache=captioning.FeatureCache(0),
            manager=manager,
            quantization=quantization,
        ).caption(picture, "CAPTION")[0]
    assert result.ok, result.error
    return result.results[0].text


class Big(torch.nn.Module):
    """A model in the place of Flux."""

    def __init__(self, megabytes):
        super().__init__()
        self.weight = torch.nn.Linear(1000, int(megabytes * 250), bias=False, dtype=torch.float32)


def big(megabytes):
    return ModelPatcher(Big(megabytes), load_device=GPU, offload_device=torch.device("cpu"))


def on_gpu():
    return sorted(
        type(m.model.model).__name__ for m in mm.current_loaded_models if m.model and m.device == GPU
    )


def loaded_bytes(name):
    return [m.model_loaded_memory() for m in mm.current_loaded_models if type(m.model.model).__name__ == name]


def load(patcher):
    from comfy_execution.utils import CurrentNodeContext

    with torch.inference_mode(), CurrentNodeContext("prompt", "2"):
        mm.load_models_gpu([patcher], force_full_load=True)


facts = {}
if SCENARIO == "push":
    facts["first"] = caption()
    facts["after_caption"] = on_gpu()
    flux = big(36)
    load(flux)
    facts["after_flux"] = on_gpu()
    facts["still_in_main_memory"] = [info.name for info in manager.loaded()]
    facts["flux_had"] = loaded_bytes("Big")[0]
    facts["second"] = caption()  # needs the room back
    facts["ours_has"] = loaded_bytes("_Weights")[0]
    facts["flux_keeps"] = sum(loaded_bytes("Big"))
    del flux
    load(medium := big(34))  # needs only a part of what ours has
    facts["ours_keeps"] = sum(loaded_bytes("_Weights"))
    facts["third"] = caption()
    del medium
    load(small := big(5))
    facts["both_fit"] = on_gpu()
    with manager.acquire("demo", dtype="fp32") as model:
        weights = model.network.language_model
        facts["tied"] = (
            weights.lm_head.weight is weights.model.shared.weight is weights.model.decoder.embed_tokens.weight
        )
        facts["inference"] = any(p.is_inference() for p in model.network.parameters())
elif SCENARIO in ("novram", "lowvram", "normal"):
    facts["texts"] = [caption(), caption()]
    facts["on_gpu"] = on_gpu()
    facts["bytes_between"] = loaded_bytes("_Weights")
    flux = big(30)
    load(flux)
    facts["texts"].append(caption())
elif SCENARIO == "quantised":
    facts["texts"] = [caption(quantization="8")]
    facts["on_gpu"] = on_gpu()
    [facts["ours_has"]] = loaded_bytes("_Weights")
    flux = big(38)
    load(flux)
    facts["after_flux"] = on_gpu()
    facts["texts"].append(caption(quantization="8"))
    with manager.acquire("demo", dtype="fp32", quantization="8") as model:
        facts["nbytes"] = model.nbytes
elif SCENARIO == "free":
    import gc
    import time
    import weakref

    caption()
    with manager.acquire("demo", dtype="fp32") as model:
        alive = weakref.ref(model)
        network = weakref.ref(model.network)
    del model
    flux = big(5)
    load(flux)
    facts["before"] = on_gpu()
    mm.unload_all_models()  # what POST /free does, outside of any node
    deadline = time.monotonic() + 20
    while alive() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
        gc.collect()
    facts["after"] = on_gpu()
    facts["loaded"] = [info.name for info in manager.loaded()]
    facts["gone"] = alive() is None and network() is None
    facts["again"] = caption()
    facts["on_gpu_again"] = on_gpu()
elif SCENARIO == "many":
    for _ in range(5):
        facts["text"] = caption()
        load(flux := big(36))
    facts["on_gpu"] = on_gpu()
    facts["models"] = len(manager.loaded())
elif SCENARIO == "cpu":  # the user asks for the CPU on a machine with a GPU
    from comfy_execution.utils import CurrentNodeContext

    with torch.inference_mode(), CurrentNodeContext("prompt", "1"):
        facts["text"] = (
            captioning.Captioner("demo", device="cpu", manager=manager)
            .caption(PICTURE, "CAPTION")[0]
            .results[0]
            .text
        )
    facts["on_gpu"] = on_gpu()
    facts["device"] = manager.loaded()[0].device
else:
    raise SystemExit(f"no scenario {SCENARIO}")
print("FACTS", json.dumps(facts))
