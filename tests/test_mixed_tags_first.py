"""Long prompts as PaliGemma writes them: tags, then prose, in one line and in lower case."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import Mixed, MixedParts, TagOptions, parse_answer, split_mixed

# The published example, from the card of the long-prompt checkpoint, word for word.
TAGS = (
    "waterfall, no_humans, outdoors, scenery, tree, lake, rock, river, water, nature, plant, sky, grass, "
    "day, island, blue_sky, solo, mountain, forest"
)
PROSE = (
    "a peaceful and natural landscape image of a waterfall with a pond nestled in the woods has been created "
    "using digital art techniques. the vibrant green foliage of the trees, lush pink flowers in full bloom, "
    "and the sparkling waters ofthe lagoon create a sense of harmony and tranquility that's hard to put into "
    "words. the waterfall stands tall, its majestic beauty accentuated by the lush surroundings. towering "
    "over the serene pond, it is like a giant gift from nature itself. situated in a tranquil setting, the "
    "scene exudes peacefulness and a feeling of serenity. the image features a beautiful tropical landscape "
    "with an impressive waterfall, surrounded by rocks and trees. a few leaves can be seen floating on the "
    "water. there are also some flowers scattered about, adding color and texture to the environment. "
    "flowers are known for their bright colors and delicate petals that add beauty to any setting. placed "
    "strategically, they draw attention to where they are displayed, highlighting the natural beauty of this "
    "spectacularly designed piece"
)


@pytest.mark.parametrize("known", [True, False])
def test_the_published_example(known: bool) -> None:
    assert split_mixed(f"{TAGS}, {PROSE}", tags_first=known) == MixedParts(PROSE, TAGS)
    assert split_mixed(f"\n {TAGS},{PROSE} \n\n", tags_first=known) == MixedParts(PROSE, TAGS)


@pytest.mark.parametrize("end", range(60, len(PROSE), 37))
def test_the_published_example_cut_off_anywhere(end: int) -> None:
    prose = PROSE[:end].rstrip(" ,")
    for known in (True, False):
        assert split_mixed(f"{TAGS}, {prose}", tags_first=known) == MixedParts(prose, TAGS)


def test_the_answer_to_the_instruction() -> None:
    result = parse_answer("LONG_PROMPT", f"{TAGS}, {PROSE}", (64, 64))
    assert isinstance(result, Mixed)
    assert result.text == f"{TAGS}, {PROSE}"
    assert ", ".join(result.tags) == TAGS
    assert result.prose == PROSE
    assert result.analysis is None


def test_an_edited_answer_keeps_the_tags_first() -> None:
    options = TagOptions(prefix="style of x", suffix="4k", underscores="spaces", exclude="solo")
    result = parse_answer(
        "LONG_PROMPT", "solo, blue_sky, tree, the sky is calm.", (64, 64), tag_options=options
    )
    assert isinstance(result, Mixed)
    assert result.text == "style of x, blue sky, tree, the sky is calm. 4k"
    assert result.tags == ("style of x", "blue sky", "tree", "4k")
    assert result.prose == "style of x, the sky is calm. 4k"
    only = parse_answer("LONG_PROMPT", "solo, blue_sky", (64, 64), tag_options=options)
    assert only.text == "style of x, blue sky, 4k"
    bare = parse_answer("LONG_PROMPT", "the sky is calm.", (64, 64), tag_options=options)
    assert bare.text == "style of x, the sky is calm. 4k"


@pytest.mark.parametrize(
    ("tags", "prose"),
    [
        ("1girl, solo, long_hair, forest", "a girl"),  # a short beginning, and no more
        ("1girl, blue_sky, tree", "a woman, wearing a red dress, stands by the river. she smiles"),
        ("1girl, blue_sky, tree", "she smiles, her hair blows in the wind."),
        ("1girl, blue_sky, tree", "woman standing by the river, red dress"),
        ("1girl, blue_sky, tree", "woman standing near river bank at night"),
        ("1girl, blue_sky, tree, sunset", "golden light, soft mood, the water is calm"),
        ("1girl, long hair, blue eyes", "the woman stands in a garden. she smiles."),  # tags with spaces
        ("1girl, long hair, star wars, tree", "a woman stands by the river, looking up"),
        ("1girl, star wars, blue_sky, tree", "a woman stands by the river, looking up"),
        ("girl with a pearl earring, 1girl, solo_focus", "a painting of a girl, in oil"),
        ("the legend of zelda, 2girls, link_(zelda)", "an elf with a sword. he runs."),
        ("hatsune_miku_(vocaloid), miku_(a, b), solo", "this image shows a singer. she sings."),
        ("1girl, love_live!, st._louis, tree", "the scene is calm. nobody moves."),
        ("1girl, ^_^, :d, smile", "a cartoon of a girl. she laughs."),
        ("forest, lake, mountain", "a peaceful landscape with a lake. it is calm."),
        ("2boys, solo_focus", "an image of two boys. they run."),
        ("no_humans", "a house in the woods. it is old."),
        ("1girl, blue_sky.", "a woman stands by the river. she smiles"),
        ("red hair, blue sky.", "a woman stands by the river. she smiles"),
        ("Waterfall, Outdoors, Tree", "A waterfall in a forest. It is tall."),
    ],
)
def test_tags_and_prose(tags: str, prose: str) -> None:
    assert split_mixed(f"{tags}, {prose}".replace("., ", ". "), tags_first=True) == MixedParts(prose, tags)


@pytest.mark.parametrize(
    "prose",
    [
        PROSE,
        "a cat",
        "a cat, sleeping on a chair, dreams.",
        "the image shows a woman with long hair, blue eyes, red lips",
        "outdoors, a woman stands by a river. she smiles",
        "however, the image is dark. nothing can be seen.",
        "red, green, blue, and yellow balloons float in the sky.",
        "Red, green, blue and yellow balloons float above the sleepy little town.",
        "there is a dog, a cat, and a mouse",
    ],
)
def test_prose_alone(prose: str) -> None:
    assert split_mixed(prose, tags_first=True) == MixedParts(prose)


@pytest.mark.parametrize(
    "tags",
    [
        TAGS,
        "1girl",
        "solo",
        "1girl, solo, blue_sky, long_",
        "1girl, girl with a pearl earring, solo, hat",
        "1girl, solo_focus, star wars",
        "1girl, long hair, blue eyes",
        "black and white, cat, dog",
        "hatsune_miku_(vocaloid), 1girl, st. louis (azur lane), solo",
    ],
)
def test_tags_alone(tags: str) -> None:
    assert split_mixed(tags, tags_first=True) == MixedParts(tags=tags)
    assert split_mixed(f"{tags}, ", tags_first=True) == MixedParts(tags=tags)


def test_words_after_underscored_tags_that_only_a_sentence_has() -> None:
    expected = MixedParts("sunset over distant hills", "1girl, long_hair")
    assert split_mixed("1girl, long_hair, sunset over distant hills", tags_first=True) == expected


def test_an_answer_of_several_lines_is_split_as_any_other() -> None:
    assert split_mixed(f"{TAGS},\n\n{PROSE}", tags_first=True) == MixedParts(PROSE, TAGS)
    assert split_mixed(f"{PROSE}\n\n{TAGS}", tags_first=True) == MixedParts(PROSE, TAGS)


def test_an_unknown_text_is_recognised_only_if_it_is_sure() -> None:
    """Prose that may be read otherwise stays as it was; tags with underscores leave no doubt."""
    assert split_mixed("outdoors, a woman stands by a river. she smiles").tags == ""
    assert split_mixed("tree, blue_sky, sunset, golden light, the water is calm") == MixedParts(
        "golden light, the water is calm", "tree, blue_sky, sunset"
    )
    for tags in (
        "long_hair, 1girl, smile, the legend of zelda",
        "a_b, hat, looking at viewer, long hair",
    ):
        assert split_mixed(tags) == MixedParts(tags=tags)
    sentence = "She wears a blue dress, a hat, and red shoes., blue_sky, hat, a cat"
    assert split_mixed(sentence) == MixedParts(sentence)
    with_analysis = f"{TAGS}, {PROSE}\n\ncamera_angle: portrait, text: NA"
    assert split_mixed(with_analysis) == MixedParts(PROSE, TAGS, "camera_angle: portrait, text: NA")


FRAGMENTS = st.lists(
    st.sampled_from(
        [PROSE, TAGS, "1girl", "blue_sky", "a cat", "the water is calm", "golden light", "and", ", ", ",",
         ". ", " ", "。", "\n", "^_^", "_", "(", "a_b. c", "Tree", "\x1f"]
    )
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), st.text(alphabet="aA1_,. "), FRAGMENTS))
@settings(deadline=None, max_examples=400)
def test_any_text_keeps_all_its_words_in_order(text: str) -> None:
    parts = split_mixed(text, tags_first=True)
    if len(text.splitlines()) <= 1:
        kept = re.sub(r"[\s,]+", "", parts.tags + parts.prose)
        assert kept == re.sub(r"[\s,]+", "", text)
    assert parts.prose == parts.prose.strip(" ,\n")
    assert len(parts.tags.splitlines()) <= 1


@pytest.mark.parametrize("piece", ["a. ", "a, ", "a_b, ", "a_b, the cat, ", "a b, ", "1girl, a. "])
def test_a_very_long_answer_takes_no_time(piece: str) -> None:
    started = time.perf_counter()
    split_mixed(piece * 10_000, tags_first=True)
    split_mixed(piece * 10_000)
    assert time.perf_counter() - started < 5
