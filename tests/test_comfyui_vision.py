"""The vision nodes in a real ComfyUI: pictures, masks, boxes and texts equal to those of the engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    Region,
    VisionOptions,
    draw_masks,
    draw_overlay,
    open_image,
)
from promptgen.captioning.tiles import TileOptions
from promptgen.training.demo.scenes import draw_scene

from .comfyui_host import Entry, Host, HostError
from .helpers_dev import ROOT

pytestmark = pytest.mark.comfyui

SCENE, SIGN = "circle-heart-square.png", "stop.png"
OVERLAY, MASK, OBJECTS, TEXT, JSON, BOXES, BOUNDING, CROPS, COUNT = range(9)

Pixels = np.ndarray[Any, Any]


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def vision(image: Sequence[Any], task: str = "OD", **inputs: Any) -> dict[str, Any]:
    required = {"checkpoint": "demo", "text_input": "", "select": "", "threshold": 0.0}
    return node("PromptGenVision", image=image, task=task, **{**required, **inputs})


def pictures(entry: Entry, host: Host, key: str) -> list[Pixels]:
    """What a PreviewImage was given, ``[H, W, 3]`` of bytes each."""
    files = entry.outputs[key]["images"]
    folders = [host.temp_dir / file["subfolder"] / file["filename"] for file in files]
    return [np.asarray(Image.open(path).convert("RGB")) for path in folders]


def grey(masks: Sequence[Image.Image]) -> list[Pixels]:
    """As MaskToImage shows them."""
    return [np.asarray(mask.convert("RGB")) for mask in masks]


def same(given: Sequence[Pixels], wanted: Sequence[Pixels]) -> None:
    assert [one.shape for one in given] == [one.shape for one in wanted]
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def engine() -> Captioner:
    return Captioner("demo", device="cpu")


def found(engine: Captioner, picture: str | Path, **options: Any) -> tuple[Region, ...]:
    """The objects in an example, or in another picture."""
    (answer,) = engine.caption(ROOT / "examples" / picture, "OD", CaptionOptions(**options))
    assert answer.ok, answer.error
    regions: tuple[Region, ...] = getattr(answer.results[0], "regions")  # noqa: B009
    return regions


def uploaded(host: Host, *names: str) -> list[str]:
    return [host.upload(ROOT / "examples" / name) for name in names]


def test_everything_about_one_picture(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SCENE)
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0]),
            "overlay": node("PreviewImage", images=["see", OVERLAY]),
            "mask": node("MaskToImage", mask=["see", MASK]),
            "masks": node("PreviewImage", images=["mask", 0]),
            "object": node("MaskToImage", mask=["see", OBJECTS]),
            "objects": node("PreviewImage", images=["object", 0]),
            "crops": node("PreviewImage", images=["see", CROPS]),
            **{
                f"any{output}": node("PreviewAny", source=["see", output])
                for output in (TEXT, JSON, BOXES, BOUNDING, COUNT)
            },
        }
    )
    assert entry.error is None
    regions, image = found(engine, SCENE), open_image(ROOT / "examples" / SCENE)
    assert len(regions) == 3
    labels = [region.label for region in regions]
    same(pictures(entry, host, "overlay"), [np.asarray(draw_overlay(image, regions))])
    same(pictures(entry, host, "masks"), grey(draw_masks(regions, image.size, per_object=False)))
    same(pictures(entry, host, "objects"), grey(draw_masks(regions, image.size, per_object=True)))
    boxes = [region.box for region in regions]
    corners = [(int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1)) for box in boxes if box]
    same(pictures(entry, host, "crops"), [np.asarray(image.crop(box)) for box in corners])

    assert entry.texts(f"any{TEXT}") == [", ".join(labels)]
    assert entry.texts("see") == ["\n".join(f"{place}: {label}" for place, label in enumerate(labels))]
    assert entry.texts(f"any{COUNT}") == ["3"]
    record = json.loads(entry.texts(f"any{JSON}")[0])
    assert [record["width"], record["height"]] == list(image.size)
    assert (record["instruction"], record["text"]) == ("OD", ", ".join(labels))
    assert [Region.from_dict(region) for region in record["regions"]] == list(regions)
    assert json.loads(entry.texts(f"any{BOXES}")[0]) == [list(box) for box in boxes if box]
    assert json.loads(entry.texts(f"any{BOUNDING}")[0]) == [
        [
            {"x": box[0], "y": box[1], "width": box[2] - box[0], "height": box[3] - box[1], "label": label}
            for box, label in zip(corners, labels, strict=True)
        ]
    ]


def test_the_mask_is_one_for_nodes_of_core(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SCENE)
    image, regions = open_image(ROOT / "examples" / SCENE), found(engine, SCENE)
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0]),
            "paint": node("EmptyImage", width=image.width, height=image.height, batch_size=1, color=0x00FF00),
            "put": node(
                "ImageCompositeMasked",
                destination=["load", 0],
                source=["paint", 0],
                x=0,
                y=0,
                resize_source=False,
                mask=["see", MASK],
            ),
            "shown": node("PreviewImage", images=["put", 0]),
        }
    )
    assert entry.error is None
    (mask,) = draw_masks(regions, image.size, per_object=False)
    within, pixels = np.asarray(mask), np.asarray(image)
    (shown,) = pictures(entry, host, "shown")
    np.testing.assert_array_equal(shown[within == 0], pixels[within == 0])
    assert (shown[within == 255] == (0, 255, 0)).all()
    assert (within == 255).any()


def test_masks_grow_and_soften_and_crops_have_margins(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SCENE)
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0], select="1", fill=False, mask_grow=6, mask_feather=3, crop_margin=1000),
            "overlay": node("PreviewImage", images=["see", OVERLAY]),
            "mask": node("MaskToImage", mask=["see", MASK]),
            "masks": node("PreviewImage", images=["mask", 0]),
            "crops": node("PreviewImage", images=["see", CROPS]),
        }
    )
    assert entry.error is None
    regions, image = found(engine, SCENE)[1:2], open_image(ROOT / "examples" / SCENE)
    drawn = draw_masks(regions, image.size, per_object=False, grow=6, feather=3)
    same(pictures(entry, host, "masks"), grey(drawn))
    same(pictures(entry, host, "overlay"), [np.asarray(draw_overlay(image, regions, fill=False))])
    same(pictures(entry, host, "crops"), [np.asarray(image)])
    assert entry.texts("see") == [f"1: {regions[0].label}"], "by its number among all"


def test_pictures_are_those_of_the_command_line(host: Host, tmp_path: Path) -> None:
    (name,) = uploaded(host, SCENE)
    command = [sys.executable, "-m", "promptgen.cli", "detect", str(ROOT / "examples" / SCENE)]
    command += ["--model", "demo", "--device", "cpu", "--format", "json", "--scores", "--select", "0, 2"]
    command += ["--overlay", "overlay.png", "--mask", "mask.png", "--grow", "3", "--feather", "2"]
    done = subprocess.run(
        [*command, "--crop", "crops"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
    )
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0], select="0, 2", scores=True, mask_grow=3, mask_feather=2),
            "overlay": node("PreviewImage", images=["see", OVERLAY]),
            "mask": node("MaskToImage", mask=["see", MASK]),
            "masks": node("PreviewImage", images=["mask", 0]),
            "crops": node("PreviewImage", images=["see", CROPS]),
            "json": node("PreviewAny", source=["see", JSON]),
        }
    )
    assert entry.error is None
    same(pictures(entry, host, "overlay"), [np.asarray(Image.open(tmp_path / "overlay.png").convert("RGB"))])
    same(pictures(entry, host, "masks"), grey([Image.open(tmp_path / "mask.png")]))
    cuts = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "crops").rglob("*.png"))]
    assert len(cuts) == 2
    same(pictures(entry, host, "crops"), cuts)
    record = json.loads(done.stdout)[0]
    mine = json.loads(entry.texts("json")[0])
    assert mine == {key: record[key] for key in record if key not in ("image", "model")}


def test_a_batch_and_a_list(host: Host, engine: Captioner, tmp_path: Path) -> None:
    for index, size in enumerate([(160, 128), (160, 128), (97, 140)]):
        draw_scene(7000 + index, size=size)[0].save(tmp_path / f"scene{index}.png")
    paths = sorted(tmp_path.iterdir())
    images, regions = [open_image(path) for path in paths], [found(engine, path) for path in paths]
    assert len({len(found) for found in regions}) > 1
    entry = host.run(
        {
            "a": node("LoadImage", image=host.upload(paths[0])),
            "b": node("LoadImage", image=host.upload(paths[1])),
            "batch": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
            "see": vision(["batch", 0]),
            "overlay": node("PreviewImage", images=["see", OVERLAY]),
            "mask": node("MaskToImage", mask=["see", MASK]),
            "masks": node("PreviewImage", images=["mask", 0]),
            "count": node("PreviewAny", source=["see", COUNT]),
            "boxes": node("PreviewAny", source=["see", BOUNDING]),
            "folder": node("PromptGenLoadFolder", folder=str(tmp_path)),
            "each": vision(["folder", 0]),
            "overlays": node("PreviewImage", images=["each", OVERLAY]),
        }
    )
    assert entry.error is None
    drawn = [np.asarray(draw_overlay(*pair)) for pair in zip(images, regions, strict=True)]
    masks = [
        draw_masks(found, image.size, per_object=False)[0]
        for image, found in zip(images, regions, strict=True)
    ]
    same(pictures(entry, host, "overlay"), drawn[:2])
    same(pictures(entry, host, "masks"), grey(masks[:2]))
    same(pictures(entry, host, "overlays"), drawn)
    assert [len(text.splitlines()) for text in entry.texts("each")] == [len(found) for found in regions]
    assert entry.texts("count") == [str(len(found)) for found in regions[:2]]
    frames = json.loads(entry.texts("boxes")[0])
    assert [len(frame) for frame in frames] == [len(found) for found in regions[:2]]


def test_texts_of_each_frame_go_with_the_frames(host: Host, engine: Captioner, tmp_path: Path) -> None:
    for index in range(2):
        draw_scene(7000 + index, size=(160, 128))[0].save(tmp_path / f"scene{index}.png")
    paths = sorted(tmp_path.iterdir())
    entry = host.run(
        {
            "a": node("LoadImage", image=host.upload(paths[0])),
            "b": node("LoadImage", image=host.upload(paths[1])),
            "batch": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
            "see": vision(["batch", 0]),
            "ask": vision(["batch", 0], "REGION_TO_CATEGORY", regions=["see", JSON]),
            "json": node("PreviewAny", source=["ask", JSON]),
        }
    )
    assert entry.error is None
    boxes = [[region["box"] for region in json.loads(text)["regions"]] for text in entry.texts("json")]
    for given, path in zip(boxes, paths, strict=True):
        wanted = [list(region.box or ()) for region in found(engine, path)]
        np.testing.assert_allclose(given, wanted)
    assert boxes[0] != boxes[1]


def test_scores_and_a_threshold(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SCENE)
    scored = found(engine, SCENE, vision=VisionOptions(scores=True))
    scores = sorted(region.score or 0 for region in scored)
    between = round((scores[0] + scores[1]) / 2, 4)
    assert scores[0] < between < scores[1]
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "all": vision(["load", 0], scores=True),
            "some": vision(["load", 0], threshold=between),
            "best": vision(["load", 0], max_regions=1),
            "overlay": node("PreviewImage", images=["some", OVERLAY]),
            "json": node("PreviewAny", source=["some", JSON]),
        }
    )
    assert entry.error is None
    kept = found(engine, SCENE, vision=VisionOptions(threshold=between))
    assert len(kept) == 2
    record = json.loads(entry.texts("json")[0])
    assert [Region.from_dict(region) for region in record["regions"]] == list(kept)
    image = open_image(ROOT / "examples" / SCENE)
    same(pictures(entry, host, "overlay"), [np.asarray(draw_overlay(image, kept))])
    assert entry.texts("all") == [
        "\n".join(f"{place}: {region.label} {region.score:.2f}" for place, region in enumerate(scored))
    ]
    assert entry.texts("best")[0].endswith(f"{scores[-1]:.2f}")


def test_tiles(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SIGN)
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0], tiling="auto", tile_size=160),
            "json": node("PreviewAny", source=["see", JSON]),
            "ask": vision(["load", 0], "REGION_TO_OCR", tiling="auto", regions="0,0,1,1"),  # not cut
        }
    )
    assert entry.error is None
    record = json.loads(entry.texts("json")[0])
    tiled = found(engine, SIGN, vision=VisionOptions(tile=TileOptions(160)))
    assert [Region.from_dict(region) for region in record["regions"]] == list(tiled)
    assert tiled != found(engine, SIGN)


def test_where_nothing_is_found_the_mask_is_empty_and_nothing_is_cut_out(host: Host) -> None:
    (name,) = uploaded(host, SCENE)
    entry = host.run(
        {
            "load": node("LoadImage", image=name),
            "see": vision(["load", 0], threshold=1.0),
            "overlay": node("PreviewImage", images=["see", OVERLAY]),
            "mask": node("MaskToImage", mask=["see", MASK]),
            "masks": node("PreviewImage", images=["mask", 0]),
            "object": node("MaskToImage", mask=["see", OBJECTS]),
            "objects": node("PreviewImage", images=["object", 0]),
            "crops": node("PreviewImage", images=["see", CROPS]),
            "boxes": node("PreviewAny", source=["see", BOXES]),
            "bounding": node("PreviewAny", source=["see", BOUNDING]),
            "count": node("PreviewAny", source=["see", COUNT]),
        }
    )
    assert entry.succeeded, entry.error
    image = np.asarray(open_image(ROOT / "examples" / SCENE))
    same(pictures(entry, host, "overlay"), [image])
    same(pictures(entry, host, "masks"), [np.zeros_like(image)])
    assert not {"objects", "crops", "boxes"} & set(entry.outputs)
    assert entry.texts("count") == ["0"]
    assert json.loads(entry.texts("bounding")[0]) == [[]]
    assert entry.texts("see") == ["nothing found"]


def test_what_is_selected_must_be_somewhere(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SCENE)
    first, second, third = (region.label for region in found(engine, SCENE))
    prompt = {
        "load": node("LoadImage", image=name),
        "see": vision(["load", 0], select=f" {third.upper()} , 0"),
        "text": node("PreviewAny", source=["see", TEXT]),
    }
    assert host.run(prompt).texts("text") == [f"{first}, {third}"]
    prompt["see"]["inputs"]["select"] = "traffic light"
    entry = host.run(prompt)
    assert entry.error is not None
    message = entry.error["exception_message"]
    assert "no region is traffic light; there are 3" in message
    assert all(label in message for label in (first, second, third))


def test_of_a_list_of_images_one_that_has_what_is_selected_is_enough(
    host: Host, engine: Captioner, tmp_path: Path
) -> None:
    for index, size in enumerate([(160, 128), (160, 128), (97, 140)]):
        draw_scene(7000 + index, size=size)[0].save(tmp_path / f"scene{index}.png")
    labels = [[region.label for region in found(engine, path)] for path in sorted(tmp_path.iterdir())]
    everything = sorted({label for these in labels for label in these})
    rare = min(everything, key=lambda label: sum(label in these for these in labels))
    counts = [these.count(rare) for these in labels]
    assert 0 in counts
    prompt = {
        "folder": node("PromptGenLoadFolder", folder=str(tmp_path)),
        "see": vision(["folder", 0], select=rare),
        "count": node("PreviewAny", source=["see", COUNT]),
    }
    entry = host.run(prompt)
    assert entry.error is None
    assert entry.texts("count") == [str(count) for count in counts]
    prompt["see"]["inputs"]["select"] = "bicycle"
    entry = host.run(prompt)
    assert entry.error is not None
    assert all(label in entry.error["exception_message"] for label in everything)


def test_a_task_that_answers_in_words_has_no_pictures(host: Host, engine: Captioner) -> None:
    (name,) = uploaded(host, SIGN)
    prompt = {
        "load": node("LoadImage", image=name),
        "see": vision(["load", 0], "OCR", text_input="is not read", threshold=0.5),
        "overlay": node("PreviewImage", images=["see", OVERLAY]),
        "text": node("PreviewAny", source=["see", TEXT]),
        "json": node("PreviewAny", source=["see", JSON]),
    }
    with host.events() as events:
        entry = host.run(prompt)
        told = events.wait_for("execution_error").data
    words = engine.caption(ROOT / "examples" / SIGN, "OCR")[0].results[0].text
    assert "STOP" in words
    assert entry.texts("text") == entry.texts("see") == [words]
    assert json.loads(entry.texts("json")[0])["text"] == words
    assert "overlay" not in entry.outputs
    assert "OCR answers in words" in told["exception_message"]
    assert "OCR_WITH_REGION" in told["exception_message"]


def test_regions_that_are_asked_about(host: Host, tmp_path: Path) -> None:
    """The demo model was not taught to answer; what it is asked about, and in what order, is right."""
    (name,) = uploaded(host, SCENE)
    image = open_image(ROOT / "examples" / SCENE)
    painted = Image.new("L", image.size, 255)  # Load Image masks what is transparent
    painted.paste(0, (20, 10, 60, 40))
    painted.paste(0, (70, 60, 90, 100))
    painted.putpixel((5, 5), 0)  # a speck
    image.putalpha(painted)
    image.save(tmp_path / "painted.png")
    masked = host.upload(tmp_path / "painted.png")
    prompt = {
        "load": node("LoadImage", image=name),
        "paint": node("LoadImage", image=masked),
        "typed": vision(["load", 0], "REGION_TO_OCR", regions="0.25,0.5,0.75,1; 10,20,30,40"),
        "typed json": node("PreviewAny", source=["typed", JSON]),
        "shown": vision(["load", 0], "REGION_TO_DESCRIPTION", region_mask=["paint", 1]),
        "shown json": node("PreviewAny", source=["shown", JSON]),
        "again": vision(["load", 0], "REGION_TO_CATEGORY", regions=["shown", JSON]),
        "again json": node("PreviewAny", source=["again", JSON]),
        "overlay": node("PreviewImage", images=["shown", OVERLAY]),
    }
    entry = host.run(prompt)
    assert entry.error is None
    boxes = {
        key: [region["box"] for region in json.loads(entry.texts(f"{key} json")[0])["regions"]]
        for key in ("typed", "shown", "again")
    }
    width, height = image.size
    assert boxes["typed"] == [[0.25 * width, 0.5 * height, 0.75 * width, height], [10, 20, 30, 40]]
    assert boxes["shown"] == boxes["again"] == [[20, 10, 60, 40], [70, 60, 90, 100]]
    assert len(pictures(entry, host, "overlay")) == 1
    assert entry.texts("shown")[0].startswith("demo was not trained on REGION_TO_DESCRIPTION")

    prompt = {"load": prompt["load"], "see": vision(["load", 0], "REGION_TO_OCR", region_mask=["load", 1])}
    empty = host.run(prompt).error
    assert empty is not None
    assert "The region mask is empty" in empty["exception_message"]
    del prompt["see"]["inputs"]["region_mask"]
    missing = host.run(prompt).error
    assert missing is not None
    assert "REGION_TO_OCR needs regions" in missing["exception_message"]


def test_frames_without_regions_are_not_asked_about(host: Host, engine: Captioner, tmp_path: Path) -> None:
    for index in range(2):
        draw_scene(7000 + index, size=(160, 128))[0].save(tmp_path / f"scene{index}.png")
    paths = sorted(tmp_path.iterdir())
    first, second = ([region.label for region in found(engine, path)] for path in paths)
    alone = next(label for label in second if label not in first)
    task = "REGION_TO_CATEGORY"
    prompt = {
        "a": node("LoadImage", image=host.upload(paths[0])),
        "b": node("LoadImage", image=host.upload(paths[1])),
        "batch": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
        "see": vision(["batch", 0], select=alone),
        "ask": vision(["batch", 0], task, regions=["see", JSON]),
        "ask mask": vision(["batch", 0], task, region_mask=["see", MASK]),
        "mask": node("MaskToImage", mask=["ask", MASK]),
        "masks": node("PreviewImage", images=["mask", 0]),
        "json": node("PreviewAny", source=["ask", JSON]),
        "count": node("PreviewAny", source=["ask", COUNT]),
        "count mask": node("PreviewAny", source=["ask mask", COUNT]),
    }
    entry = host.run(prompt)
    assert entry.error is None
    times = str(second.count(alone))
    assert entry.texts("count") == ["0", times]
    assert entry.texts("count mask")[0] == "0"
    empty, full = (json.loads(text) for text in entry.texts("json"))
    assert (empty["instruction"], empty["text"], empty["regions"]) == (task, "", [])
    assert full["text"]
    assert [mask.any() for mask in pictures(entry, host, "masks")] == [False, True]

    del prompt["ask mask"], prompt["count mask"]
    prompt["see"] = vision(["batch", 0], threshold=1.0)
    entry = host.run(prompt)
    assert entry.error is None
    assert entry.texts("count") == ["0", "0"]


def test_a_phrase_that_is_missing_and_a_task_that_is_unknown(host: Host) -> None:
    (name,) = uploaded(host, SCENE)
    load = node("LoadImage", image=name)
    entry = host.run({"load": load, "see": vision(["load", 0], "OPEN_VOCABULARY_DETECTION")})
    assert entry.error is not None
    assert "needs a text input" in entry.error["exception_message"]
    assert "Write into 'text_input' what it is about: " in entry.error["exception_message"]
    assert ".." not in entry.error["exception_message"]
    with pytest.raises(HostError, match="unknown instruction 'OBJECTS'"):
        host.run({"load": load, "see": vision(["load", 0], "OBJECTS")})


def test_one_mask_for_each_object_can_be_switched_off(host: Host) -> None:
    (name,) = uploaded(host, SCENE)
    prompt = {
        "load": node("LoadImage", image=name),
        "see": vision(["load", 0], per_object=False),
        "mask": node("MaskToImage", mask=["see", OBJECTS]),
        "shown": node("PreviewImage", images=["mask", 0]),
        "count": node("PreviewAny", source=["see", COUNT]),
    }
    with host.events() as events:
        entry = host.run(prompt)
        assert "switched off" in events.wait_for("execution_error").data["exception_message"]
    assert "shown" not in entry.outputs
    assert entry.texts("count") == ["3"]


def test_questions_about_documents(host: Host, engine: Captioner, tmp_path: Path) -> None:
    question = "What is written here?"
    for index in range(2):
        draw_scene(7010 + index, size=(160, 128))[0].save(tmp_path / f"page{index}.png")
    paths = sorted(tmp_path.iterdir())
    first, second = map(host.upload, paths)
    entry = host.run(
        {
            "a": node("LoadImage", image=first),
            "b": node("LoadImage", image=second),
            "batch": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
            "ask": node("PromptGenDocVQA", image=["batch", 0], checkpoint="demo", question=question),
            "answer": node("PreviewAny", source=["ask", 0]),
        }
    )
    options = CaptionOptions(text_input=question)
    right = [answer.results[0].text for answer in engine.caption(paths, "DOCVQA", options)]
    assert entry.texts("answer") == right
    note, _, shown = entry.texts("ask")[1].partition("\n\n")
    assert note == "demo was not trained on DOCVQA: its answer may make no sense. Florence-2-DocVQA was."
    assert shown == right[1]
    ask = node("PromptGenDocVQA", image=["a", 0], checkpoint="demo", question=" ")
    error = host.run({"a": node("LoadImage", image=host.upload(paths[0])), "ask": ask}).error
    assert error is not None
    assert "There is no question" in error["exception_message"]
