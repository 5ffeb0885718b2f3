"""Checkpoint folders whose small files cannot be used: told in words, with the file, the value and a way out.

The settings of pictures and of generation, and which family it is, in both families of checkpoints.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import Captioner, CaptionOptions
from promptgen.inference import CheckpointError, GenerationOptions
from promptgen.models_cache import ModelManager
from promptgen.models_cache.families import family_of, image_processor_of

from .checkpoints import copy_reference, edit_json
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures

FAMILIES = ("florence2", "paligemma")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("checkpoints")
    return {
        "florence2": copy_reference(parent / "florence", weights=True),
        "paligemma": make_paligemma(parent / "paligemma"),
    }


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    """A whole checkpoint of each family, for a test to damage."""
    return Path(shutil.copytree(originals[request.param], tmp_path / "mine"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p0.png"
    pictures(1)[0].save(path)
    return path


def captioned(folder: Path, **options: Any) -> str:
    manager = ModelManager(idle_seconds=None)
    try:
        captioner = Captioner(str(folder), manager=manager, device="cpu", dtype="fp32")
        asked = CaptionOptions(generation=GenerationOptions(**options))
        (result,) = captioner.caption(pictures(1), "CAPTION", asked)
        return str(result.results[0].raw)
    finally:
        manager.close()


def stating(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, lambda settings: settings.update(values))


def a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1]", encoding="utf-8")


CONFIG, GENERATION, PICTURES = "config.json", "generation_config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (stating(CONFIG, model_type="llava"), (CONFIG, "'llava'", "florence2, paligemma", "Choose a")),
        (stating(CONFIG, model_type=None), (CONFIG, "None", "florence2, paligemma")),
        (a_list, (CONFIG, "a list", "not a JSON object")),
        (stating(GENERATION, num_beams="three"), (GENERATION, "num_beams is 'three'", "whole number")),
        (stating(GENERATION, max_length="long"), (GENERATION, "max_length is 'long'", "whole number")),
        (stating(GENERATION, eos_token_id=["end"]), (GENERATION, "eos_token_id is ['end']")),
        (stating(GENERATION, do_sample=True, temperature=0.0), (GENERATION, "temperature", "0.0", "Correct")),
        (stating(GENERATION, do_sample=True, top_p="all"), (GENERATION, "top_p is 'all'", "a number")),
        (stating(PICTURES, resample="bicubic"), (PICTURES, "resample is 'bicubic'", "3 (bicubic)")),
        (stating(PICTURES, resample=9), (PICTURES, "resample is 9", "3 (bicubic)")),
        (stating(PICTURES, do_resize=False), (PICTURES, "do_resize", "true")),
        (stating(PICTURES, do_normalize="yes"), (PICTURES, "do_normalize is 'yes'", "true or false")),
        (stating(PICTURES, rescale_factor="1/255"), (PICTURES, "rescale_factor is '1/255'", "number")),
        (stating(PICTURES, image_mean=[0.5, 0.5]), (PICTURES, "image_mean is [0.5, 0.5]", "three")),
        (stating(PICTURES, image_std=[0.5, 0.5, 0]), (PICTURES, "image_std is [0.5, 0.5, 0]", "above 0")),
        (stating(PICTURES, size={"height": "28", "width": 28}), (PICTURES, "size is", "'28'")),
        (stating(PICTURES, size={"shortest_edge": 28}), (PICTURES, "shortest_edge")),
    ],
)
def test_what_cannot_be_used_is_told(
    promptgen: Promptgen, folder: Path, picture: Path, damage: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    damage(folder)
    ended = promptgen("caption", picture, "-i", "caption", "--model", folder, "--device", "cpu")
    assert ended.status == 1
    assert "error: " in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_files_with_a_byte_order_mark_are_read(folder: Path) -> None:
    """As Windows' Notepad saves what was edited there."""
    expected = captioned(folder)
    for file in (CONFIG, GENERATION, PICTURES):
        text = (folder / file).read_text(encoding="utf-8")
        (folder / file).write_text(text, encoding="utf-8-sig")
    assert captioned(folder) == expected


def test_another_value_is_a_way_out(folder: Path) -> None:
    stating(GENERATION, do_sample=True, temperature=0)(folder)
    with pytest.raises(CheckpointError):
        captioned(folder)
    assert captioned(folder, do_sample=False) == captioned(folder, do_sample=True, top_k=1, temperature=0.5)


def test_settings_without_effect_are_no_error(folder: Path) -> None:
    """Many files hold a temperature that means nothing without sampling."""
    expected = captioned(folder)
    stating(GENERATION, do_sample=False, temperature=0, top_p=0.0, top_k=-1)(folder)
    assert captioned(folder) == expected


def test_a_whole_number_does_where_a_fraction_might_be(folder: Path) -> None:
    expected = captioned(folder, repetition_penalty=2.0)
    assert captioned(folder, repetition_penalty=2) == expected
    stating(GENERATION, do_sample=True, temperature=2, repetition_penalty=2)(folder)
    assert captioned(folder, seed=1) == captioned(folder, seed=1, temperature=2.0, repetition_penalty=2.0)


def test_a_checkpoint_that_does_not_resize_takes_pictures_of_its_size(folder: Path) -> None:
    settings = json.loads((folder / PICTURES).read_text(encoding="utf-8"))
    stating(PICTURES, do_resize=False)(folder)
    manager = ModelManager(idle_seconds=None)
    try:
        captioner = Captioner(str(folder), manager=manager, device="cpu", dtype="fp32")
        fitting = pictures(1)[0].resize((settings["size"]["width"], settings["size"]["height"]))
        (result,) = captioner.caption([fitting], "CAPTION")
        assert result.ok
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json.*pictures must be"):
            captioner.caption(pictures(1), "CAPTION")
    finally:
        manager.close()


def test_a_folder_run_names_all_families(promptgen: Promptgen, folder: Path, picture: Path) -> None:
    stating(CONFIG, model_type="llava")(folder)
    ended = promptgen("folder", picture.parent, "--model", folder, "--device", "cpu")
    assert ended.status == 1
    for word in ("error: ", "'llava'", "florence2, paligemma"):
        assert word in ended.stderr
    with pytest.raises(CheckpointError, match="'llava'"):
        family_of(folder)


def test_what_is_not_stated_of_pictures_is_the_default_of_the_family(folder: Path) -> None:
    """transformers' SiglipImageProcessor has 0.5 for all channels; Florence-2's files all state others."""
    expected, processor = captioned(folder), image_processor_of(folder)

    def silent(settings: dict[str, Any]) -> None:
        for name in ("image_mean", "image_std", "rescale_factor", "resample", "do_normalize", "do_resize"):
            settings.pop(name, None)

    edit_json(folder / PICTURES, silent)
    assert image_processor_of(folder) == processor
    assert captioned(folder) == expected
    stating(PICTURES, image_mean=0.25)(folder)
    assert image_processor_of(folder) != processor
