"""Reading PaliGemma checkpoints: every way in which their weights were named, and what is not whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.captioning import Captioner
from promptgen.inference import CheckpointError
from promptgen.models_cache import ModelManager
from promptgen.models_cache.families import family_of, image_processor_of, load_family
from promptgen.paligemma import GenerationOptions, PaliGemmaConfig, PaliGemmaModel
from safetensors.torch import load_file, save_file

from .checkpoints import edit_json
from .paligemma_checkpoints import make_paligemma, pictures

State = dict[str, torch.Tensor]
EMBEDDING = "language_model.model.embed_tokens.weight"
SHORT = GenerationOptions(max_new_tokens=20)

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module", params=[1, 2], ids="generation {}".format)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paligemma") / "model"
    return make_paligemma(folder, generation=request.param)


def published(state: State) -> State:
    """By the names of the checkpoints that Google published, whatever this transformers release says."""
    pattern = re.compile(r"^vision_tower\.(vision_model\.)?")
    return {pattern.sub("vision_tower.vision_model.", name): tensor for name, tensor in state.items()}


def copy(original: Path, folder: Path, edit: Callable[[State], State] = published) -> Path:
    shutil.copytree(original, folder)
    state = load_file(folder / "model.safetensors")
    save_file(edit(published(state)), folder / "model.safetensors")
    return folder


def answers(folder: Path, **options: Any) -> list[Any]:
    model = PaliGemmaModel.load(folder, device="cpu", **{"dtype": "fp32", **options})
    return model.generate(model.encode_images(model.preprocess(pictures(2))), ["caption en", "ocr"], SHORT)


def renamed(pattern: str, replacement: str, state: State) -> State:
    return {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}


def with_head(state: State) -> State:
    return state | {"language_model.lm_head.weight": state[EMBEDDING].clone()}


NAMINGS: dict[str, Callable[[State], State]] = {
    "transformers 4": lambda state: state,
    "transformers 4, with the head": with_head,
    "only the head": lambda state: {n: t for n, t in with_head(state).items() if n != EMBEDDING},
    "modules of 4.52": partial(renamed, r"^(language_model)\.model\.|^(?=vision|multi)", r"model.\1."),
    "transformers 5": partial(renamed, r"^vision_tower\.vision_model\.", "vision_tower."),
    "tables of old releases": lambda state: {
        **state,
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "vision_tower.vision_model.embeddings.position_ids": torch.zeros(1, 4),
    },
    "a pooling head": lambda state: state | {"vision_tower.vision_model.head.probe": torch.zeros(1, 1, 32)},
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_answers(original: Path, tmp_path: Path, naming: str) -> None:
    def edit(state: State) -> State:
        return {name.replace("model..", "model."): tensor for name, tensor in NAMINGS[naming](state).items()}

    assert answers(copy(original, tmp_path / "copy", edit)) == answers(original)


def test_shards_and_bin_files_give_the_same_answers(original: Path, tmp_path: Path) -> None:
    generation = PaliGemmaConfig.from_folder(original).text.generation
    sharded = make_paligemma(tmp_path / "sharded", generation=generation, shards=True)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    pickled = copy(original, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert answers(sharded) == answers(pickled) == answers(original)


def test_published_config_that_leaves_defaults_out(original: Path, tmp_path: Path) -> None:
    """As of mid-2024: what the file does not say is the default of transformers' class."""
    folder = copy(original, tmp_path / "short")
    silent = ("bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps", "layer_types", "hidden_act",
              "rope_theta", "rope_parameters", "initializer_range", "attention_bias")  # fmt: skip

    def shorten(config: dict[str, Any]) -> None:
        for name in silent:
            config["text_config"].pop(name, None)
        config["vision_config"].pop("vision_use_head", None)
        config["auto_map"] = {"AutoConfig": "evil.Config"}

    edit_json(folder / "config.json", shorten)
    assert answers(folder) == answers(original)


def damaged(name: str, folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    norm = next(key for key in state if key.endswith("layers.1.input_layernorm.weight"))
    if name == "missing":
        del state[norm]
    elif name == "misshapen":
        state[norm] = state[norm][:-1].clone()
    elif name == "surplus":
        state["language_model.model.layers.9.extra"] = torch.zeros(2)
    elif name == "no embedding":
        del state[EMBEDDING]
    elif name == "two heads":
        state["language_model.lm_head.weight"] = state[EMBEDDING] + 1
    elif name == "twice":
        state["model." + norm.replace("language_model.model", "language_model")] = state[norm].clone()
    save_file(state, file)
    if name == "cut off":
        file.write_bytes(file.read_bytes()[:-1000])
    for missing in ("tokenizer.json", "preprocessor_config.json", "model.safetensors", "config.json"):
        if name == f"no {missing}":
            (folder / missing).unlink()
    edits: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
        "another family": ("config.json", lambda config: config.update(model_type="llava")),
        "another language model": (
            "config.json", lambda config: config["text_config"].update(model_type="qwen2"),
        ),
        "untied": ("config.json", lambda config: config["text_config"].update(tie_word_embeddings=False)),
        "saved quantised": ("config.json", lambda config: config.update(quantization_config={"bits": 4})),
        "another size": (
            "preprocessor_config.json", lambda config: config.update(size={"height": 56, "width": 56}),
        ),
        "no number": ("config.json", lambda config: config["text_config"].update(hidden_size="wide")),
        "small vocabulary": ("config.json", lambda config: config["text_config"].update(vocab_size=128)),
        "odd activation": ("config.json", lambda config: config["text_config"].update(
            hidden_act="swosh", hidden_activation="swosh")),
    }  # fmt: skip
    if name in edits:
        edit_json(folder / edits[name][0], edits[name][1])
    if name == "tokenizer of something else":
        (folder / "tokenizer.json").write_text(json.dumps({"version": 7}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"1 tensors differ:\n  missing: language_model.model.layers.1.input_layernorm.weight"),
        ("misshapen", r"layernorm.weight is \[31\], config.json says \[32\]"),
        ("surplus", r"surplus: language_model.model.layers.9.extra \[2\]"),
        ("no embedding", rf"missing: {EMBEDDING}"),
        ("two heads", "one matrix in PaliGemma, but the checkpoint in .* holds two different"),
        ("twice", "twice: "),
        ("cut off", "not a whole safetensors file"),
        ("no tokenizer.json", "has no tokenizer.json"),
        ("no preprocessor_config.json", "preprocessor_config.json is missing"),
        ("no model.safetensors", "has no weights"),
        ("no config.json", "config.json is missing"),
        ("another family", "describes a model of type 'llava', not 'paligemma'"),
        ("another language model", "of type 'qwen2'; 'gemma' and 'gemma2' are built here"),
        ("untied", "PaliGemma has one tied matrix"),
        ("saved quantised", "choose the quantization here"),
        ("another size", "takes pictures of 28x28 pixels, the picture settings beside it say 56x56"),
        ("no number", "hidden_size is 'wide'"),
        ("small vocabulary", "config.json says vocab_size 128"),
        ("odd activation", "does not build this PaliGemma"),
        ("tokenizer of something else", "tokenizer in .* cannot be read"),
    ],
)
def test_what_is_not_whole_is_told(original: Path, tmp_path: Path, damage: str, message: str) -> None:
    folder = copy(original, tmp_path / "damaged")
    damaged(damage, folder)
    with pytest.raises(CheckpointError, match=message) as error:
        PaliGemmaModel.load(folder, dtype="fp32")
    assert str(folder) in str(error.value)


def test_a_tokenizer_without_the_tokens_of_places_gets_them(original: Path, tmp_path: Path) -> None:
    """As the published processor does it, for checkpoints that were saved with Gemma's own tokenizer."""
    folder = copy(original, tmp_path / "plain")

    def without_places(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"] = [
            token for token in tokenizer["added_tokens"] if not token["content"].startswith(("<loc", "<seg"))
        ]

    edit_json(folder / "tokenizer.json", without_places)
    model = PaliGemmaModel.load(folder, device="cpu", dtype="fp32")
    assert [model.count_tokens(prompt) for prompt in ("", "<loc0012><seg127>")] == [2, 4]


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_that_another_file_adds_have_its_numbers(original: Path, tmp_path: Path, file: str) -> None:
    """As transformers reads them: places are not shifted by the token of the picture, which comes last."""
    folder = copy(original, tmp_path / "plain")
    moved: dict[str, dict[str, Any]] = {}

    def without(tokenizer: dict[str, Any]) -> None:
        for token in [*tokenizer["added_tokens"]]:
            if token["content"].startswith(("<loc", "<seg", "<image")):
                tokenizer["added_tokens"].remove(token)
                moved[str(token.pop("id"))] = token

    edit_json(folder / "tokenizer.json", without)
    if file == "added_tokens.json":
        numbers = {token["content"]: int(number) for number, token in moved.items()}
        (folder / file).write_text(json.dumps(numbers), encoding="utf-8")
    else:
        edit_json(folder / file, lambda config: config.update(added_tokens_decoder=moved))
    prompt = "detect <loc0012><seg127>"
    texts = [PaliGemmaModel.load(place, device="cpu", dtype="fp32").text for place in (folder, original)]
    assert texts[0].encode(prompt) == texts[1].encode(prompt)
    assert texts[0].image_token_id == texts[1].image_token_id

    (folder / file).write_text(json.dumps({"added_tokens_decoder": {"1": "<loc0000>"}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{folder} add cannot be understood"):
        PaliGemmaModel.load(folder, device="cpu", dtype="fp32")


def test_the_token_of_the_picture_needs_no_row_of_the_matrix(original: Path, tmp_path: Path) -> None:
    def cut(state: State) -> State:
        number = PaliGemmaConfig.from_folder(original).image_token_id
        return state | {EMBEDDING: state[EMBEDDING][:number].clone()}

    folder = copy(original, tmp_path / "short", cut)
    rows = PaliGemmaConfig.from_folder(original).image_token_id
    edit_json(folder / "config.json", lambda config: config["text_config"].update(vocab_size=rows))
    assert answers(folder) == answers(original)


# Through the doors of the other rooms ----------------------------------------------------


def test_the_family_is_recognised(original: Path) -> None:
    assert family_of(original) == "paligemma"
    assert image_processor_of(original).size == (28, 28)
    assert load_family(original, "cpu", "fp32", "none").identity == PaliGemmaModel.load(original).identity


def test_captions_are_what_the_model_answers(original: Path) -> None:
    manager = ModelManager(idle_seconds=None)
    try:
        captioner = Captioner(str(original), manager=manager, device="cpu", dtype="fp32")
        results = captioner.caption(pictures(2), ["CAPTION", "OCR"])
    finally:
        manager.close()
    model = PaliGemmaModel.load(original, dtype="fp32")
    rows = model.encode_images(model.preprocess(pictures(2)))
    for number, result in enumerate(results):
        texts = [
            model.generate(rows[number : number + 1], [prompt])[0].text for prompt in ("caption en", "ocr")
        ]
        assert [answer.raw for answer in result.results] == texts


@pytest.mark.parametrize("quantization", ["8", "4"])
def test_fewer_bits(original: Path, quantization: str) -> None:
    if quantization == "4":
        pytest.importorskip("bitsandbytes")
    exact = PaliGemmaModel.load(original, device="cpu", dtype="fp32")
    model = PaliGemmaModel.load(original, device="cpu", dtype="fp32", quantization=quantization)
    assert model.quantization == quantization
    assert model.nbytes < exact.nbytes
    assert model.network.embedding.dtype is torch.float32
    rows = model.encode_images(model.preprocess(pictures(2)))
    assert torch.equal(rows, exact.encode_images(exact.preprocess(pictures(2))))  # no bits lost there
    together = model.generate(rows, ["caption en", "ocr"], SHORT)
    alone = [
        model.generate(rows[row : row + 1], [prompt], SHORT)[0]
        for row, prompt in enumerate(["caption en", "ocr"])
    ]
    assert together == alone
