"""The translations: the same keys everywhere, English as the schemas say, and served by a real ComfyUI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .comfyui_host import Host
from .helpers_dev import ROOT

LOCALES = ROOT / "locales"
LANGUAGES = ("en", "ja", "zh")
FILES = ("main", "nodeDefs", "settings")

# Written in the same way in every language: what is typed, chosen from a menu or found on a disk.
VERBATIM = re.compile(
    r"""
    \b[A-Z][A-Z_]{4,}\b            # instructions
    | \b[\w-]*[_/][\w/]+           # ids, folders
    | \b[A-Za-z]+(?:-?\d[\w-]*)    # fp16, T5-XXL, florence2
    | \bCLIP-L\b | \bNA\b | \bJSON\b | \bGPU\b | \bCPU\b | \bComfyUI\b | \bPromptGen\b | \bFlux\b
    | \bDualCLIPLoader\b | \bCLIPTextEncodeFlux\b | \bdemo\b | \bauto\b
    | (?<!\w)'[^'\n]*[:;*][^'\n]*'  # examples
    | \\[()] | \b\d+\b
    """,
    re.VERBOSE,
)
KANA = re.compile(r"[\u3040-\u30ff]")
HAN = re.compile(r"[\u4e00-\u9fff]")


def load(language: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))
    return content


def texts(content: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """``(place, text)`` of every text in a file."""
    for key, value in content.items():
        here = f"{place}.{key}" if place else key
        if isinstance(value, str):
            yield here, value
        else:
            yield from texts(value, here)


def everything(language: str) -> dict[str, str]:
    return {f"{name}.{place}": text for name in FILES for place, text in texts(load(language, name))}


def test_the_files_are_those_that_a_host_reads() -> None:
    found = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()}
    assert found == {f"{language}/{name}.json" for language in LANGUAGES for name in FILES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys_in_the_same_order(language: str) -> None:
    assert list(everything(language)) == list(everything("en"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty_or_means_something_to_the_page(language: str) -> None:
    # The page's translations are templates: these signs are placeholders, links and plural forms.
    for place, text in everything(language).items():
        assert text.strip() == text != "", place
        assert not re.search(r"[{}@|]|%(?=[{(])|\$t", text), place


@pytest.mark.parametrize(("language", "script"), [("zh", HAN), ("ja", KANA)])
def test_what_people_read_is_translated(language: str, script: re.Pattern[str]) -> None:
    english = everything("en")
    for place, text in everything(language).items():
        if place.endswith(("description", "tooltip")):
            assert script.search(text), f"{place}: {text}"
            assert text != english[place], place


def test_no_kana_in_chinese() -> None:
    assert not [place for place, text in everything("zh").items() if KANA.search(text)]


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_what_is_typed_or_chosen_is_not_translated(language: str) -> None:
    english = everything("en")
    for place, text in everything(language).items():
        if place.endswith(("description", "tooltip")) and not place.startswith("settings"):
            missing = [word for word in VERBATIM.findall(english[place]) if word not in text]
            assert not missing, f"{place} lacks {missing}: {text}"


def test_names_are_told_apart() -> None:
    for language in LANGUAGES:
        nodes = load(language, "nodeDefs")
        assert len({node["display_name"] for node in nodes.values()}) == len(nodes)
        for node_id, node in nodes.items():
            for kind in ("inputs", "outputs"):
                names = [slot["name"] for slot in node[kind].values()]
                assert len(set(names)) == len(names), f"{language}: {node_id}.{kind}"


# What the schemas say ---------------------------------------------------------------------


def as_english(info: Mapping[str, Any]) -> dict[str, Any]:
    """The node's entry in ``locales/en/nodeDefs.json``, made from what the host says of it."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options.get("tooltip", "")}
            for name, (_, options) in inputs.items()
        },
        "outputs": {
            str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in enumerate(outputs)
        },
    }


def mine(host: Host) -> dict[str, Any]:
    return {name: info for name, info in host.get("/object_info").items() if info["category"] == "PromptGen"}


@pytest.mark.comfyui
def test_english_is_what_the_schemas_say(host: Host) -> None:
    schemas = {name: as_english(info) for name, info in mine(host).items()}
    wanted, written = dict(texts(schemas)), dict(texts(load("en", "nodeDefs")))
    changes = [
        f"{place}: {f'write {wanted[place]!r}' if place in wanted else 'take it out'}"
        for place in {**wanted, **written}
        if wanted.get(place) != written.get(place)
    ]
    assert not changes, "locales/en/nodeDefs.json (and then ja, zh):\n" + "\n".join(changes)


@pytest.mark.comfyui
def test_every_input_and_output_has_a_tooltip(host: Host) -> None:
    for name, info in mine(host).items():
        for place, text in texts(as_english(info)):
            assert text, f"{name}.{place}"


@pytest.mark.comfyui
def test_the_host_hands_them_to_the_page(host: Host) -> None:
    served = host.get("/i18n")
    for language in LANGUAGES:
        main, nodes, settings = (load(language, name) for name in FILES)
        assert served[language] == {**main, "nodeDefs": nodes, "settings": settings}
