"""LoRA and DoRA through the peft library: put around a network's layers, saved as peft saves them, merged.

Layers are called by their published names wherever a user sees them, in the options as in the files; so an
adapter goes with the published checkpoint in every tool that knows peft.
"""

from __future__ import annotations

import copy
import logging
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..florence2.configuration import Florence2Config
from ..florence2.conversion import converted_name
from ..florence2.loading import TIED, published_names
from ..florence2.lora import WEIGHTS, apply_changes, merged_changes, read_adapter
from ..florence2.network import Florence2Network
from .errors import TrainingError
from .freezing import nearest
from .model_options import LoraOptions

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)

_PREFIX = "base_model.model."
_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|base_layer)"
    r"(?P<rest>\..+)?"
)
_TIED_MODULES = {name.removesuffix(".weight") for name in TIED}


class Adapters:
    """The adapter that a network was given, for saving it."""

    def __init__(self, network: Florence2Network, peft_model: nn.Module, targets: Sequence[str]) -> None:
        self._config: Florence2Config = network.config
        self._model = peft_model
        self.targets = tuple(targets)  # our names of the layers with matrices beside them

    @property
    def settings(self) -> LoraConfig:
        """peft's."""
        configs: Any = self._model.peft_config
        settings: LoraConfig = configs["default"]
        return settings

    def state(self, network_state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The adapter's tensors, by the names of peft's files with our names of layers.

        Args:
            network_state: all tensors of the network, by its names, where they lie on several devices.
        """
        from peft import get_peft_model_state_dict

        given = None
        if network_state is not None:
            given = {_PREFIX + name: tensor for name, tensor in network_state.items()}
        # without looking for the base on the Hub, to see whether somebody changed its vocabulary
        state = get_peft_model_state_dict(self._model, state_dict=given, save_embedding_layers=False)
        return {name: tensor.detach() for name, tensor in state.items()}

    def save(
        self,
        folder: Path,
        base_model: str,
        *,
        converted: bool = False,
        dtype: torch.dtype = torch.float32,
        network_state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

        Args:
            base_model: what the adapter is for: a Hub id or a folder, as tools show it.
            converted: whether layers are called as in the converted format, for transformers' own class.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            self._published(name, converted): tensor.to("cpu", dtype).contiguous()
            for name, tensor in self.state(network_state).items()
        }
        path = folder / WEIGHTS[0]
        save_file(state, path, metadata={"format": "pt"})
        saved = self.settings.modules_to_save
        settings: Any = copy.copy(self.settings)
        settings.base_model_name_or_path = base_model
        settings.inference_mode = True
        settings.target_modules = self._modules(self.targets, converted)
        settings.modules_to_save = None if saved is None else self._modules(saved, converted)
        settings.save_pretrained(str(folder))
        path.chmod((folder / "adapter_config.json").stat().st_mode & 0o777)  # the library makes it private

    def merged(self, network_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's tensors, by its names without adapters, with the adapter in them, in float32.

        Raises:
            TrainingError: the adapter makes several matrices of the tied one.
        """
        self.check_merging()
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder), "", network_state=network_state)
            adapter = read_adapter(Path(folder), self._config)
            changes = merged_changes([(adapter, 1.0)])
            base = _without_adapters(network_state)
            return {
                name: apply_changes(tensor.cpu(), changes[name]) if name in changes else tensor
                for name, tensor in base.items()
            }

    def check_merging(self) -> None:
        """See that a whole checkpoint can be made.

        Raises:
            TrainingError: the adapter makes several matrices of the tied one.
        """
        if _TIED_MODULES.intersection([*self.targets, *(self.settings.modules_to_save or ())]):
            raise TrainingError(
                "lora.merge: the adapter changes the head or an embedding, which are one matrix in a "
                "checkpoint and would be several. Use it as an adapter, or leave them out of "
                "lora.target_modules and lora.modules_to_save."
            )

    def _published(self, key: str, converted: bool) -> str:
        """A key of peft's file with the published name of the layer in it."""
        name = key.removeprefix(_PREFIX)
        match = _PARTS.fullmatch(name)
        if match is None:  # a bias, or a parameter of a module that is saved as a whole
            published = published_names([name], self._config)[name]
            return _PREFIX + (converted_name(published) if converted else published)
        module = self._modules([match["module"]], converted)[0]
        return f"{_PREFIX}{module}.{match['part']}{match['rest'] or ''}"

    def _modules(self, names: Collection[str], converted: bool) -> list[str]:
        published = _published_modules(names, self._config)
        return sorted(converted_name(name) if converted else name for name in published.values())


def add_adapters(network: Florence2Network, options: LoraOptions) -> Adapters:
    """Give layers of what is not frozen in ``network`` adapters, and freeze all else.

    Raises:
        TrainingError: peft is not there, or the options name no layer that could have an adapter.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError(
            "LoRA needs the package peft. Install it with: pip install 'promptgen-tagger[train]'"
        ) from error

    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    saved = _chosen(network, options.modules_to_save, "lora.modules_to_save", _has_parameters)
    targets = [name for name in _targets(network, options.target_modules) if name not in saved]
    if not targets:
        raise TrainingError("freeze and lora.modules_to_save leave no layer for LoRA. Take something out.")
    settings = LoraConfig(
        r=options.rank,
        lora_alpha=_whole(options.alpha),
        lora_dropout=options.dropout,
        use_dora=options.use_dora,
        use_rslora=options.use_rslora,
        target_modules=targets,
        modules_to_save=saved or None,
        bias=options.bias,  # type: ignore[arg-type,unused-ignore]
    )
    peft_model = get_peft_model(network, settings)
    for name, parameter in network.named_parameters():  # biases, which peft trains whatever was frozen
        if name.replace(".base_layer.", ".") in frozen:
            parameter.requires_grad_(False)
    return Adapters(network, peft_model, targets)


def _whole(number: float) -> int:
    """As peft has it where that can be; it takes other numbers as well."""
    return int(number) if number == int(number) else number  # type: ignore[return-value]


def _targets(network: Florence2Network, wanted: Sequence[str]) -> list[str]:
    if wanted:
        return _chosen(network, wanted, "lora.target_modules", _can_be_adapted)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and name not in _TIED_MODULES
    ]


def _chosen(network: Florence2Network, wanted: Sequence[str], key: str, fits: Any) -> list[str]:
    """Our names of the modules that are not frozen and are named by ends or patterns of published names.

    A name that stands for nothing is warned of: lists of names go from one kind of model to another.

    Raises:
        TrainingError: no name stands for anything, or only for what is frozen or cannot be chosen.
    """
    modules = {name: module for name, module in network.named_modules() if _has_parameters(module)}
    published = _published_modules(list(modules), network.config)
    chosen: list[str] = []
    for pattern in wanted:
        meant = [name for name, public in published.items() if _is_meant(public, pattern)]
        if not meant:
            logger.warning(
                "%s: %r is the end of no layer's name%s.", key, pattern, nearest(pattern, published.values())
            )
        chosen += [name for name in meant if fits(modules[name])]
    free = [name for name in dict.fromkeys(chosen) if _is_trained(modules[name])]
    if wanted and not free:
        raise TrainingError(
            f"{key}: {', '.join(wanted)} stand for no layer that is trained and can have an adapter. Give "
            "ends of published names, such as q_proj, k_proj, v_proj, out_proj, fc1, fc2; qkv and proj are "
            "those of the vision tower. image_projection is no layer in the original format."
        )
    return free


def _is_meant(name: str, pattern: str) -> bool:
    return any(
        public == pattern or public.endswith(f".{pattern}") or fnmatchcase(public, pattern)
        for public in (name, converted_name(name))
    )


def _has_parameters(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)


def _can_be_adapted(module: nn.Module) -> bool:
    """Not convolutions in groups, which nothing can merge, nor embeddings, of which some are never called but
    read, past any adapter; those can be saved as a whole."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _published_modules(names: Collection[str], config: Florence2Config) -> dict[str, str]:
    """Our names of layers, to the published ones."""
    weights = published_names([f"{name}.weight" for name in names], config)
    return {name: weights[f"{name}.weight"].removesuffix(".weight") for name in names}


def _without_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors under the names they had before it was given adapters; without the adapters'."""
    base = {}
    for name, tensor in state.items():
        match = _PARTS.fullmatch(name)
        if ".modules_to_save." in name or (match is not None and match["part"] != "base_layer"):
            continue
        base[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = tensor
    return base
