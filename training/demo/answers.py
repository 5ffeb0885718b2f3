"""True answers to every instruction the demo model knows, in the formats PromptGen answers in.

The checkpoint generates with `no_repeat_ngram_size` 3, like the published ones: an answer that holds the
same three tokens twice can never be generated. So the texts are phrased, per shape, in different words
("A … is at the", "Next, a … sits in the", "Then comes a … near the"), and a scene uses each colour once.
`scenes.repeated_trigram` finds offenders; a test holds that there are none.

Decisions where the published formats leave a choice:

* OCR of a picture without a word answers the empty string, ANALYZE says `text: NA`.
* OD names the category only (`circle`) and rounds boxes to the middle of 50 steps per axis (`<loc_10>`,
  `<loc_30>`, … `<loc_990>`), which a tiny network can learn and which moves no edge by more than 1 %.
* ANALYZE describes the whole drawing and its first shape in the first subject; further subjects hold
  `body` alone, since repeating longer field names is what the n-gram rule forbids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scenes import location_bins

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scenes import Scene, SceneShape

PROMPTS: dict[str, str] = {
    "GENERATE_TAGS": "<GENERATE_TAGS>",
    "CAPTION": "What does the image describe?",
    "DETAILED_CAPTION": "Describe in detail what is shown in the image.",
    "MORE_DETAILED_CAPTION": "Describe with a paragraph what is shown in the image.",
    "MIXED_CAPTION": "<MIXED_CAPTION>",
    "MIXED_CAPTION_PLUS": "<MIXED_CAPTION_PLUS>",
    "ANALYZE": "<ANALYZE>",
    "OCR": "What is the text in the image?",
    "OD": "Locate the objects with category name in the image.",
}
"""The literal prompts the model is trained on; a test holds them equal to the engine's instruction table."""

NUMBER_WORDS = ("zero", "one", "two", "three")


def answer(instruction: str, scene: Scene) -> str:
    """The true answer; KeyError for an instruction outside `PROMPTS`."""
    return _ANSWERS[instruction](scene)


def _tags(scene: Scene) -> str:
    count = len(scene.shapes)
    tags = [f"{count} shape{'s' if count > 1 else ''}"]
    tags += [f"{shape.colour} {shape.shape}" for shape in scene.shapes]
    tags += ["english text"] if scene.word else []
    tags += [f"{scene.ground} background", "simple background", "no humans"]
    return ", ".join(tags)


def _caption(scene: Scene) -> str:
    first, *others = [f"{_article(shape.colour)} {shape.colour} {shape.shape}" for shape in scene.shapes]
    text = first[0].upper() + first[1:]
    if len(others) == 2:
        text += f", {others[0]}"
    if others:
        text += f" and {others[-1]}"
    text += f" on {_article(scene.ground)} {scene.ground} background"
    return f'{text} with the word "{scene.word}".' if scene.word else f"{text}."


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _full(shape: SceneShape) -> str:
    return f"{shape.size} {shape.colour} {shape.shape}"


def _detailed(scene: Scene) -> str:
    frames = ("A {thing} at the {place}", "a {thing} in the {place}", "one {thing} near the {place}")
    parts = [
        frame.format(thing=_full(shape), place=shape.place)
        for frame, shape in zip(frames, scene.shapes, strict=False)
    ]
    text = ", ".join([*parts, f"on a plain {scene.ground} background"])
    return f'{text}, with the word "{scene.word}" at the {scene.word_place}.' if scene.word else f"{text}."


def _paragraph(scene: Scene) -> str:
    count = len(scene.shapes)
    noun = "shapes" if count > 1 else "shape"
    frames = (
        "A {thing} is at the {place}.",
        "Next, a {thing} sits in the {place}.",
        "Then comes a {thing} near the {place}.",
    )
    opening = f"This drawing shows {NUMBER_WORDS[count]} simple {noun}"
    sentences = [f"{opening} on a solid {scene.ground} background."]
    sentences += [
        frame.format(thing=_full(shape), place=shape.place)
        for frame, shape in zip(frames, scene.shapes, strict=False)
    ]
    if scene.word:
        sentences.append(f'The word "{scene.word}" is written across the {scene.word_place}.')
    return " ".join(sentences)


def _mixed(scene: Scene) -> str:
    return f"{_paragraph(scene)}\n\n{_tags(scene)}"


def _analysis(scene: Scene) -> str:
    first = scene.shapes[0]
    fields = {
        "camera_angle": "front",
        "art_style": "flat drawing",
        "location": "abstract",
        "background": f"solid {scene.ground}",
        "text": scene.word or "NA",
        "distance_to_camera": "close" if first.size == "large" else "far",
        "image_composition": first.place,
        "body": f"{first.colour} {first.shape}",
    }
    text = ", ".join(f"{name}: {value}" for name, value in fields.items())
    for separator, shape in zip(("; ", " ; "), scene.shapes[1:], strict=False):
        text += f"{separator}body: {shape.colour} {shape.shape}"
    return text


def _mixed_plus(scene: Scene) -> str:
    return f"{_mixed(scene)}\n\n{_analysis(scene)}"


def _ocr(scene: Scene) -> str:
    return scene.word or ""


def _objects(scene: Scene) -> str:
    return "".join(
        shape.shape + "".join(f"<loc_{value}>" for value in location_bins(scene, shape))
        for shape in scene.shapes
    )


_ANSWERS: dict[str, Callable[[Scene], str]] = {
    "GENERATE_TAGS": _tags,
    "CAPTION": _caption,
    "DETAILED_CAPTION": _detailed,
    "MORE_DETAILED_CAPTION": _paragraph,
    "MIXED_CAPTION": _mixed,
    "MIXED_CAPTION_PLUS": _mixed_plus,
    "ANALYZE": _analysis,
    "OCR": _ocr,
    "OD": _objects,
}
