"""The table of checkpoints and the user's additions to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promptgen.captioning.instructions import INSTRUCTIONS
from promptgen.models_cache import CatalogueError, catalogue, find_entry, user_catalogue_path
from promptgen.models_cache.catalogue import HUB_ID


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models.json"
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(path))
    path.write_text("{}")
    return path


@pytest.fixture
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTGEN_CATALOGUE", raising=False)
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))


KNOWN = """
    Florence-2-base-PromptGen-v1.5 Florence-2-large-PromptGen-v1.5 Florence-2-base-PromptGen-v2.0
    Florence-2-large-PromptGen-v2.0 Florence-2-base Florence-2-base-ft Florence-2-large Florence-2-large-ft
    Florence-2-base-gemini-2.0-flash-thinking-exp-1219-v0.2 Florence-2-base-Castollux-v0.5
    CogFlorence-2.1-Large CogFlorence-2.2-Large Florence-2-SD3-Captioner Florence-2-Flux-Large
    Florence-2-DocVQA demo paligemma-longprompt-v1-safetensors paligemma-rich-captions
    sd3-long-captioner-v2 paligemma-3b-mix-224 paligemma-3b-mix-448 paligemma2-3b-mix-224
    paligemma2-3b-mix-448
"""


@pytest.mark.usefixtures("no_file")
@pytest.mark.parametrize("name", KNOWN.split())
def test_known_checkpoints(name: str) -> None:
    entry = catalogue()[name]
    assert entry.name == name
    assert entry.parameters > 1_000_000
    assert entry.licence
    assert entry.note
    if name == "demo":
        assert entry.hub_id is None
        assert entry.folder is not None
    else:
        assert HUB_ID.fullmatch(entry.hub_id or "")
        assert (entry.hub_id or "").endswith("/" + name)


@pytest.mark.usefixtures("no_file")
def test_every_instruction_is_one_of_the_engine() -> None:
    for entry in catalogue().values():
        assert entry.instructions
        assert set(entry.instructions) <= set(INSTRUCTIONS), entry.name
        assert set(entry.prompts) <= set(entry.instructions), entry.name


@pytest.mark.usefixtures("no_file")
def test_what_promptgen_knows() -> None:
    old = set(catalogue()["Florence-2-base-PromptGen-v1.5"].instructions)
    new = set(catalogue()["Florence-2-base-PromptGen-v2.0"].instructions)
    assert old == {"GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "MIXED_CAPTION"}
    assert new - old == {"ANALYZE", "MIXED_CAPTION_PLUS"}


@pytest.mark.usefixtures("no_file")
@pytest.mark.parametrize(
    "model",
    ["microsoft/florence-2-BASE", "florence-2-base", "Florence-2-base", " microsoft/Florence-2-base "],
)
def test_find_by_name_and_by_hub_id_in_any_case(model: str) -> None:
    entry = find_entry(model)
    assert entry is not None
    assert entry.hub_id == "microsoft/Florence-2-base"


@pytest.mark.usefixtures("no_file")
def test_find_nothing() -> None:
    assert find_entry("nobody/Florence-2-base") is None
    assert find_entry("") is None


def test_an_entry_cannot_be_changed() -> None:
    entry = catalogue()["Florence-2-Flux-Large"]
    with pytest.raises(TypeError):
        entry.prompts["CAPTION"] = "x"


def test_user_entries(file: Path) -> None:
    file.write_text(
        json.dumps(
            {
                "mine": {
                    "hub_id": "me/My-Florence",
                    "parameters": 231_000_000,
                    "licence": "CC0",
                    "instructions": ["<caption>", "GENERATE_TAGS"],
                    "prompts": {"<CAPTION>": "Say what you see."},
                    "note": "mine",
                },
                "here": {"folder": "checkpoints/here"},
                "Florence-2-base": {"hub_id": "mirror/Florence-2-base"},
            }
        ),
        encoding="utf-8-sig",  # as Windows' Notepad saves it
    )
    entry = find_entry("ME/my-florence")
    assert entry is not None
    assert (entry.name, entry.licence, entry.family) == ("mine", "CC0", "florence2")
    assert entry.instructions == ("CAPTION", "GENERATE_TAGS")
    assert dict(entry.prompts) == {"CAPTION": "Say what you see."}
    assert catalogue()["here"].folder == file.parent / "checkpoints" / "here"
    assert catalogue()["Florence-2-base"].hub_id == "mirror/Florence-2-base", "the user's entry wins"

    file.write_text("{}")
    assert find_entry("mine") is None, "an edit is seen without a restart"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"mine": {"hub_id": "a/b",}\n}', ["line 1", "column"]),
        ('{\n "mine": {\n  "hub_id": \n }\n}', ["line 4"]),
        ("[]", ["an object", "a list"]),
        ("null", ["null"]),
        ('{"mine": "a/b"}', ['"mine"', "object"]),
        ('{"mine": {}}', ['"mine"', "hub_id", "folder"]),
        ('{"mine": {"hub_id": "a-b"}}', ['"mine".hub_id', "ORG/NAME", '"a-b"']),
        ('{"mine": {"hub_id": "a/b", "parameters": "231M"}}', ['"mine".parameters', "whole number", "231M"]),
        ('{"mine": {"hub_id": "a/b", "parameters": true}}', ['"mine".parameters']),
        ('{"mine": {"hub_id": "a/b", "instructions": "CAPTION"}}', ['"mine".instructions', "list"]),
        ('{"mine": {"hub_id": "a/b", "prompts": {"CAPTION": 1}}}', ['"mine".prompts']),
        ('{"mine": {"hub_id": "a/b", "license": "MIT"}}', ['"license"', "licence"]),
        ('{"mine": {"hub_id": "a/b", "note": 1}}', ['"mine".note', "text"]),
        ('{"mine": {"folder": 1}}', ['"mine".folder']),
        ('{"a/b": {"hub_id": "a/b"}}', ['"a/b"', "slashes"]),
    ],
)
def test_a_wrong_user_file_is_named_with_its_line_or_key(file: Path, text: str, parts: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        catalogue()
    for part in [str(file), *parts]:
        assert part in str(caught.value)


def test_a_user_file_in_another_encoding(file: Path) -> None:
    file.write_bytes('{"mine": {"hub_id": "a/b", "note": "schön"}}'.encode("utf-16"))
    with pytest.raises(CatalogueError, match="UTF-8"):
        catalogue()


def test_a_named_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "absent.json"))
    with pytest.raises(CatalogueError, match=r"PROMPTGEN_CATALOGUE.*absent\.json"):
        catalogue()


@pytest.mark.usefixtures("no_file")
def test_the_usual_place(tmp_path: Path) -> None:
    path = user_catalogue_path()
    assert path.parts[-2:] == ("promptgen", "models.json")
    assert path.is_relative_to(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": {"hub_id": "a/b"}}')
    assert find_entry("a/b") is not None
