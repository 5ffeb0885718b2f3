"""From the keys and values of a configuration file to options, and back."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .config import TrainConfig, group_fields
from .config_keys import FIELD_OF_KEY, NESTED_NAMES, nearest_key, nearest_nested_key, translate
from .data.options import DataOptions, DataSource
from .errors import ConfigError

__all__ = ["config_mapping", "parse_config", "parse_evaluation_data"]

_KEY_OF_FIELD = {field: key for key, field in FIELD_OF_KEY.items()}


def parse_config(raw: Mapping[str, Any], on_note: Callable[[str], None] = lambda _: None) -> TrainConfig:
    """The configuration that a file's mapping stands for.

    Args:
        on_note: told of keys that have no effect, and why.

    Raises:
        ConfigError: keys or values are wrong; one line for each.
    """
    values, spoilt, wrong = _parsed(raw, on_note)
    kinds = get_type_hints(TrainConfig)
    groups = {}
    for group in (one for one in kinds if one not in spoilt):
        try:
            groups[group] = _build(kinds[group], values[group])
        except ValueError as error:
            wrong.append(_in_keys(str(error)))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return TrainConfig(**groups)


def parse_evaluation_data(raw: Mapping[str, Any]) -> DataOptions:
    """The data to evaluate on that a file's mapping stands for: a configuration's, of which ``model_name``
    and all else may be missing. ``sources`` are those of ``eval_dataset_config`` if that is given.

    Raises:
        ConfigError: keys or values are wrong; one line for each.
    """
    values, _, wrong = _parsed(raw, lambda note: None)
    if wrong:
        raise ConfigError("\n".join(wrong))
    data = values["data"]
    held_out = data.pop("eval_sources", ())
    try:
        options: DataOptions = _build(DataOptions, data | ({"sources": held_out} if held_out else {}))
    except ValueError as error:
        raise ConfigError(_in_keys(str(error))) from error
    return options


def _parsed(
    raw: Mapping[str, Any], on_note: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], set[str], list[str]]:
    """Values by the group and the name of their options; groups that cannot be built; and what is wrong."""
    keys, wrong = translate(raw, on_note)
    group_of = group_fields()
    kinds = get_type_hints(TrainConfig)
    values: dict[str, dict[str, Any]] = {group: {} for group in kinds}
    spoilt: set[str] = set()
    for key, value in keys.items():
        name = FIELD_OF_KEY.get(key, key)
        if name not in group_of or key in _KEY_OF_FIELD:
            wrong.append(f"{key}: there is no such key{nearest_key(key, map(_key_of, group_of))}")
            continue
        group = group_of[name]
        hint = get_type_hints(kinds[group])[name]
        try:
            if value is not None or _takes_none(hint):  # else blank, which stands for the default
                values[group][name] = _field_value(key, value, hint)
        except ConfigError as error:
            wrong.extend(str(error).splitlines())
            spoilt.add(group)
    return values, spoilt, wrong


def config_mapping(config: TrainConfig) -> dict[str, Any]:
    """What a file with this configuration holds: plain values, which :func:`parse_config` takes back."""
    groups = [getattr(config, one.name) for one in fields(TrainConfig)]
    return {_key_of(one.name): _plain(getattr(group, one.name)) for group in groups for one in fields(group)}


def _in_keys(told: str) -> str:
    """A message that begins with an option, with what files call it."""
    name = re.match(r"\w*", told)
    return told if name is None else _key_of(name[0]) + told[name.end() :]


def _key_of(field: str) -> str:
    """What files call an option."""
    return _KEY_OF_FIELD.get(field, field)


def _build(group: type, values: Mapping[str, Any]) -> Any:
    """
    Raises:
        ConfigError: a field that has no default is missing.
        ValueError: the group does not take a value.
    """
    missing = [
        _key_of(one.name)
        for one in fields(group)
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: must be given")
    return group(**values)


def _takes_none(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    rest = [one for one in get_args(hint) if one is not type(None)]
    return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 - made at run time


def _field_value(key: str, value: Any, hint: Any) -> Any:
    """What an option of the type ``hint`` gets for what a file says.

    Raises:
        ConfigError: it says something else.
    """
    if value is None:
        return None
    if value == "None" and _takes_none(hint):  # Python's, which YAML takes for a text
        raise ConfigError(f"{key}: None is a text here; leave it blank, or write null")
    if hint == tuple[DataSource, ...]:
        return tuple(_sources(key, value))
    hint = _without_none(hint)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _nested(key, value, hint)
    return _converted(key, value, hint)


def _nested(key: str, value: Any, hint: type) -> Any:
    """A group within a group: ``lora: {rank: 8}``; ``lora: true`` for one as it is, false for none."""
    if value is True:
        value = {}
    if value is False:
        return None if hint.__name__ == "LoraOptions" else hint()
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: {value!r} is no group of options, such as {{{fields(hint)[0].name}: …}}")
    hints = get_type_hints(hint)
    wrong, given = [], {}
    for name, one in value.items():
        if name not in hints:
            wrong.append(f"{key}.{name}: there is no such key{nearest_nested_key(str(name), hints)}")
        elif one is not None or _takes_none(hints[name]):
            try:
                given[name] = _field_value(f"{key}.{name}", one, hints[name])
            except ConfigError as error:
                wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))
    try:
        return _build(hint, given)
    except ValueError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(key) else f"{key}: {told}") from error


def _converted(key: str, value: Any, hint: Any) -> Any:
    """A value of a plain type: texts of numbers are numbers (YAML takes 3e-6 for a text)."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if isinstance(value, bool) and hint in (int, float, str):
        raise ConfigError(f"{key}: {str(value).lower()} is no {'text' if hint is str else 'number'}")
    if hint == tuple[str, ...] and isinstance(value, str):
        value = (value,)
    if hint is Path and value == "":
        raise ConfigError(f"{key}: it is empty; write . for the current folder")
    try:
        made = TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True)).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{key}: {first['msg']}, not {value!r}") from error
    return made.expanduser() if isinstance(made, Path) else made


def _sources(key: str, value: Any) -> list[DataSource]:
    """A folder or table, a list of them, or as older published files have it, lists by instruction."""
    if isinstance(value, Mapping) and not _is_source(value):
        return [
            source
            for instruction, places in value.items()
            for place in _listed(places)
            for source in [_source(f"{key}.{instruction}", place, str(instruction))]
        ]
    return [_source(key, place) for place in _listed(value)]


def _is_source(given: Mapping[str, Any]) -> bool:
    """Whether a mapping tells of one source, also if it calls its folder by another name."""
    known = {*get_type_hints(DataSource), *NESTED_NAMES}
    return any(key in known for key in given)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _source(key: str, place: Any, instruction: str | None = None) -> DataSource:
    given = dict(place) if isinstance(place, Mapping) else {"path": place}
    if instruction is not None:
        given.setdefault("instruction", instruction)
    source: DataSource = _nested(key, given, DataSource)
    return source


def _plain(value: Any) -> Any:
    """What JSON and YAML can hold."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1:
        return int(value)  # a count that may also be a fraction
    return value
