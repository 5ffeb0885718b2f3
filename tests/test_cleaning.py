"""Clean-up of captions, tags and mixed answers: what goes, what stays, and that nothing is left behind."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from promptgen.captioning import INSTRUCTIONS, CleaningOptions, Mixed, TagOptions, Tags, parse_answer
from promptgen.captioning.cleaning import clean_answer, clean_tags, clean_text, is_cleaned
from promptgen.captioning.words import count_words, holds_words, longest_run

SIZE = (100, 100)
ENDLESS = "wo" * 20
COMPLETE = CleaningOptions(complete_sentences=True)
BRACKETS = CleaningOptions(remove_brackets="()[]{}")
CHARACTERS = CleaningOptions(remove_characters='#/、@|;~"*^')
SHORT_WORDS = CleaningOptions(max_word_length=30)
NO_UNDERSCORES = CleaningOptions(drop_underscored=True)

PIECES = st.sampled_from(
    [
        "a cat", "Tall.", "He sits", ",", ", ", ".", " ", "\n", "\n\n", "(", ")", "[", "]", "{", "}", "\\(",
        "\\)", "^_^", ">_<", "(o)_(o)", ":(", ":)", "blue_sky", "_", "__", ENDLESS, f"x_{ENDLESS}", "#", "/",
        ";", "~", '"', "*", "...", "!", "?", "1,000", "3.5", "中文。", "Mr.", "e.g", "-", "'", "”", "\0", "…",
        "，", "、", "u.s.", "J.", "5 p.m.", "live!", "It is", ";d", ":/", "\\m/", "/\\/\\/\\",
        "fate/stay_night", "hat.", "the",
    ]
)  # fmt: skip
ANSWERS = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES).map(" ".join), st.text())
OPTIONS = st.builds(
    CleaningOptions,
    complete_sentences=st.booleans(),
    remove_characters=st.sampled_from(["", '#/、@|;~"*^', "._", "^", ",", "([", "ab"]),
    remove_brackets=st.sampled_from(["", "()", "[]{}", "()[]{}", "<>"]),
    max_word_length=st.sampled_from([None, 1, 4, 30]),
    drop_underscored=st.booleans(),
)


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        ("A cat sits. It has a red h", "A cat sits."),
        ("A cat sits. It has a hat, and a red sc", "A cat sits. It has a hat."),
        ("A cat in a hat, with a red sc", "A cat in a hat"),
        ("A cat with 1,000 red ha", "A cat with 1,000 red"),  # no word is kept that may be half of one
        ("Mr. Smith has a c", "Mr. Smith has a"),
        ("a woman stands in a\ngarden", "a woman stands in a"),
        ("woma", "woma"),
        ("一只猫坐", "一只猫坐"),
        ("A cat sits. A man in a u.s. army jac", "A cat sits."),
        ("A flag of the U.S. on a po", "A flag of the U.S."),
        ("what a sight! the cat si", "what a sight!"),
        ("It is 3.5 m high. Its to", "It is 3.5 m high."),
        ("A cat sits. It has a hat, ", "A cat sits. It has a hat."),
        ("A cat sits.", "A cat sits."),
        ("A cat says “sit.”", "A cat says “sit.”"),
        ("Who is it? It i", "Who is it?"),
        ("一只猫坐着。它有一", "一只猫坐着。"),
        ("First.\n\nSecond, and th", "First.\n\nSecond."),
        ("", ""),
    ],
)
def test_a_chopped_end_goes_back_to_the_last_full_stop_or_comma(answer: str, complete: str) -> None:
    assert clean_text(answer, COMPLETE, truncated=True) == complete
    assert clean_text(answer, CleaningOptions(), truncated=True) == answer


def test_an_answer_that_was_not_cut_off_is_only_chopped_if_it_has_sentences() -> None:
    assert clean_text("A cat, sitting on a mat", COMPLETE) == "A cat, sitting on a mat"
    assert clean_text("A cat sits. It has a hat, and a", COMPLETE) == "A cat sits. It has a hat."


@pytest.mark.parametrize(
    "whole",
    [
        "A flag of the U.S. on a pole",
        "A portrait of J. R. R. Tolkien",
        "a portrait of j. r. r. tolkien",
        "a clock showing 5 p.m. on a wall",
        "animals, e.g. cats and dogs",
        "a poster of love live! with two girls",
        "a poster of Love Live! School Idol Project",
        "a logo of Yahoo! on a wall",
        'a sign with "Yahoo!" on it',
        "a view of Mt. Fuji at dawn",
        "a logo of Warner Bros. on a wall",
        "Who is it? asks the cat",
        "A cat... on a mat",
        "A cat… on a mat",
        "1. A cat on a mat",
        "ラブライブ！の二人",
        "a photo of J. A. Smith",
    ],
)
def test_a_full_stop_within_a_sentence_chops_no_whole_caption(whole: str) -> None:
    assert clean_text(whole, COMPLETE) == whole
    assert clean_text(f"{whole}.", COMPLETE) == f"{whole}."
    assert clean_text(f"He sits. {whole}", COMPLETE).startswith("He sits.")


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        ("A cat sits. A man wears a u.s. army jacket", "A cat sits."),
        ("A flag of the U.S. It hangs on a", "A flag of the U.S."),
        ("What a sight! The cat sits on a", "What a sight!"),
        ("Is it the letter A? It is red, and a", "Is it the letter A? It is red."),
        ("This is the dog's. it has a", "This is the dog's."),
        ("一只猫坐着。它有一", "一只猫坐着。"),
    ],
)
def test_an_unfinished_end_after_a_sure_full_stop_goes(answer: str, complete: str) -> None:
    assert clean_text(answer, COMPLETE) == complete


@pytest.mark.parametrize(
    ("tags", "truncated", "complete"),
    [
        ("cat, red_hat, sc", True, "cat, red_hat"),
        ("cat, red_hat, scarf", False, "cat, red_hat, scarf"),
        ("cat, red_hat,", True, "cat, red_hat"),
        ("cat, red_hat, scarf.", True, "cat, red_hat, scarf."),
        ("cat", True, "cat"),
        ("cat, 1,000 yen", True, "cat"),
        ("cat,2girls,sc", True, "cat,2girls"),
    ],
)
def test_tags_lose_their_last_one_only_if_it_was_cut_off(tags: str, truncated: bool, complete: str) -> None:
    assert clean_tags(tags, COMPLETE, truncated=truncated) == complete


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ('the "red" hat', "the red hat"),
        ("rock/stone #1 *and* more", "rock stone 1 and more"),
        ("cat, ;, hat", "cat, hat"),
        ("a cat ~. A hat", "a cat. A hat"),
        ("#cat", "cat"),
        ("cat, ^_^, o_o", "cat, o_o"),  # what would be left of a face is none
    ],
)
def test_characters_go_and_leave_nothing_behind(answer: str, clean: str) -> None:
    assert clean_text(answer, CHARACTERS) == clean


@pytest.mark.parametrize(
    ("tags", "clean"),
    [
        ("cat, ;d, dog", "cat, ;d, dog"),
        ("cat, ;p, ;o, ^_^, dog", "cat, ;p, ;o, ^_^, dog"),
        ("cat, ;d; dog", "cat, ;d dog"),
        (r"cat, \m/, dog", r"cat, \m/, dog"),
        ("cat, /\\/\\/\\, dog", "cat, /\\/\\/\\, dog"),
        ("fate/stay_night, cat", "fate/stay_night, cat"),
        ("hololive/english, fate/stay night, steins;gate", "hololive/english, fate/stay night, steins;gate"),
        (r"saber_\(fate/stay_night\), cat", r"saber_\(fate/stay_night\), cat"),
        ("cat/, /dog, #hat, ;, bird/", "cat, dog, hat, bird"),
        ("cat #1; dog", "cat 1 dog"),
        ('(;d), ";p", dog', "(;d), ;p, dog"),
        ("(# ;d", "(;d"),
    ],
)
def test_tags_that_have_such_characters_stay_whole(tags: str, clean: str) -> None:
    assert clean_tags(tags, CHARACTERS) == clean
    assert clean_tags(clean, CHARACTERS) == clean


@pytest.mark.parametrize(
    ("name", "raw", "clean"),
    [
        (
            "LONG_PROMPT",
            "fate/stay_night, ;d, blue_sky, #1girl, a woman; and/or a man stands here.",
            "fate/stay_night, ;d, blue_sky, 1girl, a woman and or a man stands here.",
        ),
        (
            "MIXED_CAPTION",
            "A cat; and/or ;d.\n\ncat, ;d, fate/zero #1",
            "A cat and or.\n\ncat, ;d, fate/zero 1",
        ),
        ("LONG_PROMPT", "fate/zero, blue_sky, ;d", "fate/zero, blue_sky, ;d"),
        ("CAPTION", "A cat and/or ;d", "A cat and or"),
    ],
)
def test_tags_stay_whole_beside_prose(name: str, raw: str, clean: str) -> None:
    assert parse_answer(name, raw, SIZE, cleaning=CHARACTERS).text == clean


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ("a cat (red [and (very) blue]) sits", "a cat sits"),
        ("is it a cat (or a dog)? It is (a cat).", "is it a cat? It is."),
        ("one. (two). three, (four), five", "one. three, five"),
        ("a cat (red and blue", "a cat (red and blue"),
        ("a cat) red (and) blue", "a cat) red blue"),
        ("(a) cat", "cat"),
        (":(, cat, :), hat", ":(, cat, :), hat"),
        ("a cat (smiling :d), hat", "a cat, hat"),
        (r"saber_\(fate\), cat", "saber, cat"),
        ("(o)_(o), cat", "(o)_(o), cat"),
        ("a (b] c) d", "a d"),
    ],
)
def test_brackets_go_with_what_is_in_them(answer: str, clean: str) -> None:
    assert clean_text(answer, BRACKETS) == clean


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        (f"a {ENDLESS} cat", "a cat"),
        (f"a cat {ENDLESS}. A hat", "a cat. A hat"),
        (f"a cat ({ENDLESS}) sits", "a cat sits"),
        (f"cat, {ENDLESS}, hat", "cat, hat"),
        (f"cat, blue_{ENDLESS}, hat", "cat, hat"),
        ("the_legend_of_zelda:_breath_of_the_wild", "the_legend_of_zelda:_breath_of_the_wild"),
        ("a state-of-the-art-and-well-known-machine", "a state-of-the-art-and-well-known-machine"),
        ("猫" * 40, "猫" * 40),
    ],
)
def test_endless_words_go(answer: str, clean: str) -> None:
    assert clean_text(answer, SHORT_WORDS) == clean


def test_words_with_an_underscore_go_but_faces_stay() -> None:
    assert clean_tags("cat, blue_sky, ^_^, hat", NO_UNDERSCORES) == "cat, ^_^, hat"
    assert clean_tags("cat, (blue_sky), o_o.", NO_UNDERSCORES) == "cat, o_o."
    assert clean_text("a cat (looking_at_viewer) under a blue_sky.", NO_UNDERSCORES) == "a cat under a."


@given(ANSWERS, OPTIONS, st.booleans())
@example("He is a cat, big. He (is) tall, and th", CleaningOptions(True, ".", "()"), True)
@example("He sits .,", NO_UNDERSCORES, False)
@example(f"a ({ENDLESS} [#]), , b", CleaningOptions(True, "#", "[]", 30), True)
@settings(deadline=None, max_examples=400)
def test_cleaning_twice_is_cleaning_once(answer: str, options: CleaningOptions, truncated: bool) -> None:
    for clean in (clean_text, clean_tags):
        once = clean(answer, options, truncated=truncated)
        assert clean(once, options) == once


@given(ANSWERS, OPTIONS, st.booleans())
@settings(deadline=None, max_examples=400)
def test_nothing_is_left_behind(answer: str, options: CleaningOptions, truncated: bool) -> None:
    text = clean_text(answer, options, truncated=truncated)
    if options == CleaningOptions():
        assert text == answer
        return
    assert "  " not in text
    assert not re.search(r" ,|,[ ]*,|\0", text)
    assert not re.search(r"[^\s,] \.(?=\s|\Z)", text)
    assert not set(text) & set(options.remove_characters)
    if options.max_word_length is not None:
        assert all(longest_run(word) <= options.max_word_length for word in text.split())


@given(ANSWERS, st.booleans())
@settings(deadline=None)
def test_letters_come_through_in_their_order(answer: str, truncated: bool) -> None:
    options = CleaningOptions(True, "#", "()", 30, True)
    letters = iter(answer)
    kept = [
        character for character in clean_text(answer, options, truncated=truncated) if character.isalpha()
    ]
    assert all(any(character == other for other in letters) for character in kept)


@given(ANSWERS, OPTIONS, st.booleans())
@settings(deadline=None)
def test_kinds_that_are_no_captions_are_left_alone(
    answer: str, options: CleaningOptions, truncated: bool
) -> None:
    for instruction in INSTRUCTIONS.values():
        cleaned = clean_answer(instruction, answer, options, truncated=truncated)
        if not is_cleaned(instruction):
            assert cleaned == answer
    named = {name for name, instruction in INSTRUCTIONS.items() if is_cleaned(instruction)}
    assert named == {
        "GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "MIXED_CAPTION",
        "MIXED_CAPTION_PLUS", "LONG_PROMPT", "DESCRIBE", "PROMPT",
    }  # fmt: skip


def test_a_long_prompt_is_cut_in_its_prose_and_keeps_its_tags() -> None:
    raw = "waterfall, blue_sky, tree, a calm lake (seen from above) lies here. the wood is green, and the wat"
    result = parse_answer("LONG_PROMPT", raw, SIZE, truncated=True, cleaning=CleaningOptions(True, "", "()"))
    assert isinstance(result, Mixed)
    assert result.text == "waterfall, blue_sky, tree, a calm lake lies here. the wood is green."
    assert result.prose == "a calm lake lies here. the wood is green."
    assert result.tags == ("waterfall", "blue_sky", "tree")
    assert (result.raw, result.truncated) == (raw, True)
    chopped = "1girl, solo, blue_sky, a woman stands in a garden with fl"
    kept = parse_answer("LONG_PROMPT", chopped, SIZE, truncated=True, cleaning=COMPLETE)
    assert kept.text == "1girl, solo, blue_sky, a woman stands in a garden with"
    assert parse_answer("LONG_PROMPT", chopped, SIZE, cleaning=COMPLETE).text == chopped
    only_tags = parse_answer(
        "LONG_PROMPT", "waterfall, blue_sky, tr", SIZE, truncated=True, cleaning=COMPLETE
    )
    assert only_tags.text == "waterfall, blue_sky"
    prose = parse_answer("LONG_PROMPT", raw, SIZE, truncated=True, cleaning=NO_UNDERSCORES)
    assert prose.text.startswith("waterfall, tree, a calm lake")


def test_mixed_captions_lose_a_chopped_tag_and_keep_a_whole_one() -> None:
    raw = "A cat sits. It is red.\n\ncat, red, ha"
    chopped = parse_answer("MIXED_CAPTION", raw, SIZE, truncated=True, cleaning=COMPLETE)
    assert chopped.text == "A cat sits. It is red.\n\ncat, red"
    whole = parse_answer("MIXED_CAPTION", raw, SIZE, cleaning=COMPLETE)
    assert whole.text == raw


def test_an_analysis_is_left_alone() -> None:
    raw = "A cat (red) sits.\n\ncat, red; ha\n\ncamera_angle: from (above), art_style: pho"
    cleaning = CleaningOptions(True, ";", "()")
    result = parse_answer("MIXED_CAPTION_PLUS", raw, SIZE, truncated=True, cleaning=cleaning)
    assert result.text == "A cat sits.\n\ncat, red ha\n\ncamera_angle: from (above), art_style: pho"
    analysis = "camera_angle: from (above)"
    assert parse_answer("ANALYZE", analysis, SIZE, cleaning=cleaning).text == analysis


def test_clean_up_comes_before_what_is_asked_for_tags() -> None:
    tags = TagOptions(prefix="(me)", suffix="#1", underscores="spaces")
    cleaning = CleaningOptions(remove_characters="#", remove_brackets="()", drop_underscored=True)
    result = parse_answer(
        "GENERATE_TAGS", "#cat, blue_sky, red hat (big)", SIZE, tag_options=tags, cleaning=cleaning
    )
    assert isinstance(result, Tags)
    assert result.tags == ("(me)", "cat", "red hat", "#1")
    assert result.text == "(me), cat, red hat, #1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"remove_brackets": "()["}, "pairs of different characters"),
        ({"remove_brackets": "||"}, "pairs of different characters"),
        ({"max_word_length": 0}, "max_word_length is 0; it takes a whole number of at least 1"),
        ({"complete_sentences": "yes"}, "complete_sentences is 'yes'; it takes True or False"),
        ({"remove_characters": None}, "remove_characters is None; it takes a text"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        CleaningOptions(**options)  # type: ignore[arg-type]


def test_white_space_in_lists_is_nothing() -> None:
    assert CleaningOptions(remove_characters="# / #", remove_brackets="() []") == CleaningOptions(
        remove_characters="#/", remove_brackets="()[]"
    )


def test_words_are_counted_as_people_write_them() -> None:
    assert count_words("") == 0
    assert count_words("blue_sky, red hat,tree - 1,000 ^_^") == 5
    assert count_words("一只猫, a cat") == 5
    assert count_words("state-of-the-art") == 1


def test_words_are_found_whole() -> None:
    assert holds_words("cat, no_parallel_lines", "no_parallel")
    assert holds_words("No Parallel", "no_parallel")
    assert not holds_words("a party", "art")
    assert holds_words("一只猫坐着", "猫")
    assert holds_words("what :)?", ":)")
