"""Pictures with regions drawn on them, pixel by pixel where that is certain; fonts for all scripts."""

from __future__ import annotations

import io
import logging
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import Region
from promptgen.captioning import fonts as fonts_module
from promptgen.captioning.font_files import read_face
from promptgen.captioning.fonts import FontBook, font_folders
from promptgen.captioning.label_colours import PALETTE, label_colours, text_colour
from promptgen.captioning.label_places import place_labels
from promptgen.captioning.overlay import draw_overlay

GREY = (120, 120, 120)


def picture(size: tuple[int, int] = (320, 240)) -> Image.Image:
    return Image.new("RGB", size, GREY)


def drawn(*regions: Region, size: tuple[int, int] = (320, 240), fill: bool = False) -> np.ndarray:
    overlay = draw_overlay(picture(size), regions, fill=fill)
    assert (overlay.mode, overlay.size) == ("RGB", size)
    return np.asarray(overlay).astype(int)


def changed(pixels: np.ndarray) -> np.ndarray:
    return (pixels != GREY).any(axis=2)


def system_font(char: str) -> Path:
    """A font of this system that has the character, by fontconfig's word."""
    if shutil.which("fc-list") is None:
        pytest.skip("fontconfig's fc-list is not installed")
    command = ["fc-list", f":charset={ord(char):x}:scalable=true:color=false", "file"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    paths = sorted(line.strip().rstrip(":") for line in lines if line.strip())
    if not paths:
        pytest.skip(f"no font with {char!r} is installed")
    return Path(paths[0])


# Colours --------------------------------------------------------------------------------


def test_a_label_has_one_colour_in_every_process() -> None:
    labels = ["cat", "dog", "猫", "", "a person with a red hat", "\ud800"]
    code = (
        "from promptgen.captioning.label_colours import label_colours\n"
        f"print([label_colours([label])[label] for label in {labels!a}])"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([label_colours([label])[label] for label in labels])


def test_labels_of_one_picture_have_different_colours_and_do_not_depend_on_their_order() -> None:
    labels = [f"thing {number}" for number in range(len(PALETTE))]
    colours = label_colours(labels)
    assert len(set(colours.values())) == len(PALETTE)
    assert label_colours(labels[::-1]) == colours
    assert len(label_colours([*labels, "one more"])) == len(PALETTE) + 1


def test_a_label_keeps_its_colour_beside_others_unless_they_collide() -> None:
    alone = {label: label_colours([label])[label] for label in map(str, range(60))}
    for first, colour in alone.items():
        for second, other in alone.items():
            if first < second:
                together = label_colours([first, second])
                assert (together == {first: colour, second: other}) == (colour != other)
                assert colour in together.values()


def test_letters_are_read_on_every_colour() -> None:
    assert text_colour((240, 228, 66)) == (0, 0, 0)
    assert text_colour((0, 63, 98)) == (255, 255, 255)
    assert {text_colour(colour) for colour in PALETTE} == {(0, 0, 0), (255, 255, 255)}


# Shapes ---------------------------------------------------------------------------------


def test_the_picture_given_is_left_as_it_is() -> None:
    image = picture()
    overlay = draw_overlay(image, [Region("cat", (20, 20, 200, 200))])
    assert overlay is not image
    assert image.getcolors() == [(320 * 240, GREY)]
    assert np.array_equal(np.asarray(draw_overlay(image, [])), np.asarray(image))
    assert draw_overlay(image.convert("L"), []).mode == "RGB"


def test_a_box_is_a_line_around_it_in_its_labels_colour() -> None:
    pixels = drawn(Region("", (100, 80, 200, 160)))
    colour = label_colours([""])[""]
    assert tuple(pixels[120, 100]) == tuple(pixels[80, 150]) == tuple(pixels[160 - 1, 150]) == colour
    assert not changed(pixels)[90:150, 110:190].any()
    assert not changed(pixels)[:, :95].any()
    assert (pixels[120, 99] < GREY).all(), "the line has a dark rim"


def test_lines_on_the_border_of_the_picture_are_seen() -> None:
    pixels = drawn(Region("", (-50, -50, 1000, 1000)))
    colour = label_colours([""])[""]
    for place in ((0, 100), (239, 100), (100, 0), (100, 319)):
        assert tuple(pixels[place]) == colour


def test_fills_are_translucent_and_do_not_add_up() -> None:
    box = (20.0, 20.0, 300.0, 220.0)
    once = drawn(Region("", box), fill=True)
    often = drawn(*[Region("", box)] * 5, fill=True)
    expected = np.array(GREY) * 0.85 + np.array(label_colours([""])[""]) * 0.15
    assert np.abs(once[120, 160] - expected).max() <= 1
    assert (once[30:200, 30:290] == often[30:200, 30:290]).all()
    assert not changed(drawn(Region("", box)))[120, 160]


def test_polygons_and_quads_follow_their_outline() -> None:
    diamond = (160.0, 40.0, 240.0, 120.0, 160.0, 200.0, 80.0, 120.0)
    colour = label_colours([""])[""]
    for region in (Region("", polygons=(diamond,)), Region("", (80, 40, 240, 200), quad=diamond)):
        pixels = drawn(region, fill=True)
        inside, line, outside = pixels[120, 160], pixels[80, 119], pixels[60, 100]
        assert tuple(outside) == GREY, "the corner of its box is not the region's"
        assert tuple(inside) not in (GREY, colour)
        assert np.abs(line - colour).max() < np.abs(inside - colour).max()


def test_smaller_regions_lie_above_larger_ones() -> None:
    small, large = Region("", (100, 80, 200, 160)), Region("x", (90, 80, 310, 230))
    colour = label_colours(["", "x"])[""]
    for order in ((small, large), (large, small)):
        assert tuple(drawn(*order)[80, 150]) == colour


def test_the_bands_of_a_large_picture_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = [
        Region("", (10, 10, 200, 220)),
        Region("b", polygons=((150, 20, 300, 120, 170, 230),), score=0.5),
        Region("text", quad=(20, 100, 130, 110, 128, 140, 18, 130)),
    ]
    whole = drawn(*regions, fill=True)
    monkeypatch.setattr("promptgen.captioning.overlay._BAND_PIXELS", 320 * 7)
    assert (drawn(*regions, fill=True) == whole).all()


# Labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 40), (300, 0, 320, 20), (0, 225, 30, 240), (290, 220, 320, 240), (100, 100, 150, 150)]
)
def test_labels_are_within_the_picture(box: tuple[float, float, float, float]) -> None:
    """All of a label is seen: as many pixels differ from the picture without it as its size says."""
    with_label, without = drawn(Region("a label", box)), drawn(Region("", box))
    colour = label_colours(["a label"])["a label"]
    ground = (with_label == colour).all(axis=2) & ~(without == label_colours([""])[""]).all(axis=2)
    rows, columns = np.nonzero(ground)
    assert np.ptp(columns) > 35
    assert np.ptp(rows) >= 11


def test_places_of_labels() -> None:
    boxes = [(50.0, 50.0, 90.0, 90.0)] * 12 + [(0.0, 0.0, 200.0, 200.0), (180.0, 190.0, 200.0, 200.0)]
    places = place_labels([(40, 12)] * 14, boxes, (200, 200))
    assert places[0] == (50, 38)
    canvas = np.zeros((200, 200), int)
    for left, top in places:
        assert 0 <= left <= 160
        assert 0 <= top <= 188
        canvas[top : top + 12, left : left + 40] += 1
    assert canvas.max() == 1


def test_a_score_is_a_part_of_the_label_and_stands_alone_without_one() -> None:
    box = (50, 50, 150, 150)
    bare = changed(drawn(Region("", box))).sum()
    assert changed(drawn(Region("", box, score=0.5))).sum() > bare
    assert changed(drawn(Region("cat", box, score=0.5))).sum() > changed(drawn(Region("cat", box))).sum()


def test_a_long_label_ends_in_an_ellipsis() -> None:
    fonts = FontBook(folders=[])
    line = fonts.line("a long label of many words", 20, 100)
    assert line.text.endswith("…")
    assert line.text.startswith("a lo")
    assert line.width <= 100
    assert fonts.line("wide", 20, 3).parts == ()
    assert changed(drawn(Region("word " * 200, (10, 100, 300, 200)))).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (20000, 10), (10, 3000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    regions = [
        Region("everywhere", (0, 0, *size)),
        Region("beyond", (-1e9, -1e9, 1e9, 1e9)),
        Region("outside", (-90, -90, -50, -50)),
        Region("nowhere"),
        Region("quad", quad=(0, 0, *size, *size, 0, 0)),
        Region("polygon", polygons=((-1e6, -1e6, 1e6, 0, 0, 1e6),)),
    ]
    assert changed(drawn(*regions, size=size, fill=True)).any()


def test_what_lies_outside_leaves_no_trace() -> None:
    assert not changed(drawn(Region("cat", (400, 10, 500, 100)), Region("dog"))).any()


def test_hundreds_of_regions_are_drawn_and_labelled() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 600, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 150, (300, 2))], axis=1).tolist()
    regions = [Region(f"thing {i % 23}", tuple(box), score=0.5) for i, box in enumerate(boxes)]
    assert changed(drawn(*regions, size=(640, 640))).mean() > 0.2


# Fonts ----------------------------------------------------------------------------------


def ink(fonts: FontBook, text: str) -> np.ndarray:
    image = Image.new("L", (300, 60))
    pen = ImageDraw.Draw(image)
    fonts.line(text, 30).draw(pen, 5, 40, 255)  # type: ignore[arg-type]  # one channel
    return np.asarray(image)


@pytest.mark.parametrize("text", ["猫", "Привет", "Ωμέγα", "ärger", "한국어", "שלום", "สวัสดี", "नमस्ते"])
def test_every_script_that_a_font_is_installed_for_is_drawn(text: str) -> None:
    system_font(text[0])
    line = FontBook().line(text, 20)
    assert line.text == text
    assert all(font.getname()[0] != "Aileron" for _, font in line.parts)
    assert (ink(FontBook(), text) > 128).sum() > 30


def test_parts_of_a_label_come_from_several_fonts() -> None:
    system_font("猫")
    system_font("ש")
    parts = FontBook().line("猫 שלום", 20).parts
    assert [text for text, _ in parts] == ["猫 ", "שלום"]
    assert parts[0][1].path != parts[1][1].path
    assert [text for text, _ in FontBook().line("שלום 猫", 20).parts] == ["猫", "שלום "]


def test_right_to_left_and_joined_letters() -> None:
    if not fonts_module._has_raqm():
        pytest.skip("this Pillow has no Raqm layout")
    system_font("م")
    joined = FontBook().line("مرحبا", 30).width
    apart = sum(FontBook().line(char, 30).width for char in "مرحبا")
    assert joined < apart * 0.9


def test_without_raqm_text_still_goes_to_the_left_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system_font("ש")
    system_font("م")
    monkeypatch.setattr(fonts_module, "_has_raqm", lambda: False)
    fonts = FontBook()
    assert fonts.line("שלום", 20).text == "םולש"
    assert not caplog.records
    fonts.line("مرحبا", 20)
    fonts.line("مرحبا", 20)
    assert [record.getMessage().count("FriBiDi") for record in caplog.records] == [1]


def test_what_no_font_has_is_written_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    fonts = FontBook(folders=[])
    with caplog.at_level(logging.WARNING):
        assert fonts.line("猫 cat", 20).text == "U+732B cat"
        assert fonts.line("犬", 20).text == "U+72AC"
        assert fonts.line("ไทย", 20).text == "U+0E44 U+0E17 U+0E22"
        assert fonts.line("a\x07b\ud800", 20).text == "a U+0007 b U+D800"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "fonts-noto-cjk" in said[0]
    assert "PROMPTGEN_FONT" in said[0]
    assert "Noto Sans Thai" in said[1]


def test_letters_have_simpler_ones_before_their_number() -> None:
    fonts = FontBook(folders=[])
    assert fonts.line("ｃａｔ ａ", 20).text == "cat a"
    assert fonts.line("e\u0301\u200d", 20).text.startswith(("é", "e"))


def test_without_any_system_font_latin_labels_are_drawn() -> None:
    assert ink(FontBook(folders=[]), "cat 0.93").max() == 255
    assert font_folders()


def test_a_named_font_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    path = system_font("a")
    plain = draw_overlay(picture(), [Region("cat", (50, 50, 200, 200))])
    named = draw_overlay(picture(), [Region("cat", (50, 50, 200, 200))], font=path)
    monkeypatch.setenv("PROMPTGEN_FONT", str(path))
    by_variable = draw_overlay(picture(), [Region("cat", (50, 50, 200, 200))])
    assert named.tobytes() != plain.tobytes()
    assert named.tobytes() == by_variable.tobytes()


def test_a_font_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.ttf cannot be used: No such file"):
        draw_overlay(picture(), [], font=tmp_path / "nothing.ttf")
    (tmp_path / "text.ttf").write_bytes(b"\0\1\0\0 no font")
    with pytest.raises(ValueError, match=r"text\.ttf is no TrueType"):
        draw_overlay(picture(), [], font=tmp_path / "text.ttf")


def test_damaged_fonts_are_passed_over(tmp_path: Path) -> None:
    whole = system_font("猫").read_bytes()
    (tmp_path / "a.ttf").write_bytes(whole[:5000])
    (tmp_path / "b.otf").write_bytes(b"")
    (tmp_path / "c.ttc").write_bytes(b"ttcf" + bytes(40))
    assert FontBook(folders=[tmp_path]).line("猫", 20).text == "U+732B"
    (tmp_path / "d.ttc").write_bytes(whole)
    assert FontBook(folders=[tmp_path]).line("猫", 20).text == "猫"


@pytest.mark.parametrize("char", ["a", "猫", "ש"])
def test_the_letters_of_a_font_are_those_that_fontconfig_counts(char: str) -> None:
    if shutil.which("fc-query") is None:
        pytest.skip("fontconfig's fc-query is not installed")
    path = system_font(char)
    command = ["fc-query", "--index", "0", "--format", "%{charset}", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with path.open("rb") as file:
        face = read_face(file, path)
    assert face is not None
    counted = set()
    for part in said.split():
        first, _, last = part.partition("-")
        counted.update(range(int(first, 16), int(last or first, 16) + 1))
    ours = {code for code in range(0x33000) if face.covers(chr(code))}
    assert counted - ours == set()
    assert len(ours - counted) < 120  # fontconfig leaves out what is blank, such as control characters


def _font(subtable: bytes, *, tables: tuple[bytes, ...] = (b"glyf",)) -> io.BytesIO:
    """A font file with a table of characters and nothing else."""
    cmap = struct.pack(">HHHHI", 0, 1, 3, 10, 12) + subtable
    names = [*tables, b"cmap"]
    start = 12 + 16 * len(names)
    records = b"".join(struct.pack(">4sIII", name, 0, start, len(cmap)) for name in names)
    return io.BytesIO(b"\0\1\0\0" + struct.pack(">H6x", len(names)) + records + cmap)


def test_a_character_without_a_letter_of_its_own_is_not_covered() -> None:
    groups = struct.pack(">IIIIII", 65, 70, 0, 0x1F600, 0x1F601, 9)
    face = read_face(_font(struct.pack(">HHIII", 12, 0, 40, 0, 2) + groups))
    assert face is not None
    assert [char for char in "@ABFG😀😁😂" if face.covers(char)] == list("BF😀😁")  # A is glyph 0


def test_fonts_of_boxes_and_of_pictures_are_none() -> None:
    groups = struct.pack(">III", 0, 0x10FFFF, 1)
    assert read_face(_font(struct.pack(">HHIII", 13, 0, 28, 0, 1) + groups)) is None
    assert read_face(_font(struct.pack(">HHIII", 12, 0, 28, 0, 1) + groups, tables=(b"CBDT",))) is None
    assert read_face(_font(struct.pack(">HHIII", 12, 0, 28, 0, 1) + groups)) is not None
