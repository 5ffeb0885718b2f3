"""The model to train: its loss and gradients are the published code's; what is frozen and dropped."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.benchmarks.random_checkpoint import SIZES, make_config, random_network, write_checkpoint
from promptgen.florence2.loading import published_names
from promptgen.training.errors import TrainingError
from promptgen.training.model_options import LoraOptions, ModelOptions
from promptgen.training.network import IGNORED, TrainableModel
from safetensors.torch import save_file

from .checkpoints import (
    LAYOUTS,
    REFERENCE,
    TIED,
    copy_reference,
    edit_json,
    expected,
    make_layout,
    only_tied,
    reference_state,
)
from .training_models import batch, loss_of, reference_batch, still, train_steps

TRAINING = expected()["training"]


def gradient_norms(model: TrainableModel) -> dict[str, float]:
    """By the published names."""
    named = {name: part.grad for name, part in model.network.named_parameters() if part.grad is not None}
    published = published_names(named, model.config)
    return {published[name]: gradient.norm().item() for name, gradient in named.items()}


# --- the loss ----------------------------------------------------------------------------------------------


SUBSETS = [names for count in (1, 2, 3) for names in combinations(TIED, count)]


@pytest.mark.parametrize("kept", SUBSETS, ids=lambda names: "+".join(name.split(".")[-2] for name in names))
def test_whichever_of_the_tied_names_a_file_has_they_are_one_matrix(
    tmp_path: Path, kept: tuple[str, ...]
) -> None:
    save_file(only_tied(*kept)(reference_state()), copy_reference(tmp_path) / "model.safetensors")
    model = still(tmp_path)
    assert [name for name, _ in model.network.named_parameters() if name in TIED] == [TIED[0]]
    check_published_numbers(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_are_those_of_the_published_code(tmp_path: Path, layout: str) -> None:
    check_published_numbers(still(make_layout(tmp_path, layout)))


def check_published_numbers(model: TrainableModel) -> None:
    """See that the loss and the seven gradient norms of the reference batch are the published code's."""
    inputs = reference_batch(model)
    losses = model(**inputs)
    assert losses.tokens.item() == TRAINING["tokens"]
    (losses.loss / losses.tokens).backward()
    assert losses.loss.item() / TRAINING["tokens"] == pytest.approx(TRAINING["loss"], rel=1e-4)
    found = gradient_norms(model)
    for name, norm in TRAINING["gradient_norms"].items():
        assert found[name] == pytest.approx(norm, rel=1e-4), name


def test_the_converted_format_gives_the_same_loss(tmp_path: Path) -> None:
    config = make_config(**SIZES["tiny"])
    network = random_network(config)
    folders = [
        write_checkpoint(tmp_path / form, network, dtype="fp32", form=form)
        for form in ("original", "converted")
    ]
    original, converted = (loss_of(model, reference_batch(model)) for model in map(still, folders))
    assert converted.item() == pytest.approx(
        original.item(), rel=1e-3
    )  # it has one token more to choose from


def test_a_batch_of_mixed_lengths_gives_the_losses_of_its_singles() -> None:
    model = still()
    names = ["00.png", "01.png", "02.png", "03.png"]
    prompts = [
        "<A>",
        "What does the image describe?",
        "Describe in detail what is shown in the image.",
        "<OD>",
    ]
    targets = ["a", "a red circle on a gray background and more of it", "", "two shapes"]
    together = model(**batch(model, names, prompts, targets))
    for row, sample in enumerate(zip(names, prompts, targets, strict=True)):
        alone = model(**batch(model, *([part] for part in sample)))
        assert alone.tokens == together.sample_tokens[row] == len(model.text.encode(targets[row]))
        torch.testing.assert_close(together.sample_losses[row], alone.sample_losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.loss.detach(), together.sample_losses.sum())
    assert together.tokens == together.sample_tokens.sum()


def test_padding_has_no_part_in_the_loss_nor_in_gradients() -> None:
    model = still()
    inputs = reference_batch(model)
    loss_of(model, inputs).backward()
    wanted = gradient_norms(model)
    model.zero_grad()
    wider = dict(inputs)
    wider["labels"] = torch.cat([inputs["labels"], torch.full((3, 9), IGNORED)], dim=1)
    wider["input_ids"] = torch.cat([inputs["input_ids"], torch.full((3, 7), 5)], dim=1)  # words, but masked
    wider["attention_mask"] = torch.cat(
        [inputs["attention_mask"], torch.zeros(3, 7, dtype=torch.long)], dim=1
    )
    loss_of(model, wider).backward()
    assert gradient_norms(model) == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_batch_without_targets_is_a_loss_of_zero(gradient_checkpointing: bool) -> None:
    model = still(gradient_checkpointing=gradient_checkpointing)
    inputs = reference_batch(model)
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORED)
    losses = model(**inputs)
    losses.loss.backward()
    assert losses.loss == 0
    assert losses.tokens == 0
    assert not any(gradient_norms(model).values())


# --- memory and precision ----------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = still(), still(gradient_checkpointing=True)
    for model in (plain, saving):
        loss_of(model, reference_batch(model)).backward()
    assert gradient_norms(saving) == pytest.approx(gradient_norms(plain), rel=1e-6, abs=1e-9)


def test_gradient_checkpointing_keeps_fewer_activations() -> None:
    def kept(model: TrainableModel) -> int:
        held = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        weights = {part.untyped_storage().data_ptr() for part in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_of(model, reference_batch(model))
        return sum(tensor.nbytes for place, tensor in held.items() if place not in weights)

    assert kept(still(gradient_checkpointing=True)) < kept(still()) / 3


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_mixed_precision_keeps_weights_and_the_loss_in_fp32(gradient_checkpointing: bool) -> None:
    model = still(gradient_checkpointing=gradient_checkpointing)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**reference_batch(model))
    losses.loss.backward()
    assert losses.loss.dtype == losses.sample_losses.dtype == torch.float32
    assert {part.grad.dtype for part in model.parameters() if part.grad is not None} == {torch.float32}
    assert losses.loss.item() / losses.tokens.item() == pytest.approx(TRAINING["loss"], rel=0.03)


def test_weights_in_bf16_train() -> None:
    model = still(weights="bf16")
    assert {part.dtype for part in model.parameters()} == {torch.bfloat16}
    before, *_, after = train_steps(model, steps=5)
    assert after < before


def test_every_attention_gives_the_same_loss() -> None:
    for attention in ("sdpa", "eager"):
        model = still(attention=attention)
        assert loss_of(model, reference_batch(model)).item() == pytest.approx(TRAINING["loss"], rel=1e-5)


# --- what is trained ---------------------------------------------------------------------------------------

FREEZING: dict[str, tuple[tuple[str, ...], str, str]] = {  # patterns, what is frozen, what is not
    "vision": (("vision",), "vision_tower.convs.0.proj.weight", "image_projection"),
    "language": (("language",), TIED[0], "image_projection"),
    "other": (("other",), "image_pos_embed.row_embeddings.weight", TIED[0]),
    "a pattern": (("*.decoder.*",), TIED[0], "language_model.model.encoder.layers.0.fc1.weight"),
    "a beginning": (("vision_tower.blocks.2",), "vision_tower.blocks.2.0.spatial_block.ffn.fn.net.fc1.weight",
                    "vision_tower.blocks.3.0.spatial_block.ffn.fn.net.fc1.weight"),
    "the converted format": (("model.language_model.decoder.*",),
                             "language_model.model.decoder.layers.1.fc1.weight",
                             "language_model.model.encoder.layers.1.fc1.weight"),
    "an exception": (("*", "!language_model.model.decoder.layers.*"), "image_projection",
                     "language_model.model.decoder.layers.1.fc1.weight"),
    "the tied matrix by another name": (("language_model.lm_head",), TIED[0], "image_projection"),
}  # fmt: skip


@pytest.mark.parametrize("case", FREEZING)
def test_what_is_frozen_stays_as_it_is_and_the_rest_is_trained(case: str) -> None:
    patterns, frozen, trained = FREEZING[case]
    model = still(freeze=patterns)
    names = [name for name, _ in model.network.named_parameters()]
    ours = {public: name for name, public in published_names(names, model.config).items()}
    before = {name: part.detach().clone() for name, part in model.network.named_parameters()}
    losses = train_steps(model, steps=4)
    assert losses[-1] < losses[0]
    after = dict(model.network.named_parameters())
    assert torch.equal(before[ours[frozen]], after[ours[frozen]])
    assert not torch.equal(before[ours[trained]], after[ours[trained]])
    for name, _ in model.trainable_parameters():
        assert not torch.equal(before[name.removeprefix("network.")], after[name.removeprefix("network.")])


def test_a_pattern_that_stands_for_nothing_is_told_with_the_nearest_names() -> None:
    with pytest.raises(TrainingError, match=r"'image_projektion'.*nearest are image_projection"):
        still(freeze=("image_projektion",))


def test_freezing_everything_leaves_nothing_to_train() -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        still(freeze=("vision", "language", "other"))


def test_a_frozen_tower_keeps_no_activations_and_always_sees_the_same() -> None:
    model = TrainableModel.load(REFERENCE, ModelOptions(freeze=("vision", "other")))
    pixel_values = reference_batch(model)["pixel_values"]
    assert not model._encode_images(pixel_values).requires_grad
    torch.testing.assert_close(model._encode_images(pixel_values), model._encode_images(pixel_values))


# --- dropout -----------------------------------------------------------------------------------------------

DROPS: dict[str, dict[str, Any]] = {
    "as the checkpoint says": {},  # attention, activation and drop path of 0.1
    "dropout": {"dropout": 0.3},
    "attention_dropout": {"attention_dropout": 0.3},
    "activation_dropout": {"activation_dropout": 0.3},
    "drop_path_rate": {"drop_path_rate": 0.5},
}


@pytest.mark.parametrize("kind", DROPS)
def test_dropout_is_as_configured_in_training_and_off_in_evaluation(kind: str) -> None:
    torch.manual_seed(0)
    options = DROPS[kind]
    model = still(**options) if options else TrainableModel.load(REFERENCE)
    inputs = reference_batch(model)
    assert len({loss_of(model, inputs).item() for _ in range(4)}) > 1
    model.eval()
    assert loss_of(model, inputs).item() == pytest.approx(TRAINING["loss"], rel=1e-5)
    model.train()
    assert loss_of(model, inputs).item() != pytest.approx(TRAINING["loss"], rel=1e-5)


def test_a_frozen_language_model_drops_nothing() -> None:
    model = TrainableModel.load(REFERENCE, ModelOptions(freeze=("language",), drop_path_rate=0.0))
    assert loss_of(model, reference_batch(model)).item() == pytest.approx(TRAINING["loss"], rel=1e-5)


def test_a_drop_path_that_nobody_states_is_the_published_class_s(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path, weights=True)
    edit_json(folder / "config.json", lambda raw: raw["vision_config"].pop("drop_path_rate"))
    assert TrainableModel.load(folder).config.vision.drop_path_rate == 0.1


def test_drop_paths_grow_as_in_the_published_code() -> None:
    tower = TrainableModel.load(REFERENCE, ModelOptions(drop_path_rate=0.9)).network.vision_tower
    blocks = [block for stage in tower.stages for pair in stage.blocks for block in pair]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.1 * place for place in range(10)])  # 5 blocks of two each
    assert rates == [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]


def test_gradient_checkpointing_draws_the_same_dropout_again() -> None:
    norms = []
    for saving in (False, True):
        model = TrainableModel.load(REFERENCE, ModelOptions(dropout=0.2, gradient_checkpointing=saving))
        torch.manual_seed(3)
        loss_of(model, reference_batch(model)).backward()
        norms.append(gradient_norms(model))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5, abs=1e-9)


# --- options and states ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModelOptions(dropout=1.5), "dropout is 1.5"),
        (lambda: ModelOptions(attention="flash"), "attention is 'flash'"),
        (lambda: ModelOptions(weights="fp16"), "weights is 'fp16'"),
        (lambda: LoraOptions(rank=0), "rank is 0"),
        (lambda: LoraOptions(alpha=-1), "alpha is -1"),
        (lambda: LoraOptions(bias="some"), "bias is 'some'"),
    ],
)
def test_an_option_out_of_range_is_told(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_what_training_changed_can_be_put_into_another_model() -> None:
    trained, other = still(freeze=("vision",)), still(freeze=("vision",))
    train_steps(trained)
    inputs = reference_batch(other)
    wanted = loss_of(trained, inputs)
    assert loss_of(other, inputs) != wanted
    other.load_trainable_state({name: part.clone() for name, part in trained.trainable_state().items()})
    assert loss_of(other, inputs) == wanted
    assert not any(name.startswith("network.vision_tower") for name in trained.trainable_state())
    with pytest.raises(TrainingError, match="does not go with these options"):
        still().load_trainable_state(trained.trainable_state())
