"""Training data in folders: as the published trainer has it, and as ``promptgen folder`` writes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from promptgen.training.data import DataSource, Layout
from promptgen.training.data.layouts import layout_of
from promptgen.training.errors import DataError

from .command_line import Promptgen
from .training_data import drawn, drawn_as, kinds, load, save_drawn, told, write_text

# Folders called as instructions


@pytest.mark.parametrize(
    "names",
    [
        ("<CAPTION>", "<GENERATE_TAGS>"),
        ("caption", "Generate_Tags"),
        ("\uff1cCAPTION\uff1e", "\uff1cgenerate_tags\uff1e"),  # as it is written where <> are forbidden
    ],
)
def test_the_published_layout(tmp_path: Path, names: tuple[str, str]) -> None:
    caption, tags = names
    for number, name in enumerate(["a.jpg", "b b.webp", "c.JPEG", "d.PNG"]):
        save_drawn(tmp_path / name, number)
        write_text(
            tmp_path / caption / f"{Path(name).stem}.txt", f"\ufeff  a  drawing,\r\nnumber {number} \n"
        )
    write_text(tmp_path / tags / "d.txt", "square,  white background")

    examples, problems = load(tmp_path)

    assert told(examples) == [
        ("a.jpg", "CAPTION", "a drawing,\nnumber 0"),
        ("b b.webp", "CAPTION", "a drawing,\nnumber 1"),
        ("c.JPEG", "CAPTION", "a drawing,\nnumber 2"),
        ("d.PNG", "CAPTION", "a drawing,\nnumber 3"),
        ("d.PNG", "GENERATE_TAGS", "square, white background"),
    ]
    assert problems == []
    assert drawn_as(next(example for example in examples if example.image.name == "d.PNG"), 3)


def test_what_the_published_layout_may_lack(tmp_path: Path) -> None:
    for number, name in enumerate(["a.png", "b.png", "c.png", "sub/d.png"]):
        save_drawn(tmp_path / name, number)
    write_text(tmp_path / "CAPTION" / "a.txt", "good")
    write_text(tmp_path / "CAPTION" / "b.txt", " \n")
    write_text(tmp_path / "CAPTION" / "gone.txt", "no image of that name")
    (tmp_path / "CAPTION" / "c.txt").write_bytes("Ärger".encode("latin-1"))
    write_text(tmp_path / "old" / "a.txt", "of a folder that is called as nothing")
    write_text(tmp_path / "sub" / "OCR" / "d.txt", "deeper")
    write_text(tmp_path / ".hidden" / "a.txt", "nobody's")

    examples, problems = load(tmp_path)

    assert told(examples) == [("a.png", "CAPTION", "good"), ("sub/d.png", "OCR", "deeper")]
    assert kinds(problems) == [
        ("empty caption", "b.txt"),
        ("no image", "gone.txt"),
        ("unknown instruction", "a.txt"),
        ("unreadable caption", "c.txt"),
    ]


def test_an_empty_caption_can_be_the_answer(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "OCR" / "a.txt", "\n")
    examples, problems = load(tmp_path, empty_captions="keep")
    assert told(examples) == [("a.png", "OCR", "")]
    assert problems == []
    save_drawn(tmp_path / "side" / "b.png", 2)
    write_text(tmp_path / "side" / "b.txt", "")
    examples, _ = load(tmp_path / "side", layout=Layout.SIDECAR, instruction="OD", empty_captions="keep")
    assert told(examples) == [("b.png", "OD", "")]


def test_what_systems_leave_behind_is_nothing(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "CAPTION" / "a.txt", "good")
    for name in ("__MACOSX/._a.png", "__MACOSX/CAPTION/._a.txt", "CAPTION/._a.txt", "CAPTION/.DS_Store",
                 "CAPTION/Thumbs.db", "CAPTION/desktop.ini", "Thumbs.db", ".hidden.png"):  # fmt: skip
        write_text(tmp_path / name, "\0")
    examples, problems = load(tmp_path)
    assert (told(examples), problems) == ([("a.png", "CAPTION", "good")], [])


def test_links_that_lead_round_are_followed_once(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "CAPTION" / "a.txt", "good")
    try:
        (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert told(load(tmp_path)[0]) == [("a.png", "CAPTION", "good")]


def test_an_accent_has_one_form_whoever_wrote_it(tmp_path: Path) -> None:
    """macOS may write it as a character of its own."""
    save_drawn(tmp_path / "cafe\u0301.png", 1)
    write_text(tmp_path / "CAPTION" / "caf\u00e9.txt", "good")
    assert told(load(tmp_path)[0]) == [("caf\u00e9.png", "CAPTION", "good")]


def test_of_images_of_one_name_the_published_trainer_takes_the_jpeg(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    save_drawn(tmp_path / "a.jpg", 2)
    write_text(tmp_path / "CAPTION" / "a.txt", "which")
    examples, problems = load(tmp_path)
    assert told(examples) == [("a.jpg", "CAPTION", "which")]
    assert [(problem.kind, problem.counts) for problem in problems] == [("image without caption", False)]


def test_a_bracketed_folder_must_be_an_instruction(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "<CAPTOIN>" / "a.txt", "x")
    with pytest.raises(DataError, match=r"<CAPTOIN>: unknown instruction .* Did you mean CAPTION\?"):
        load(tmp_path, layout=Layout.TASKS)


def test_caption_files_have_no_place_for_a_text_input(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "REGION_TO_OCR" / "a.txt", "STOP")
    with pytest.raises(DataError, match="Use a table"):
        load(tmp_path)


def test_an_instruction_chooses_among_the_folders(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "CAPTION" / "a.txt", "short")
    write_text(tmp_path / "DETAILED_CAPTION" / "a.txt", "long")
    write_text(tmp_path / "a.txt", "beside")
    assert told(load(tmp_path, instruction="detailed")[0]) == [("a.png", "DETAILED_CAPTION", "long")]
    examples, problems = load(tmp_path, instruction="OCR")
    assert (told(examples), problems) == ([("a.png", "OCR", "beside")], [])


# Sidecars


def test_sidecars_of_several_instructions(tmp_path: Path) -> None:
    for number, name in enumerate(["a.png", "deep/b.b.jpg"]):
        picture = save_drawn(tmp_path / name, number)
        write_text(picture.with_suffix(".txt"), f"caption {number}")
        write_text(picture.with_suffix(".tags"), f"tag, {number}")
    extensions = {".txt": "MORE_DETAILED_CAPTION", "tags": "tags"}
    examples, problems = load(tmp_path, extensions=extensions, repeats=2)
    assert told(examples) == [
        ("a.png", "GENERATE_TAGS", "tag, 0"), ("a.png", "MORE_DETAILED_CAPTION", "caption 0"),
        ("deep/b.b.jpg", "GENERATE_TAGS", "tag, 1"), ("deep/b.b.jpg", "MORE_DETAILED_CAPTION", "caption 1"),
    ]  # fmt: skip
    assert problems == []
    assert {example.repeats for example in examples} == {2}


def test_sidecars_in_a_tree_of_their_own_and_by_the_whole_name(tmp_path: Path) -> None:
    save_drawn(tmp_path / "images/x/a.png", 1)
    save_drawn(tmp_path / "images/x/a.jpg", 2)
    write_text(tmp_path / "texts/x/a.png.txt", "the first")
    write_text(tmp_path / "texts/x/a.jpg.txt", "the second")
    examples, _ = load(tmp_path / "images", captions_dir=tmp_path / "texts", instruction="<CAPTION>")
    assert told(examples) == [("x/a.jpg", "CAPTION", "the second"), ("x/a.png", "CAPTION", "the first")]


def test_two_images_cannot_share_a_caption(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.jpg", 1)
    save_drawn(tmp_path / "a.png", 2)
    write_text(tmp_path / "a.txt", "whose?")
    write_text(tmp_path / "b.txt", "nobody's")
    examples, problems = load(tmp_path, instruction="CAPTION")
    assert told(examples) == [("a.jpg", "CAPTION", "whose?")]
    assert kinds(problems) == [("no image", "b.txt"), ("shared caption", "a.png")]


def test_sidecars_do_not_say_what_they_answer(tmp_path: Path) -> None:
    for number in range(3):
        write_text(save_drawn(tmp_path / f"{number}.png", number).with_suffix(".txt"), "x")
    with pytest.raises(
        DataError, match=r"nothing says what its caption files \(3 \.txt\) answer.*instruction: "
    ):
        load(tmp_path)


def test_sidecars_of_one_instruction_are_of_one_extension(tmp_path: Path) -> None:
    """Tags are not taken for the description that lies beside them."""
    for number in range(3):
        picture = save_drawn(tmp_path / f"{number}.png", number)
        write_text(picture.with_suffix(".txt"), "a description")
        write_text(picture.with_suffix(".tags"), "tag")
    with pytest.raises(DataError, match=r"3 \.txt and 3 \.tags files.*extensions: {tags: GENERATE_TAGS}"):
        load(tmp_path, instruction="GENERATE_TAGS")
    examples, _ = load(tmp_path, extensions={"tags": "GENERATE_TAGS"})
    assert [example.target for example in examples] == ["tag"] * 3


def test_other_texts_beside_images_are_no_captions(tmp_path: Path) -> None:
    write_text(tmp_path / "licence.txt", "do what you like")
    write_text(save_drawn(tmp_path / "a.png", 1).with_suffix(".caption"), "a caption")
    examples, problems = load(tmp_path, instruction="CAPTION")
    assert (told(examples), problems) == ([("a.png", "CAPTION", "a caption")], [])


def test_a_folder_of_captions_alone_is_told_how_to_be_used(tmp_path: Path) -> None:
    save_drawn(tmp_path / "images/a.png", 1)
    write_text(tmp_path / "texts/a.txt", "a caption")
    with pytest.raises(DataError, match=r"Are its 1 \.txt files captions .* captions_dir: "):
        load(tmp_path / "texts", instruction="CAPTION")


# What we have written ourselves


@pytest.mark.parametrize("form", ["sidecar", "jsonl", "csv", "parquet", "imagefolder", "kohya"])
def test_what_a_folder_run_writes_is_training_data(tmp_path: Path, promptgen: Promptgen, form: str) -> None:
    images = tmp_path / "images"
    for number in range(2):
        save_drawn(images / f"{number}.png", number)
    names = {"sidecar": None, "imagefolder": "images/metadata.jsonl", "kohya": "captions.json"}
    name = names.get(form, f"captions.{form}")
    asked = {"sidecar": "GENERATE_TAGS:tags,CAPTION:txt"}.get(form, "GENERATE_TAGS,CAPTION")
    written = [] if name is None else ["-o", tmp_path / name]
    assert promptgen("folder", images, "-m", "demo", "-i", asked, "-q", *written).status == 0

    if form == "sidecar":
        write_text(images / "0.txt", "Corrected by hand.")
        examples, problems = load(images, extensions={"tags": "GENERATE_TAGS", "txt": "CAPTION"})
    elif form == "imagefolder":
        examples, problems = load(images)
    elif form == "kohya":
        columns = {"caption": "CAPTION", "tags": "GENERATE_TAGS"}
        examples, problems = load(tmp_path / "captions.json", columns=columns)
    else:
        examples, problems = load(tmp_path / f"captions.{form}", images_dir=images)

    assert problems == []
    found = [(Path(name).name, instruction) for name, instruction, _ in told(examples)]
    assert found == [
        (f"{number}.png", asked) for number in range(2) for asked in ("CAPTION", "GENERATE_TAGS")
    ]
    assert all(example.target.strip() == example.target != "" for example in examples)
    if form == "sidecar":
        assert ("0.png", "CAPTION", "Corrected by hand.") in told(examples)


# What is there


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: there is no such file or folder"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="there are no images in it"):
        load(tmp_path)
    write_text(tmp_path / "images.zip", "")
    with pytest.raises(DataError, match=r"; unpack images\.zip first"):
        load(tmp_path)
    with pytest.raises(DataError, match="unpack it, and name the folder"):
        load(tmp_path / "images.zip")
    save_drawn(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match=r"there is no example in it; .* \(layout: sidecar\)"):
        load(tmp_path, instruction="CAPTION")
    with pytest.raises(DataError, match="training data is a folder, or a table"):
        load(tmp_path / "a.png")


def test_the_layout_that_is_named_is_taken(tmp_path: Path) -> None:
    save_drawn(tmp_path / "a.png", 1)
    write_text(tmp_path / "a.txt", "beside")
    write_text(tmp_path / "CAPTION" / "a.txt", "below")
    assert layout_of(DataSource(path=tmp_path)) is Layout.TASKS
    examples, _ = load(tmp_path, layout=Layout.SIDECAR, instruction="CAPTION")
    assert ("a.png", "CAPTION", "beside") in told(examples)


def test_unusual_images_names_and_texts_are_read(tmp_path: Path) -> None:
    """Turned by EXIF, CMYK, 16 bits, animated, linked; upper case, spaces, other scripts; BOM and CRLF."""
    root, picture = tmp_path / "my b\u00ebst pictures", drawn(1)
    root.mkdir()
    turned = Image.Exif()
    turned[0x112] = 6
    picture.save(root / "UPPER.JPG")
    picture.save(root / "turned by a phone.jpg", exif=turned)
    picture.convert("CMYK").save(root / "cmyk.jpg")
    Image.new("I;16", picture.size, 40_000).save(root / "deep.png")
    picture.save(root / "moving.gif", save_all=True, append_images=[drawn(2)])
    picture.save(root / "\u5199\u771f.webp", save_all=True, append_images=[drawn(2)])
    picture.save(tmp_path / "elsewhere.png")
    if os.name != "nt":
        (root / "linked.png").symlink_to(tmp_path / "elsewhere.png")
        (root / "round").symlink_to(root, target_is_directory=True)
    for path in list(root.glob("*.*")):
        ending = ".TXT" if path.suffix.isupper() else ".txt"
        path.with_suffix(ending).write_bytes(b"\xef\xbb\xbfa  drawing\r\nof a square\r\n")
    examples, problems = load(root, instruction="CAPTION")
    assert problems == []
    assert {example.target for example in examples} == {"a drawing\nof a square"}
    sizes = {example.image.name: example.image.open().size for example in examples}
    assert len(sizes) == (7 if os.name != "nt" else 6)
    assert sizes.pop("turned by a phone.jpg") == picture.size[::-1]
    assert set(sizes.values()) == {picture.size}
    assert {example.image.open().mode for example in examples} == {"RGB"}
