"""Reading and writing configurations: YAML or JSON, ours or those of the published trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import TrainConfig
from .config_values import config_mapping, parse_config, parse_evaluation_data
from .data.options import DataOptions
from .errors import ConfigError

__all__ = [
    "config_mapping",
    "is_configuration",
    "parse_config",
    "read_config",
    "read_evaluation_data",
    "write_config",
]

_DATA = ("dataset_config", "eval_dataset_config", "dataset_path")


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
    with _named(path):
        return parse_config(raw, on_note)


def is_configuration(path: Path) -> bool:
    """Whether a file has the keys of a configuration: YAML always, JSON if it is no table."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False  # it is told as the table that it may be
    return isinstance(raw, dict) and not raw.keys().isdisjoint(_DATA)


def read_evaluation_data(path: Path) -> DataOptions:
    """The data to evaluate on in a file with the keys of configurations, of which those of data suffice:
    ``eval_dataset_config`` if it is given, else all of ``dataset_config``.

    Paths in it begin at the current folder.

    Raises:
        ConfigError: the file cannot be read, or keys or values are wrong; all of them are named.
    """
    raw = _read_mapping(path)
    with _named(path):
        return parse_evaluation_data(raw)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within, what is wrong is told with the file."""
    try:
        yield
    except ConfigError as error:
        lines = str(error).splitlines()
        told = lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
        raise ConfigError(f"{path}: {told}") from error


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a configuration as YAML, every option of it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Also quotes texts that are numbers here, such as 1e5, but not for the base."""

    _add_numbers(Dumper)
    text = yaml.dump(config_mapping(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)
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
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: it holds no keys with values, such as 'model_name: demo'")
    return {str(key): value for key, value in raw.items()}


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

    Numbers are those of JSON, and what only looks like another thing is a text: ``1e-8`` is a number, as
    YAML 1.2 has it; ``2024-11-21`` and ``12:30:45``, which YAML 1.1 takes for a day and for a number to the
    base of 60, are names of runs. ``on``, ``yes``, ``off`` and ``no`` are true and false, as published.

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

        yaml_implicit_resolvers = {  # noqa: RUF012 - as the base has it
            first: [(tag, pattern) for tag, pattern in found if tag not in _OTHERWISE]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                line = key_node.start_mark.line + 1
                if not isinstance(key_node.value, str):
                    raise ConfigError(f"a key is a list or a mapping (line {line}); a key is a name")
                if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                    raise ConfigError(f"{key_node.value}: it is given twice (line {line})")
                seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    _add_numbers(Loader)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is no YAML: {' '.join(str(error).split())}") from error


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHERWISE = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")
_EXPONENT = r"[eE][-+]?[0-9]+"
# What numbers look like, and begin with. 0042 is a text, which stays one in a name and becomes 42 elsewhere.
_NUMBERS = {
    _INT: (r"[-+]?(0|[1-9][0-9_]*)$", "-+0123456789"),
    _FLOAT: (
        rf"[-+]?([0-9][0-9_]*\.[0-9_]*({_EXPONENT})?|[0-9]+{_EXPONENT}|\.[0-9]+({_EXPONENT})?|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$",
        "-+0123456789.",
    ),
}


def _add_numbers(kind: Any) -> None:
    """Have a loader or a dumper know numbers as above."""
    for tag, (pattern, first) in _NUMBERS.items():
        kind.add_implicit_resolver(tag, re.compile(pattern), list(first))


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
    try:
        place[last] = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--set {key}={text}: {error}; quote it if it is a text") from error
