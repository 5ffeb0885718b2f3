"""Any picture that Pillow opens, upright and in RGB; anything else, an error that says which and why."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageFile, ImageOps, PngImagePlugin
from promptgen.captioning import ImageError, as_rgb, image_extensions, open_image
from promptgen.captioning.images import parse_background

WHITE, RED, BLUE, GREEN = (255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 128, 0)


@pytest.fixture(autouse=True)
def _settings_of_pillow_stay() -> Iterator[None]:
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    yield
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def drawing(width: int = 24, height: int = 16) -> Image.Image:
    """A picture without any symmetry: red ground, a blue corner, a green bar."""
    image = Image.new("RGB", (width, height), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 7, 4), fill=BLUE)
    draw.rectangle((16, 8, 18, 15), fill=GREEN)
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def close(image: Image.Image, other: Image.Image, tolerance: int) -> bool:
    return image.size == other.size and int(np.abs(pixels(image) - pixels(other)).max()) <= tolerance


# Sources


@pytest.mark.parametrize("name", ["photo.png", "写真 été.png", "no extension", "emoji 🎨.PNG", "a'b\"c.png"])
def test_paths_in_any_script(tmp_path: Path, name: str) -> None:
    if os.name == "nt" and '"' in name:
        name = name.replace('"', "")
    path = tmp_path / name
    path.write_bytes(encoded(drawing()))
    for source in (path, str(path)):
        image = open_image(source)
        assert image.mode == "RGB"
        assert image.size == (24, 16)
        assert close(image, drawing(), 0)


def test_bytes_and_open_files(tmp_path: Path) -> None:
    data = encoded(drawing())
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert close(open_image(source), drawing(), 0)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert close(open_image(file), drawing(), 0)
        assert not file.closed
    with path.open("r", errors="replace") as text, pytest.raises(ImageError, match="open as text"):
        open_image(text)  # type: ignore[arg-type]


def test_a_file_is_read_from_where_it_stands_and_a_stream_need_not_go_back() -> None:
    data = encoded(drawing(), "TIFF")
    file = io.BytesIO(b"header" + data)
    file.seek(6)
    assert close(open_image(file), drawing(), 0)

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.left = data

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            taken, self.left = (self.left, b"") if size < 0 else (self.left[:size], self.left[size:])
            return taken

    assert close(open_image(Pipe()), drawing(), 0)  # type: ignore[arg-type]


def test_what_is_already_open_goes_through_as_well() -> None:
    assert close(open_image(drawing()), drawing(), 0)
    assert close(open_image(np.asarray(drawing())), drawing(), 0)


def test_the_result_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(drawing()))
    image = open_image(path)
    path.unlink()
    image.putpixel((0, 0), (1, 2, 3))
    original = drawing()
    as_rgb(original).putpixel((0, 0), (1, 2, 3))
    assert original.getpixel((0, 0)) == BLUE


# Orientation


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation: int, form: str) -> None:
    if form == "AVIF" and ".avif" not in image_extensions():
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(
        form, {}
    )
    data = encoded(drawing(), form, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as file:
        expected = ImageOps.exif_transpose(file).convert("RGB")
    image = open_image(data)
    assert image.size == ((24, 16) if orientation < 5 else (16, 24))
    assert close(image, expected, 0)
    # The corners say it without Pillow: where the blue one has gone.
    width, height = image.size
    corners = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    blue = next(place for place in corners if np.abs(pixels(image)[place[1], place[0]] - BLUE).max() < 90)
    assert blue == {
        1: (0, 0), 2: (width - 1, 0), 3: (width - 1, height - 1), 4: (0, height - 1),
        5: (0, 0), 6: (width - 1, 0), 7: (width - 1, height - 1), 8: (0, height - 1),
    }[orientation]  # fmt: skip
    with Image.open(io.BytesIO(data)) as file:
        assert close(as_rgb(file), expected, 0)


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert open_image(encoded(drawing(), "PNG", exif=exif)).size == (24, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_costs_no_picture(caplog: pytest.LogCaptureFixture) -> None:
    data = encoded(drawing(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    assert open_image(data).size == (24, 16)
    data = encoded(drawing(), "PNG", exif=b"Exi9\x00\x00MM\x00*\x00\x00\x00\x08")
    assert open_image(data).size == (24, 16)
    assert "the EXIF data are damaged, so it is not turned" in caplog.text


def test_a_16_bit_picture_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 128)
    image = open_image(encoded(deep, "PNG", exif=exif))
    assert image.size == (16, 24)
    assert image.getpixel((15, 0)) == (0, 0, 0)


# Modes


def test_transparency_lies_on_white_or_on_what_is_asked_for() -> None:
    image = Image.new("RGBA", (4, 4), (*RED, 0))
    image.putpixel((0, 0), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    data = encoded(image)
    on_white = open_image(data)
    assert [on_white.getpixel((x, 0)) for x in range(3)] == [RED, (127, 127, 127), WHITE]
    for background in ("blue", "#0000ff", "#00f", (0, 0, 255)):
        assert open_image(data, background=background).getpixel((3, 3)) == BLUE


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa", "RGBA"])
def test_every_mode_with_alpha(mode: str) -> None:
    transparent = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    transparent.putpixel((0, 0), (90, 90, 90, 255))
    if mode == "PA":
        image = Image.new("PA", (2, 1))
        image.putpalette([90, 90, 90, 0, 0, 0])
        image.putdata([(0, 255), (1, 0)])
    elif mode == "La":
        image = transparent.convert("LA").convert("La")
    else:
        image = transparent.convert(mode)
    assert image.mode == mode
    assert [as_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(90, 90, 90), WHITE]


def test_transparent_colours_of_palettes_greys_and_rgb() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    for transparency in (1, b"\xff\x00"):
        image = open_image(encoded(palette, transparency=transparency))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    assert open_image(encoded(palette, "GIF", transparency=1)).getpixel((1, 0)) == WHITE
    grey = Image.new("L", (2, 1), 10)
    grey.putpixel((1, 0), 77)
    assert open_image(encoded(grey, transparency=77)).getpixel((1, 0)) == WHITE
    rgb = Image.new("RGB", (2, 1), RED)
    rgb.putpixel((1, 0), BLUE)
    assert open_image(encoded(rgb, transparency=BLUE)).getpixel((1, 0)) == WHITE
    bits = Image.new("1", (2, 1), 1)
    bits.putpixel((1, 0), 0)
    assert open_image(encoded(bits, transparency=0), background="red").getpixel((1, 0)) == RED
    deep = Image.fromarray(np.array([[40_000, 513]], dtype=np.uint16))
    image = open_image(encoded(deep, transparency=513))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(156, 156, 156), WHITE]


def test_grey_and_one_bit() -> None:
    assert open_image(encoded(Image.new("L", (2, 2), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert open_image(encoded(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == WHITE
    assert open_image(encoded(Image.new("1", (2, 2), 0), "TIFF")).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(form: str) -> None:
    values = np.array([[0, 255, 256, 32_768, 65_535]], dtype=np.uint16)
    image = open_image(encoded(Image.fromarray(values), form))
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]  # type: ignore[index]


def test_a_dark_16_bit_picture_stays_dark() -> None:
    values = np.array([[0, 100, 200]], dtype=np.uint16)
    assert pixels(open_image(encoded(Image.fromarray(values)))).max() == 0
    header = b"P5 3 1 65535\n"
    assert pixels(open_image(header + values.astype(">u2").tobytes())).max() == 0


def test_16_bit_rgb_and_big_endian() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65_535, 0, 32_768, 0, 256, 512)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    image = open_image(png)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 128), (0, 1, 2)]
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 32_768, 65_535))
    assert [as_rgb(big).getpixel((x, 0))[0] for x in (0, 1)] == [128, 255]  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0, 255], [0, 255]),
        ([0, 65_535], [0, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([0, 1_000_000, 2_000_000], [0, 128, 255]),
    ],
)
def test_32_bit_integers(values: list[int], greys: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.int32))
    for same in (image, Image.open(io.BytesIO(encoded(image, "TIFF")))):
        assert [value for value, _, _ in pixels(as_rgb(same))[0]] == greys


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.6, 255.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([7000.0, 7000.0], [0, 0]),
    ],
)
def test_floats(values: list[float], greys: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert [value for value, _, _ in pixels(open_image(encoded(image, "TIFF")))[0]] == greys


def test_cmyk_ycbcr_lab_and_hsv() -> None:
    for form in ("JPEG", "TIFF"):
        data = encoded(drawing().convert("CMYK"), form)
        assert close(open_image(data), drawing(), 0 if form == "TIFF" else 120)
        assert open_image(data).getpixel((12, 2))[0] > 200  # type: ignore[index]
    assert close(as_rgb(drawing().convert("YCbCr")), drawing(), 3)
    assert close(as_rgb(drawing().convert("HSV")), drawing(), 3)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(drawing(), to_lab)
    assert lab is not None
    assert close(as_rgb(lab), drawing(), 25)  # eight bits of L*a*b* are coarse for a full blue


def test_a_colour_profile_is_left_alone() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert close(open_image(encoded(drawing(), icc_profile=profile)), drawing(), 0)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames(form: str) -> None:
    if form == "AVIF" and ".avif" not in image_extensions():
        pytest.skip("this Pillow has no AVIF")
    frames = [Image.new("RGB", (8, 8), BLUE), Image.new("RGB", (8, 8), RED)]
    options: dict[str, Any] = {} if form != "WEBP" else {"lossless": True}
    image = open_image(
        encoded(drawing(8, 8).point(lambda _: 0), form, save_all=True, append_images=frames, **options)
    )
    assert pixels(image).max() <= 8


@pytest.mark.parametrize(
    "form", ["BMP", "PPM", "TGA", "ICO", "JPEG2000", "WEBP", "AVIF", "PCX", "DDS", "QOI", "SGI"]
)
def test_further_formats(form: str) -> None:
    if form == "AVIF" and ".avif" not in image_extensions():
        pytest.skip("this Pillow has no AVIF")
    image = drawing(32, 32)
    try:
        data = encoded(image, form, **({"sizes": [(32, 32)]} if form == "ICO" else {}))
    except OSError:
        pytest.skip(f"this Pillow cannot write {form}")
    assert open_image(data).size == (32, 32)
    assert open_image(data).mode == "RGB"


# Arrays


def test_arrays() -> None:
    array = np.asarray(drawing())
    assert close(as_rgb(array), drawing(), 0)
    assert close(as_rgb(array.astype(np.float32) / 255), drawing(), 0)
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (pixels(as_rgb(greys.astype(np.float32) * np.float32(1 / 255)))[:, :, 0] == greys).all()
    assert as_rgb(np.full((2, 2), 0.5)).getpixel((0, 0)) == (128, 128, 128)  # rounded, not cut
    assert close(as_rgb(array.astype(np.uint16) * 257), drawing(), 0)
    assert close(as_rgb(array[:, :, ::-1][:, :, ::-1]), drawing(), 0)
    assert as_rgb(array[:, :, 0]).mode == "RGB"
    assert as_rgb(array[:, :, :1]).getpixel((12, 2)) == (255, 255, 255)
    assert as_rgb(np.zeros((4, 4), bool)).getpixel((0, 0)) == (0, 0, 0)
    assert as_rgb(np.ones((4, 4, 3)) * [2.0, -1.0, np.nan]).getpixel((0, 0)) == RED
    clear = np.zeros((2, 2, 4), np.uint8)
    assert as_rgb(clear).getpixel((0, 0)) == WHITE
    assert as_rgb(clear, background="red").getpixel((0, 0)) == RED
    assert as_rgb(clear[:, :, :2]).getpixel((0, 0)) == WHITE


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(np.asarray(drawing()).copy()).float() / 255  # as ComfyUI's IMAGE has them
    assert close(as_rgb(image), drawing(), 0)
    assert close(as_rgb(image.to(torch.bfloat16)), drawing(), 2)
    assert close(as_rgb((image * 255).round().to(torch.uint8)), drawing(), 0)


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 4, 4, 3)), np.zeros(5), np.zeros((4, 4, 5)), np.zeros((4, 4), int),
     np.array([["a"]]), 5, None, [[]],
     np.zeros((4, 4), complex), {"a": 1}],
)  # fmt: skip
def test_other_arrays_and_things_are_errors(array: Any) -> None:
    with pytest.raises(ImageError, match=r"array is \[H, W\]|the image is empty"):
        as_rgb(array)


def test_empty_images_are_errors() -> None:
    with pytest.raises(ImageError, match="thing: the image is empty, 0 × 5 pixels"):
        as_rgb(Image.new("RGB", (0, 5)), name="thing")
    with pytest.raises(ImageError, match="the image is empty, 0 × 5 pixels"):
        as_rgb(np.zeros((5, 0, 3), np.uint8))


# Bad files


def with_header(png: bytes, header: bytes) -> bytes:
    """A PNG with other 13 bytes in its IHDR, and the checksum that goes with them."""
    return png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]


def broken_files() -> dict[str, tuple[bytes, str]]:
    png, jpeg = encoded(drawing(300, 300)), encoded(drawing(300, 300), "JPEG")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    long_png = encoded(Image.fromarray(noise))
    return {
        "empty.png": (b"", "the file is empty"),
        "text.png": ("Just some text, é.\n".encode() * 300, "a text file, not an image"),
        "page.jpg": (b"<!DOCTYPE html><html></html>", "a text file, not an image"),
        "drawing.svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
        "logo.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing"),
        "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100, "HEIC.*pillow-heif"),
        "random.png": (bytes(range(256)) * 4, "not an image"),
        "half.png": (long_png[: len(long_png) // 2], "damaged or cut off"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut off"),
        "half.webp": (encoded(Image.fromarray(noise), "WEBP")[:900], "decoded|cut off|not an image"),
        "half.gif": (encoded(Image.fromarray(noise), "GIF")[:1500], "decoded|cut off"),
        "half.tif": (encoded(Image.fromarray(noise), "TIFF", compression="tiff_lzw")[:1500],
                     "decoded|cut off|not an image"),
        "head.png": (png[:20], "not an image|cut off|decoded"),
        "eight.bin": (png[:8], "not an image|cut off|decoded"),
        "checksum.png": (png[:45] + bytes([png[45] ^ 255]) + png[46:], "decoded|cut off"),
        "zero.png": (with_header(png, b"\0\0\0\0" + png[20:29]), "empty|not an image|decoded"),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", list(broken_files()))
def test_bad_files_say_which_and_why_in_one_line(tmp_path: Path, name: str) -> None:
    data, why = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=why) as caught:
        open_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=why) as caught:
        open_image(data)
    assert str(caught.value).startswith(f"image of {len(data)} bytes: ")


def test_errors_stay_in_one_line_whatever_is_said(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("first line\n  second line")

    with pytest.raises(ImageError, match=r"from an open file: cannot be read: first line second line$"):
        open_image(Broken())
    with pytest.raises(ImageError, match=r"a\\nb\.png': no such file") as caught:
        open_image(tmp_path / "a\nb.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError) as caught:
        open_image("\udce9.png")  # a name that is not UTF-8
    assert str(caught.value).encode()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file") as caught:
        open_image(tmp_path / "nowhere.png")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ImageError, match="this is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be opened"):
        open_image("a\0b.png")
    with pytest.raises(ImageError, match=r"cannot be opened|no such file"):
        open_image("a" * 5000)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has no such permissions")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(drawing()))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # root may read everything
    try:
        with pytest.raises(ImageError, match=r"secret\.png: permission to read the file is denied"):
            open_image(path)
    finally:
        os.seteuid(user)


def bomb(side: int) -> bytes:
    return encoded(Image.new("1", (side, side)))


def test_a_decompression_bomb_names_the_numbers_and_the_way_out() -> None:
    with pytest.raises(ImageError, match=rf"{13_500**2}.*limit.*PIL\.Image\.MAX_IMAGE_PIXELS"):
        open_image(bomb(13_500))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_of_a_hundred_megapixels_are_no_bombs() -> None:
    assert open_image(bomb(10_000)).size == (10_000, 10_000)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_where_warnings_are_errors() -> None:
    with pytest.raises(ImageError, match=r"decompression bomb.*PIL\.Image\.MAX_IMAGE_PIXELS"):
        open_image(bomb(9_500))


def test_a_text_chunk_that_swells_is_an_error() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 70_000_000, zip=True)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(encoded(drawing(), pnginfo=info))


def test_the_pixel_limit_is_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ImageError, match="24 × 16 = 384 pixels, limit 200"):
            as_rgb(drawing())
        patched.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert open_image(encoded(drawing())).size == (24, 16)


GOOD = {
    form: encoded(drawing(), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM")
}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(GOOD[draw(st.sampled_from(sorted(GOOD)))])
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, min(len(data) - 1, 400)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))]) if draw(st.booleans()) else bytes(data)


@given(st.one_of(st.binary(), damaged()))
@example(b"\0")
@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_an_image_or_an_error(data: bytes) -> None:
    try:
        image = open_image(data)
    except ImageError as error:
        message = str(error)
    else:
        message = "an image" if image.mode == "RGB" and min(image.size) > 0 else ""
    assert message
    assert "\n" not in message


# Options and surroundings


@pytest.mark.parametrize(
    "background", ["", "no colour", "#12", (1, 2), (1, 2, 300), (1.0, 2, 3), (1, 2, 3, 4)]
)
def test_a_background_that_is_no_colour(background: Any) -> None:
    with pytest.raises(ValueError, match=r"is no colour; write a name \(white\), #rrggbb") as caught:
        open_image(b"", background=background)
    assert not isinstance(caught.value, ImageError)


def test_backgrounds() -> None:
    assert parse_background(" White ") == WHITE
    assert parse_background("#ff000080") == RED
    assert parse_background("hsl(240, 100%, 50%)") == BLUE


def test_extensions() -> None:
    extensions = image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= extensions
    assert extensions.isdisjoint({".pdf", ".mpg", ".eps", ".h5", ".txt", ".svg"})


def test_threads_at_once(tmp_path: Path) -> None:
    sources: list[Any] = [*GOOD.values(), b"", b"broken", tmp_path]
    barrier = threading.Barrier(8)

    def work(number: int) -> list[str]:
        barrier.wait()
        outcome = []
        for source in sources[number % 3 :] + sources[: number % 3]:
            try:
                outcome.append(str(open_image(source).size))
            except ImageError:
                outcome.append("error")
        return sorted(outcome)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(work, range(8)))
    assert outcomes == [outcomes[0]] * 8
    assert outcomes[0].count("error") == 3


def test_importing_loads_no_pillow() -> None:
    import subprocess

    code = (
        "import sys, promptgen.captioning.images, promptgen.captioning.results;"
        " sys.exit(any(name in sys.modules for name in ('PIL', 'numpy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
