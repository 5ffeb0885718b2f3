"""Reading and writing configurations: YAML or JSON, ours or those of the published trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import TrainConfig
from .config_values import config_mapping, parse_config
from .errors import ConfigError

__all__ = ["config_mapping", "parse_config", "read_config", "write_config"]


def read_config(
    path: Path,
    overrides: Mapping[str, str] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> TrainConfig:
    """The configuration in a file, checked as far as that goes without looking at data or checkpoints.

    Paths in it begin at the current folder, as in the published trainer. A run without a name gets the
    file's.

    Args:
        overrides: values, as YAML, by key; ``lora.rank`` is the key of a nested one.
        on_note: told of keys that have no effect, and why.

    Raises:
        ConfigError: the file cannot be read, or keys or values are wrong; all of them are named.
    """
    raw = _read_mapping(path)
    for key, text in (overrides or {}).items():
        _override(raw, key, text)
    if raw.get("run_name") is None:
        raw["run_name"] = path.stem
    try:
        return parse_config(raw, on_note)
    except ConfigError as error:
        lines = str(error).splitlines()
        told = lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
        raise ConfigError(f"{path}: {told}") from error


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a configuration as YAML, every option of it."""
    import yaml

    text = yaml.safe_dump(config_mapping(config), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _read_mapping(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path}: a configuration is a .yaml, .yml or .json file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is not UTF-8: {error}") from error
    try:
        raw = _parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f"{path}: it holds no keys with values, such as 'model_name: demo'")
    return raw


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        raise ConfigError(f"it is no JSON: {error}") from error


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ConfigError(f"{key}: it is given twice")
        seen[key] = value
    return seen


def parse_yaml(text: str) -> Any:
    """YAML without tags, in which no mapping has a key twice.

    Raises:
        ConfigError: it is none, or pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            "configurations in YAML need pyyaml: pip install 'promptgen-tagger[train]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """Refuses what the base quietly takes."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                    raise ConfigError(
                        f"{key_node.value}: it is given twice (line {key_node.start_mark.line + 1})"
                    )
                seen.add(key_node.value if isinstance(key_node.value, str) else id(key_node))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is no YAML: {' '.join(str(error).split())}") from error


def _override(raw: dict[str, Any], key: str, text: str) -> None:
    place = raw
    *above, last = key.split(".")
    for name in above:
        nested = place.get(name)
        if nested is None or nested is True:
            nested = place[name] = {}
        if not isinstance(nested, dict):
            raise ConfigError(f"{key}: {name} is no group of options")
        place = nested
    place[last] = parse_yaml(text)
