"""Taking mixed answers apart, in every form that exists, without losing a word."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from promptgen.captioning import MixedParts, split_mixed, split_tags

PROSE = (
    "A digital illustration shows a young woman, standing in a field of cacti, with short blonde hair and"
    " blue eyes."
    " She wears a black hat, and an orange coat with leaf patterns. The background is a solid green."
)
TAGS = (
    "1girl, solo, looking at viewer, short hair, blue eyes, blonde hair, hat, closed mouth, blunt bangs,"
    " coat,"
    " green background, lips, realistic, cactus"
)
ANALYSIS = (
    "camera_angle: portrait, art_style: photo realistic, location: indoor, background: solid green, text: NA,"
    " distance_to_camera: upper body, clothing: orange coat with leaf patterns, image_composition:"
    " middle, pants: NA"
)
WATERFALL_TAGS = (
    "waterfall, no_humans, outdoors, scenery, tree, lake, rock, river, water, nature, plant, sky, grass,"
    " day, island,"
    " blue_sky, solo, mountain, forest"
)
WATERFALL_PROSE = (
    "a peaceful and natural landscape image of a waterfall with a pond nestled in the woods has been"
    " created using"
    " digital art techniques. the vibrant green foliage of the trees, lush pink flowers in full bloom,"
    " and the"
    " sparkling waters ofthe lagoon create a sense of harmony and tranquility that's hard to put into"
    " words. the"
    " waterfall stands tall, its majestic beauty accentuated by the lush surroundings. a few leaves can"
    " be seen"
    " floating on the water. placed strategically, they draw attention to where they are displayed,"
    " highlighting the"
    " natural beauty of this spectacularly designed piece"
)


@pytest.mark.parametrize("newline", ["\n", "\n\n", "\r\n", "\r", "\n \n\n", "\u2028", "\x85"])
def test_prose_then_tags(newline: str) -> None:
    assert split_mixed(PROSE + newline + TAGS) == MixedParts(PROSE, TAGS)
    assert split_mixed(f"\n{PROSE}{newline}{TAGS}, \n") == MixedParts(PROSE, TAGS)


@pytest.mark.parametrize("newline", ["\n", "\n\n", "\r\n"])
def test_prose_then_tags_then_analysis(newline: str) -> None:
    assert split_mixed(newline.join([PROSE, TAGS, ANALYSIS])) == MixedParts(PROSE, TAGS, ANALYSIS)


@pytest.mark.parametrize("gap", [" ", "\n"])
def test_a_missing_line_break(gap: str) -> None:
    assert split_mixed(f"{PROSE}{gap}{TAGS}") == MixedParts(PROSE, TAGS)
    assert split_mixed(f"{PROSE}{gap}{TAGS}\n{ANALYSIS}") == MixedParts(PROSE, TAGS, ANALYSIS)
    assert split_mixed(f"{PROSE}{gap}{TAGS}, {ANALYSIS}") == MixedParts(PROSE, TAGS, ANALYSIS)
    assert split_mixed(f"{PROSE}{gap}{ANALYSIS}") == MixedParts(PROSE, "", ANALYSIS)


def test_tags_then_prose_in_one_line() -> None:
    assert split_mixed(f"{WATERFALL_TAGS}, {WATERFALL_PROSE}") == MixedParts(WATERFALL_PROSE, WATERFALL_TAGS)
    assert split_mixed(f"{WATERFALL_TAGS},{WATERFALL_PROSE}\n") == MixedParts(WATERFALL_PROSE, WATERFALL_TAGS)


@pytest.mark.parametrize("newline", ["\n", "\n\n"])
def test_tags_then_prose_in_two_lines(newline: str) -> None:
    assert split_mixed(f"{TAGS}{newline}{PROSE}") == MixedParts(PROSE, TAGS)
    assert split_mixed(f"{WATERFALL_TAGS},{newline}{WATERFALL_PROSE}") == MixedParts(
        WATERFALL_PROSE, WATERFALL_TAGS
    )


def test_tags_first_with_a_short_beginning_of_prose() -> None:
    prose = "a woman, wearing a red dress, stands by the river. she smiles"
    assert split_mixed(f"1girl, blue_sky, tree, {prose}") == MixedParts(prose, "1girl, blue_sky, tree")


@pytest.mark.parametrize(
    ("prose", "tags"),
    [
        ("A cat.", "cat"),
        ("A cat", "cat"),
        ("Cat", "cat"),
        ("A red square", "square, red"),
        ("Red square", "square, red"),
        ("a black circle on a gray background", "1 object, black circle, gray background"),
        ("Sunset over hills, golden light, calm sea.", "sunset, hills, sea"),
        ("Golden hour, calm water. Quiet mood, soft light", "sea, sunset, no humans"),
        ("A portrait of Mr. Smith, tall, bald, old", "1boy, solo, bald"),
        ("a woman, standing, outdoors, hat", "1girl, standing, hat"),
        ("一个女孩站在树旁。她微笑。", "1girl, solo"),
        ('The sign says "SALE, NOW, OPEN!"', "sign, english text"),
    ],
)
def test_short_lines_are_kept(prose: str, tags: str) -> None:
    assert split_mixed(f"{prose}\n{tags}") == MixedParts(prose, tags)
    assert split_mixed(f"{prose}\n\n{tags}\n\ntext: NA, age: 5") == MixedParts(
        prose, tags, "text: NA, age: 5"
    )


@pytest.mark.parametrize(
    "prose",
    [
        PROSE,
        WATERFALL_PROSE,
        "cat",
        "A cat.",
        "In the foreground, a woman, wearing a red dress, stands.",
        "Red, green, blue, and yellow balloons float in the sky.",
        "Red, Green, Blue, Yellow, White balloons float high above the sleepy little town.",
        "The scene has trees, rocks, and water.",
        "A portrait of Mr. Smith, tall, bald, old",
        "outdoors, a woman stands by a river. she smiles",
        "Background: a dark forest with trees.",
        "Mr. Smith, tall, bald, and old, waits. He reads, smokes, and the rain falls.",
        f"{PROSE}\n\n{PROSE}",
        "Outdoors, a woman stands by a river. Indoors, a man sleeps.",
    ],
)
def test_prose_alone(prose: str) -> None:
    assert split_mixed(prose) == MixedParts(prose)


@pytest.mark.parametrize(
    "tags",
    [
        TAGS,
        WATERFALL_TAGS,
        "1girl, solo",
        "1girl, solo, smile.",
        "honkai: star rail, 1girl, solo",
        "re:zero, 1girl, rating: safe",
        "rating: general, source: anime, artist: someone, 1girl, solo",
        "honkai: star rail, nier:automata, danganronpa: trigger happy havoc, 2girls",
        "1girl, love live! school idol project, solo, hat",
        "1girl, st. louis (azur lane), solo",
        "1girl, girl with a pearl earring, solo, hat",
        "black and white, cat, dog",
    ],
)
def test_tags_alone(tags: str) -> None:
    assert split_mixed(tags) == MixedParts(tags=tags)
    assert split_mixed(f"{PROSE}\n{tags}") == MixedParts(PROSE, tags)
    assert split_mixed(f"{tags}\n\n{ANALYSIS}") == MixedParts("", tags, ANALYSIS)


@pytest.mark.parametrize(
    "prose",
    [
        "red haired girl, blue eyes, white dress, standing on the beach, sunset behind her",
        "Close-up portrait, soft light, blurred background",
        "woman, man, dog and cat sit on a bench in the park",
        "1 cat",
    ],
)
@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_of_two_lines_the_first_is_prose_however_it_reads(prose: str, gap: str) -> None:
    assert split_mixed(f"{prose}{gap}{TAGS}") == MixedParts(prose, TAGS)
    assert split_mixed(f"{prose}{gap}{TAGS}{gap}{ANALYSIS}") == MixedParts(prose, TAGS, ANALYSIS)


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_prose_that_ends_in_short_phrases_is_not_cut_where_tags_follow(gap: str) -> None:
    prose = "A cat sleeps on a chair. Warm light, soft shadows, wooden floor, quiet mood"
    assert split_mixed(f"{prose}{gap}{TAGS}") == MixedParts(prose, TAGS)


def test_prose_cut_off_in_a_list_is_no_tags() -> None:
    prose = "The image shows a woman with long hair, blue eyes, red lips, pale skin, a neck"
    assert split_mixed(prose) == MixedParts(prose)


def test_tags_over_several_lines_become_one() -> None:
    assert split_mixed("1girl, solo,\nsmile, hat, tree") == MixedParts(tags="1girl, solo, smile, hat, tree")


def test_paragraphs_of_prose_keep_their_breaks() -> None:
    prose = "A woman stands. She is tall.\n\nBehind her, a tree.\nIt is old."
    assert split_mixed(f"{prose}\n\n1girl, tree") == MixedParts(prose, "1girl, tree")


def test_a_line_of_tags_within_prose_is_prose() -> None:
    prose = "The sign reads:\nSALE, NOW, OPEN\nThe woman stands beside the sign."
    assert split_mixed(f"{prose}\n1girl, sign") == MixedParts(prose, "1girl, sign")


@pytest.mark.parametrize(
    "analysis",
    [
        ANALYSIS,
        "text: NA",
        "Camera angle: portrait, Art style: anime",
        "gender: female, hair_color: red; gender: male",
        "camera_angle: portrait, text: SALE\n50%, off, action: NA",
        "mood: calm, eye_color: blue, weather: fine",
        "mood: calm, pose: sitting, weather: fine",
        "mood: calm; pose: sitting; weather: fine",
    ],
)
def test_the_analysis_never_leaks(analysis: str) -> None:
    assert split_mixed(f"{PROSE}\n\n{TAGS}\n\n{analysis}") == MixedParts(PROSE, TAGS, analysis)
    assert split_mixed(analysis) == MixedParts(analysis=analysis)


def test_an_analysis_in_two_paragraphs() -> None:
    answer = f"{PROSE}\n\n{TAGS}\n\ngender: female, age: 20\n\ngender: male, age: 30"
    assert split_mixed(answer) == MixedParts(PROSE, TAGS, "gender: female, age: 20\ngender: male, age: 30")


@pytest.mark.parametrize("text", ["", " ", "\n\n", ",,\n , ", "\u3000\n"])
def test_nothing(text: str) -> None:
    assert "".join(vars(split_mixed(text)).values()).strip() == ""


def words(*texts: str) -> Counter[str]:
    """Words and, since nothing need stand after them, the full stops of scripts without spaces."""
    return Counter(word for text in texts for word in re.findall(r"[^\s,。]+|。+", text))


FRAGMENTS = st.lists(
    st.sampled_from(
        [PROSE, TAGS, ANALYSIS, WATERFALL_TAGS, WATERFALL_PROSE, "A cat.", "cat", "text: NA",
         "gender: male; ", "(", "a ", "\n", "\n\n", " ", ", ", ".", "! ", "\r\n", "Mr. ", "and ", "狐。",
         "camera_angle: x", ", art_style: y", "。"]
    )
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), st.text(alphabet="aA1,.:; \n_!"), FRAGMENTS))
@example("a\x1f,b\x1c\u2029c")
@settings(deadline=None, max_examples=400)
def test_any_text_keeps_all_its_words(text: str) -> None:
    parts = split_mixed(text)
    assert words(parts.prose, parts.tags, parts.analysis) == words(text)


@given(FRAGMENTS)
@settings(deadline=None, max_examples=200)
def test_tags_are_one_line_and_parts_are_trimmed(text: str) -> None:
    parts = split_mixed(text)
    assert len(parts.tags.splitlines()) <= 1
    for part in (parts.prose, parts.tags, parts.analysis):
        assert part == part.strip(" ,\n")
    assert "camera_angle: x" not in split_tags(parts.tags) or "camera_angle: x" not in text.splitlines()


@pytest.mark.parametrize(
    "piece", ["a. ", "a, ", "a\n", "text: a, ", "\n", "( ", ". camera_angle: a", "A a. "]
)
def test_a_very_long_answer_takes_no_time(piece: str) -> None:
    started = time.perf_counter()
    split_mixed(piece * 10_000)
    assert time.perf_counter() - started < 5
