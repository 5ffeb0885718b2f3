"""The embedded demo model: scenes, true answers, files, training, and how often it is right."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from promptgen.training.demo.answers import PROMPTS, answer
from promptgen.training.demo.evaluate import Tally, evaluate, overlap, read_answer
from promptgen.training.demo.scenes import (
    COLOURS,
    EVALUATION_SEEDS,
    EXAMPLE_SEEDS,
    PLACES,
    TRAINING_SEEDS,
    draw_scene,
    drawn_scene,
    location_bins,
    repeated_trigram,
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models_cache" / "demo"
LARGEST = 12_000_000
ACCURACY = 0.95


# Scenes


def test_a_scene_is_a_pure_function_of_its_seed() -> None:
    for seed in (0, 7, 123_456):
        (first, scene), (second, again) = draw_scene(seed), draw_scene(seed)
        assert scene == again == drawn_scene(seed)
        assert first.tobytes() == second.tobytes()
        assert first.size == (scene.width, scene.height)
    assert draw_scene(1)[0].tobytes() != draw_scene(2)[0].tobytes()


def test_a_scene_has_the_size_that_is_asked_for() -> None:
    picture, scene = draw_scene(5, size=(90, 60))
    assert picture.size == (scene.width, scene.height) == (90, 60)


def test_scenes_keep_what_the_answers_rely_on() -> None:
    for seed in range(300):
        scene = drawn_scene(seed)
        colours = [scene.ground, *(shape.colour for shape in scene.shapes)]
        places = [PLACES.index(shape.place) for shape in scene.shapes]
        assert 1 <= len(scene.shapes) <= 3
        assert len(set(colours)) == len(colours)
        assert places == sorted(set(places))
        for shape in scene.shapes:
            x0, y0, x1, y1 = shape.box
            assert 0 <= x0 < x1 <= scene.width
            assert 0 <= y0 < y1 <= scene.height


def test_boxes_are_tight_around_the_paint() -> None:
    import numpy as np

    checked = 0
    for seed in range(60):
        picture, scene = draw_scene(seed)
        if scene.word or len(scene.shapes) > 1:
            continue
        pixels = np.asarray(picture).astype(int)
        wanted = np.array(COLOURS[scene.shapes[0].colour])
        ground = np.array(COLOURS[scene.ground])
        painted = abs(pixels - wanted).sum(axis=2) < abs(pixels - ground).sum(axis=2)
        rows, columns = np.nonzero(painted.any(axis=1))[0], np.nonzero(painted.any(axis=0))[0]
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.array(found) - np.array(scene.shapes[0].box)).max() < 3, seed
        checked += 1
    assert checked > 5


def test_training_never_sees_the_scenes_of_evaluation_and_examples() -> None:
    ranges = [set(seeds) for seeds in (TRAINING_SEEDS, EVALUATION_SEEDS, EXAMPLE_SEEDS)]
    assert sum(map(len, ranges)) == len(set.union(*ranges))


# Answers


def test_prompts_are_those_of_the_engine() -> None:
    from promptgen.captioning.instructions import find_instruction
    from promptgen.captioning.prompts import build_prompt

    for name, prompt in PROMPTS.items():
        assert build_prompt(find_instruction(name), None, {}) == prompt


def test_answers_are_read_by_the_engine_as_what_they_are() -> None:
    from promptgen.captioning.instructions import find_instruction
    from promptgen.captioning.results import parse_answer

    for seed in range(40):
        scene = drawn_scene(seed)
        size = (scene.width, scene.height)
        results = {name: parse_answer(find_instruction(name), answer(name, scene), size) for name in PROMPTS}
        first = scene.shapes[0]
        assert f"{first.colour} {first.shape}" in results["GENERATE_TAGS"].tags
        for name in ("MIXED_CAPTION", "MIXED_CAPTION_PLUS"):
            assert results[name].prose == answer("MORE_DETAILED_CAPTION", scene)
            assert results[name].tags == results["GENERATE_TAGS"].tags
        assert results["MIXED_CAPTION"].analysis is None
        analysis = results["ANALYZE"].analysis
        assert results["MIXED_CAPTION_PLUS"].analysis == analysis
        assert len(analysis.subjects) == len(scene.shapes)
        assert analysis.subjects[0]["background"] == f"solid {scene.ground}"
        assert analysis.subjects[0]["text"] == (scene.word or "NA")
        for shape, subject in zip(scene.shapes, analysis.subjects, strict=True):
            assert subject["body"] == f"{shape.colour} {shape.shape}"
        assert results["OCR"].text == (scene.word or "")
        regions = results["OD"].regions
        assert [region.label for region in regions] == [shape.shape for shape in scene.shapes]
        for shape, region in zip(scene.shapes, regions, strict=True):
            found, true = (" ".join(map(str, box)) for box in (region.box, shape.box))
            assert overlap(found, true) > 0.7


def test_reading_back_a_true_answer_gives_the_scene() -> None:
    for seed in range(100):
        scene = drawn_scene(seed)
        count = len(scene.shapes)
        said = {name: read_answer(name, answer(name, scene)) for name in PROMPTS}
        assert said["GENERATE_TAGS"]["count", ""] == said["MORE_DETAILED_CAPTION"]["count", ""] == str(count)
        for name in ("GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION"):
            assert said[name]["ground", ""] == scene.ground
        assert said["CAPTION"]["word", ""] == (scene.word or "none")
        for number, shape in enumerate(scene.shapes):
            which = str(number)
            for name in ("DETAILED_CAPTION", "MORE_DETAILED_CAPTION"):
                for attribute in ("size", "colour", "shape", "place"):
                    assert said[name][attribute, which] == getattr(shape, attribute)
            box = " ".join(map(str, location_bins(scene, shape)))
            assert said["OD"]["box", which] == box
        parts = {which.split()[0] for _, which in said["MIXED_CAPTION_PLUS"]}
        assert parts == {"MORE_DETAILED_CAPTION", "GENERATE_TAGS", "ANALYZE"}


def test_a_wrong_answer_counts_as_wrong() -> None:
    scene = next(scene for scene in map(drawn_scene, range(50)) if len(scene.shapes) == 2 and not scene.word)
    true = answer("CAPTION", scene)
    other = next(colour for colour in COLOURS if colour not in true)
    tally = Tally()
    tally.add("CAPTION", true.replace(scene.ground, other), true, scene.seed)
    tally.add("CAPTION", true, true, scene.seed)
    assert tally.share("ground") == 0.5
    assert tally.share("shape") == 1
    assert tally.exact == 1
    tally.add("CAPTION", "", true, scene.seed)
    assert tally.share("shape") == pytest.approx(2 / 3)


def test_no_answer_needs_the_same_three_tokens_twice() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    for seed in range(800):
        scene = drawn_scene(seed)
        for name in PROMPTS:
            ids = [2, *tokenizer.encode(answer(name, scene)).ids]
            assert repeated_trigram(ids) is None, answer(name, scene)


# The checkpoint


def test_the_checkpoint_is_small_and_whole() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST


def test_the_checkpoint_is_in_the_original_format() -> None:
    from safetensors import safe_open

    assert json.loads((FOLDER / "config.json").read_text("utf-8"))["model_type"] == "florence2"
    with safe_open(FOLDER / "model.safetensors", framework="np") as weights:
        names = set(weights.keys())
        assert {str(weights.get_tensor(name).dtype) for name in names} == {"float16"}
    assert {
        "image_projection",
        "image_proj_norm.weight",
        "image_pos_embed.row_embeddings.weight",
        "visual_temporal_embed.pos_idx_to_embed",
        "language_model.model.shared.weight",
        "vision_tower.convs.0.proj.weight",
        "vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv.weight",
        "vision_tower.blocks.0.0.channel_block.channel_attn.fn.qkv.weight",
    } <= names


def test_the_tokenizer_knows_every_byte_and_florences_tokens_in_order() -> None:
    from promptgen.florence2.text_processing import FLORENCE2_TOKENS
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    ids = [tokenizer.token_to_id(token) for token in FLORENCE2_TOKENS]
    assert ids == list(range(ids[0], ids[0] + 1024))
    assert [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    for text in ("".join(map(chr, range(256))), "Zwölf 狐 🦊\u202e\x00 ¿", "\ufeff\r\n\t "):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        assert 3 not in found
        assert tokenizer.decode(found, skip_special_tokens=False) == text
    for word in (*COLOURS, "circle", "shapes", "background"):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1


def test_the_tokenizer_can_be_made_again() -> None:
    from promptgen.training.demo.tokenizer import build_tokenizer

    assert json.loads(build_tokenizer().to_str()) == json.loads(
        (FOLDER / "tokenizer.json").read_text("utf-8")
    )


def test_it_tells_the_truth_about_unseen_scenes() -> None:
    report = evaluate(scenes=30, offset=5000)
    shares = {name: tally.share() for name, tally in report.items()}
    assert min(share for share in shares.values() if share is not None) >= ACCURACY, shares


# How it is made


def test_training_reads_the_scene_files_as_the_model_would_see_the_scenes(tmp_path: Path) -> None:
    from promptgen.florence2 import Florence2Config
    from promptgen.inference.image_processing import ImageProcessor
    from promptgen.training.data import DataSource, load_examples
    from promptgen.training.demo.__main__ import main

    assert (
        main(["scenes", "--output", str(tmp_path), "--seed", "998", "--scenes", "5", "--workers", "1"]) == 0
    )
    problems: list[object] = []
    source = DataSource(path=tmp_path / "scenes.jsonl", empty_captions="keep")
    examples = load_examples([source], problems.append)
    assert problems == []
    assert len(examples) == 5 * len(PROMPTS)
    processor = ImageProcessor(Florence2Config.from_folder(FOLDER).image)
    for example in examples:
        seed = int(Path(example.image.name).stem)
        assert seed in TRAINING_SEEDS[998:1003]
        picture, scene = draw_scene(seed)
        assert example.target == answer(example.instruction, scene)
        assert processor.resize(example.image.open()).equal(processor.resize(picture))


def test_the_configurations_follow_one_another() -> None:
    from promptgen.training.config_files import read_config
    from promptgen.training.demo.train import CONFIGS, FOLDER, RUNS, placed

    assert {path.name for path in CONFIGS.glob("demo-*")} == {f"demo-{name}.yaml" for name in RUNS}
    begins = FOLDER / "eyes"
    for name in RUNS:
        config = read_config(CONFIGS / f"demo-{name}.yaml")
        assert Path(config.checkpoint.model_name) == begins
        begins = config.run.folder / "final"
        assert config.run.folder == FOLDER / name
        assert {source.path for source in config.data.sources} == {FOLDER / "scenes" / "scenes.jsonl"}
        assert placed(config, Path("else")).run.folder == Path("else", name)


def test_training_twice_gives_equal_weights(tmp_path: Path) -> None:
    """Also where one was cut off; it knows what is done."""
    import torch
    from promptgen.captioning import Captioner
    from promptgen.training.demo.recipe import TINY_RECIPE
    from promptgen.training.demo.train import train

    threads = torch.get_num_threads()
    models = [train(tmp_path / name, TINY_RECIPE, workers=1) for name in ("first", "second")]
    digests = {hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() for model in models}
    before = (tmp_path / "second" / "all" / "final" / "model.safetensors").stat()
    shutil.rmtree(tmp_path / "second" / "both")
    train(tmp_path / "second", TINY_RECIPE, workers=1)
    digests.add(hashlib.sha256((models[1] / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert (tmp_path / "second" / "all" / "final" / "model.safetensors").stat() == before
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    picture, _ = draw_scene(EXAMPLE_SEEDS[0])
    assert Captioner(str(models[0]), device="cpu").caption([picture], ["CAPTION"])[0].error is None


def test_a_warm_up_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptgen.training.demo import warm_up as module
    from promptgen.training.demo.pool import ScenePool, draw_pool
    from promptgen.training.demo.recipe import TINY_RECIPE

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    module.warm_up(tmp_path / "whole", TINY_RECIPE, workers=1)
    monkeypatch.setattr(module, "save_weights", cut)
    with pytest.raises(KeyboardInterrupt):
        module.warm_up(tmp_path / "cut", TINY_RECIPE, workers=1)
    monkeypatch.undo()
    (tmp_path / "cut" / "stretch-1.pt").unlink()
    drawn = []

    def draw(seeds: range, **options: int) -> ScenePool:
        drawn.append(seeds)
        return draw_pool(seeds, **options)

    monkeypatch.setattr(module, "draw_pool", draw)
    module.warm_up(tmp_path / "cut", TINY_RECIPE, workers=1)
    assert len(drawn) == 1  # the first was not trained again
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "cut").glob("*.pt"))
