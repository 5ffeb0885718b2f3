"""Drawn scenes: the only pictures the demo model knows, made from a seed.

A scene is one to three coloured shapes on a coloured ground, sometimes with a written word. Each shape
stands in a place of its own on a 3x3 layout; every colour, the ground's included, occurs once in a scene
(so that no answer ever needs the same three tokens twice, see `answers`). Size, aspect ratio, edge
softness, light, noise and JPEG compression vary, so that the model sees what files look like.

`draw_scene(seed)` is a pure function: equal seeds give equal pixels on one version of Pillow and numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from PIL import Image

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 228, 30),
    "green": (30, 155, 60),
    "blue": (35, 75, 220),
    "purple": (125, 35, 165),
    "pink": (250, 150, 195),
    "white": (248, 248, 248),
    "gray": (132, 132, 132),
    "black": (16, 16, 16),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross")
SIZES = ("small", "large")
PLACES = (
    "top left", "top center", "top right",
    "center left", "center", "center right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
WORDS = ("STOP", "OPEN", "SALE", "HELLO", "LOVE", "EXIT", "PLAY", "NEWS")
WORD_PLACES = ("top", "center", "bottom")
MAX_SHAPES = 3

# Training draws from TRAINING_SEEDS, evaluation from EVALUATION_SEEDS, examples and tests from what is left.
TRAINING_SEEDS = range(0, 1_000_000)
EVALUATION_SEEDS = range(1_000_000, 1_100_000)
EXAMPLE_SEEDS = range(1_100_000, 1_200_000)

LOCATION_STEP = 20
"""Answers round box edges to the middle of so many bins of the 0-999 grid, 2 % of a side."""

_CENTRES = (0.19, 0.5, 0.81)  # of the three columns and rows, as fractions of width and height
_DIAMETERS = {"small": (0.15, 0.19), "large": (0.28, 0.33)}  # fractions of the shorter side
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class SceneShape:
    """One drawn shape."""

    shape: str
    colour: str
    size: str
    place: str
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the picture, tight around the paint."""
    turn: float = 0.0
    """Degrees, clockwise."""


@dataclass(frozen=True)
class Scene:
    """What a drawn picture shows; `shapes` in reading order (rows from the top, each from the left)."""

    seed: int
    width: int
    height: int
    ground: str
    shapes: tuple[SceneShape, ...]
    word: str | None
    word_place: str | None
    """One of WORD_PLACES, None when there is no word."""


def draw_scene(seed: int, *, size: tuple[int, int] | None = None) -> tuple[Image.Image, Scene]:
    """Draw the scene of a seed.

    Args:
        seed: any non-negative integer.
        size: (width, height) in pixels; drawn from the seed when left out (short side 112 to 352).

    Returns:
        The picture (mode RGB) and what it shows.
    """
    import numpy as np

    generator = np.random.default_rng([20, seed])
    scene = _plan(seed, size, generator)
    return _paint(scene, generator), scene


def location_bins(scene: Scene, shape: SceneShape) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the box on the 0-999 grid, in steps of LOCATION_STEP."""
    steps = 1000 // LOCATION_STEP
    x0, y0, x1, y1 = (
        min(steps - 1, max(0, int(value / side * steps))) * LOCATION_STEP + LOCATION_STEP // 2
        for value, side in zip(shape.box, (scene.width, scene.height, scene.width, scene.height), strict=True)
    )
    return x0, y0, x1, y1


def repeated_trigram(tokens: Sequence[Hashable]) -> tuple[Hashable, ...] | None:
    """The first three tokens in a row that occur a second time, None when all are different."""
    seen: set[tuple[Hashable, ...]] = set()
    for start in range(len(tokens) - 2):
        trigram = tuple(tokens[start : start + 3])
        if trigram in seen:
            return trigram
        seen.add(trigram)
    return None


def _pick(generator: np.random.Generator, options: Any, count: int | None = None) -> Any:
    """One option, or a list of `count` different ones."""
    chosen = generator.choice(len(options), size=count, replace=False)
    if count is None:
        return options[int(chosen)]
    return [options[int(index)] for index in chosen]


def _plan(seed: int, size: tuple[int, int] | None, generator: np.random.Generator) -> Scene:
    """Draw lots until the boxes, written one after the other, hold no three tokens twice (rarely needed)."""
    while True:
        scene = _draw_lots(seed, size, generator)
        boxes = [token for shape in scene.shapes for token in (shape.shape, *location_bins(scene, shape))]
        if repeated_trigram(boxes) is None:
            return scene


def _draw_lots(seed: int, size: tuple[int, int] | None, generator: np.random.Generator) -> Scene:
    short = round(math.exp(generator.uniform(math.log(112), math.log(352))))
    aspect = float(_pick(generator, (1.0, 1.0, 4 / 3, 4 / 3, 3 / 2)) * generator.uniform(0.97, 1.03))
    long = round(short * aspect)
    wide = bool(generator.random() < 0.5)
    width, height = size or ((long, short) if wide else (short, long))
    short = min(width, height)

    word_place = _pick(generator, WORD_PLACES) if generator.random() < 0.3 else None
    word = _pick(generator, WORDS) if word_place else None
    taken_row = WORD_PLACES.index(word_place) if word_place else None
    free = [index for index in range(9) if index // 3 != taken_row]

    count = int(generator.integers(1, MAX_SHAPES + 1))
    places = sorted(_pick(generator, free, count))
    ground, *colours = _pick(generator, tuple(COLOURS), count + 1)
    shapes = []
    for place, colour in zip(places, colours, strict=True):
        kind = _pick(generator, SIZES)
        diameter = short * generator.uniform(*_DIAMETERS[kind])
        reach = 0.05 if kind == "small" else 0.02
        centre = [
            side * (_CENTRES[index] + generator.uniform(-reach, reach))
            for side, index in ((width, place % 3), (height, place // 3))
        ]
        box = (
            centre[0] - diameter / 2,
            centre[1] - diameter / 2,
            centre[0] + diameter / 2,
            centre[1] + diameter / 2,
        )
        shape = SceneShape(
            _pick(generator, SHAPES), colour, kind, PLACES[place], box, float(generator.uniform(-10, 10))
        )
        shapes.append(replace(shape, box=_bounds(_placed_outline(shape))))
    return Scene(seed, width, height, ground, tuple(shapes), word, word_place)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape around the origin, before it is turned and fitted into its box."""
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return [(0, -1), (1, 0.8), (-1, 0.8)]
    if shape == "star":
        points = []
        for corner in range(10):
            radius = 1.0 if corner % 2 == 0 else 0.42
            angle = math.pi * corner / 5 - math.pi / 2
            points.append((radius * math.cos(angle), radius * math.sin(angle)))
        return points
    if shape == "cross":
        arm = 0.34
        return [
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
        ]  # fmt: skip
    if shape == "heart":
        turns = [2 * math.pi * step / 48 for step in range(48)]
        return [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
            )
            for t in turns
        ]
    turns = [2 * math.pi * step / 64 for step in range(64)]
    return [(math.cos(t), math.sin(t)) for t in turns]  # circle and ring


def _placed_outline(shape: SceneShape) -> list[tuple[float, float]]:
    """The outline, turned and scaled so that its longer side fills the shape's box."""
    angle = math.radians(shape.turn)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in _outline(shape.shape)]
    left, top, right, bottom = _bounds(turned)
    x0, y0, x1, y1 = shape.box
    scale = max(x1 - x0, y1 - y0) / max(right - left, bottom - top)
    return [
        (
            (x0 + x1) / 2 + (x - (left + right) / 2) * scale,
            (y0 + y1) / 2 + (y - (top + bottom) / 2) * scale,
        )
        for x, y in turned
    ]


def _bounds(points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    across, down = [x for x, _ in points], [y for _, y in points]
    return min(across), min(down), max(across), max(down)


def _tint(colour: str, generator: np.random.Generator) -> tuple[int, int, int]:
    """The colour, a little off, as paint is."""
    shifted = [min(255, max(0, channel + int(generator.integers(-9, 10)))) for channel in COLOURS[colour]]
    return shifted[0], shifted[1], shifted[2]


def _paint(scene: Scene, generator: np.random.Generator) -> Image.Image:
    from PIL import Image, ImageDraw

    scale = _SUPERSAMPLING
    ground = _tint(scene.ground, generator)
    canvas = Image.new("RGB", (scene.width * scale, scene.height * scale), ground)
    draw = ImageDraw.Draw(canvas)
    for shape in scene.shapes:
        points = _placed_outline(shape)
        draw.polygon([(x * scale, y * scale) for x, y in points], fill=_tint(shape.colour, generator))
        if shape.shape == "ring":
            x0, y0, x1, y1 = shape.box
            inset = (x1 - x0) * 0.24
            hole = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
            draw.ellipse([value * scale for value in hole], fill=ground)
    if scene.word:
        _write(draw, scene, scene.word, scale, generator)
    return _as_a_file_would(canvas.reduce(scale), generator)


def _write(draw: Any, scene: Scene, word: str, scale: int, generator: np.random.Generator) -> None:
    """Write the scene's word into its row, black or white, whichever stands out."""
    from PIL import ImageFont

    short = min(scene.width, scene.height)
    size = short * generator.uniform(0.19, 0.24) * scale
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    centre_x = scene.width * scale * (0.5 + generator.uniform(-0.1, 0.1))
    row = _CENTRES[WORD_PLACES.index(scene.word_place or "center")] + generator.uniform(-0.04, 0.04)
    centre_y = scene.height * scale * row
    red, green, blue = COLOURS[scene.ground]
    dark_ground = 0.3 * red + 0.59 * green + 0.11 * blue < 140
    ink = (250, 250, 250) if dark_ground else (10, 10, 10)
    draw.text((centre_x - (left + right) / 2, centre_y - (top + bottom) / 2), word, fill=ink, font=font)


def _as_a_file_would(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Uneven light, sensor noise and JPEG compression, each only sometimes and never much."""
    import io

    import numpy as np
    from PIL import Image

    light, noise, jpeg = (float(generator.random()) for _ in range(3))
    if light < 0.4 or noise < 0.4:
        pixels = np.asarray(image, dtype=np.float32)
        height, width = pixels.shape[:2]
        if light < 0.4:
            slope_x, slope_y = generator.uniform(-0.07, 0.07, size=2)
            across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * slope_x
            down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * slope_y
            pixels = pixels * (1 + across + down)
        if noise < 0.4:
            grain = generator.standard_normal((height, width, 1), dtype=np.float32)
            pixels = pixels + grain * generator.uniform(1, 6)
        image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    if jpeg < 0.3:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=int(generator.integers(50, 96)))
        image = Image.open(packed).convert("RGB")
    return image


def drawn_scene(seed: int) -> Scene:
    """What the picture of a seed shows, without painting it."""
    import numpy as np

    return _plan(seed, None, np.random.default_rng([20, seed]))
