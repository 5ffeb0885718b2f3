"""Splitting and editing tags, and the same options on prose."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st
from promptgen.captioning import TagOptions, edit_prose, edit_tags, join_tags, split_tags
from promptgen.captioning.tags import is_emoticon, is_kaomoji, parse_replacements

ANY_TEXT = st.one_of(
    st.text(),
    st.text(alphabet="ab ,()\\_:;^o0\n"),
    st.lists(
        st.sampled_from(
            [
                "1girl",
                "blue_sky",
                "saber \\(fate\\)",
                "(red hat, coat:1.2)",
                ":(",
                ":)",
                "^_^",
                ">_<",
                "o_o",
                "(",
                ")",
            ]
        )
    ).map(", ".join),
)


def words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("1girl, solo,looking at viewer ,  cactus", ["1girl", "solo", "looking at viewer", "cactus"]),
        ("", []),
        (" , ,\n", []),
        ("a\nb\r\nc\u2028d", ["a", "b", "c", "d"]),
        (r"saber \(fate, alter\), solo", [r"saber \(fate, alter\)", "solo"]),
        ("(red hat, blue coat:1.2), solo", ["(red hat, blue coat:1.2)", "solo"]),
        ("((a, b), c), d", ["((a, b), c)", "d"]),
        ("a (b, c", ["a (b", "c"]),
        ("a), b", ["a)", "b"]),
        (":(, smile, :), hat", [":(", "smile", ":)", "hat"]),
        (r":\(, smile, :\)", [r":\(", "smile", r":\)"]),
        (":,(", [":", "("]),
    ],
)
def test_split(text: str, tags: list[str]) -> None:
    assert split_tags(text) == tags


@given(ANY_TEXT)
@settings(deadline=None)
def test_splitting_loses_no_word_and_comes_back(text: str) -> None:
    tags = split_tags(text)
    assert [word for tag in tags for word in words(tag)] == words(text)
    assert split_tags(join_tags(tags)) == tags
    assert edit_tags(text, TagOptions()) == tags


@pytest.mark.parametrize(
    "face",
    ["^_^", ">_<", "0_0", "o_o", "=_=", "@_@", "._.", "(o)_(o)", r"\(o\)_\(o\)", "+_+", "+_-", "<o>_<o>",
     "<|>_<|>", "3_3", "6_9", ">_o", "u_u", "x_x", "|_|", "||_||", "X_x", ";_;", "^_^;", "T_T"],
)  # fmt: skip
def test_faces_keep_their_underscore(face: str) -> None:
    assert is_kaomoji(face)
    assert edit_tags([face, "blue_sky"], TagOptions(underscores="spaces")) == [face, "blue sky"]


@pytest.mark.parametrize(
    "word", ["blue_sky", "_", "a_b", "a_", "_a", "a", "", "7_8", "no_humans", "a_a_a", "x_hair"]
)
def test_words_are_no_faces(word: str) -> None:
    assert not is_kaomoji(word)


@pytest.mark.parametrize(
    "face",
    [":)", ";-(", r":\(", "(:", ":d", ";D", ";p", ";o", ">:3", "=d", "xd", "x3", "8d", ":/", ":|", ">:<",
     ":\\", ";<", r"\m/", r"\o/", r"\||/", "/\\/\\/\\", "^^^", "^o^"],
)  # fmt: skip
def test_faces_without_an_underscore(face: str) -> None:
    assert is_emoticon(face)


@pytest.mark.parametrize(
    "word", ["", ";", "/", ";a", "8k", "xl", "x1", "c;", "a/b", ";dog", "cat;d", "=", "()"]
)
def test_what_is_no_face_without_an_underscore(word: str) -> None:
    assert not is_emoticon(word)


def test_underscores() -> None:
    tags = "blue_sky, looking at viewer, wearing ^_^ mask_on, ___"
    assert edit_tags(tags, TagOptions(underscores="spaces")) == [
        "blue sky", "looking at viewer", "wearing ^_^ mask on", "___",
    ]  # fmt: skip
    assert edit_tags(tags, TagOptions(underscores="underscores")) == [
        "blue_sky", "looking_at_viewer", "wearing_^_^_mask_on", "___",
    ]  # fmt: skip


def test_parentheses() -> None:
    tags = [r"saber \(fate\)", "cat (animal)", ":("]
    assert edit_tags(tags, TagOptions(escape_parentheses=True)) == [
        r"saber \(fate\)",
        r"cat \(animal\)",
        r":\(",
    ]
    assert edit_tags(tags, TagOptions(escape_parentheses=False)) == ["saber (fate)", "cat (animal)", ":("]
    assert edit_tags(tags, TagOptions()) == tags


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("blue sky", ["1girl", "long hair", "hair", r"saber \(fate\)", "*_*"]),
        ("BLUE_SKY, Hair", ["1girl", "long hair", r"saber \(fate\)", "*_*"]),
        (["hair", "blue sky"], ["1girl", "long hair", r"saber \(fate\)", "*_*"]),
        ("*hair", ["1girl", "blue_sky", r"saber \(fate\)", "*_*"]),
        ("* *", ["1girl", "hair"]),
        ("saber (fate)", ["1girl", "blue_sky", "long hair", "hair", "*_*"]),
        ("*_*", ["1girl", "blue_sky", "long hair", "hair", r"saber \(fate\)"]),
        ("1, long, blue, saber", ["1girl", "blue_sky", "long hair", "hair", r"saber \(fate\)", "*_*"]),
        ("air, girl, .*", ["1girl", "blue_sky", "long hair", "hair", r"saber \(fate\)", "*_*"]),
        ("*", []),
    ],
)
def test_exclude_whole_tags(exclude: str | list[str], left: list[str]) -> None:
    tags = ["1girl", "blue_sky", "long hair", "hair", r"saber \(fate\)", "*_*"]
    assert edit_tags(tags, TagOptions(exclude=exclude)) == left


@pytest.mark.parametrize(
    ("rules", "tags"),
    [
        ("1girl:woman", ["woman", "long_hair", "red t-shirt", "cat's ear", "scatter"]),
        ("1GIRL:woman;", ["woman", "long_hair", "red t-shirt", "cat's ear", "scatter"]),
        ("long hair:bob cut", ["1girl", "bob cut", "red t-shirt", "cat's ear", "scatter"]),
        ("long:very long", ["1girl", "very_long_hair", "red t-shirt", "cat's ear", "scatter"]),
        ("long:", ["1girl", "hair", "red t-shirt", "cat's ear", "scatter"]),
        ("hair:;red:", ["1girl", "long", "t-shirt", "cat's ear", "scatter"]),
        ("scatter:", ["1girl", "long_hair", "red t-shirt", "cat's ear"]),
        ("cat:dog;shirt:top;girl:boy;t:x", ["1girl", "long_hair", "red t-shirt", "cat's ear", "scatter"]),
        ("1girl:woman, adult", ["woman", "adult", "long_hair", "red t-shirt", "cat's ear", "scatter"]),
        ("red t-shirt:ratio 1:2", ["1girl", "long_hair", "ratio 1:2", "cat's ear", "scatter"]),
        (["1girl:a", "scatter:b"], ["a", "long_hair", "red t-shirt", "cat's ear", "b"]),
        ([("1girl", "a;b"), ("scatter", "b")], ["a;b", "long_hair", "red t-shirt", "cat's ear", "b"]),
        ({"1girl": ""}, ["long_hair", "red t-shirt", "cat's ear", "scatter"]),
    ],
)
def test_replace_whole_tags_and_whole_words(rules: str | list[str], tags: list[str]) -> None:
    before = "1girl, long_hair, red t-shirt, cat's ear, scatter"
    assert edit_tags(before, TagOptions(replace=rules)) == tags


def test_rules_are_read_with_escapes_and_stray_separators() -> None:
    assert parse_replacements(r"a:b;;c:d:e; \:d:smile ;x\;y:\\;") == (
        ("a", "b"),
        ("c", "d:e"),
        (":d", "smile"),
        ("x;y", "\\"),
    )
    assert edit_tags(":d, :dd", TagOptions(replace=r"\:d:smile")) == ["smile", ":dd"]


@pytest.mark.parametrize(
    ("rules", "message"), [("foo", "'foo' has no colon"), (":new", "nothing to look for")]
)
def test_rules_that_say_nothing_are_errors(rules: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TagOptions(replace=rules)


def test_a_choice_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="underscores is 'dashes'; allowed are keep, spaces and underscores"):
        TagOptions(underscores="dashes")  # type: ignore[arg-type]


def test_duplicates_keep_the_first_and_the_order() -> None:
    tags = "solo, Blue_Sky, 1girl, blue sky, solo, saber (fate), saber \\(fate\\)"
    assert edit_tags(tags, TagOptions(deduplicate=True)) == ["solo", "Blue_Sky", "1girl", "saber (fate)"]
    assert len(edit_tags(tags, TagOptions())) == 7


def test_prefix_and_suffix_are_tags_too() -> None:
    options = TagOptions(
        prefix="my_char, solo, ", suffix=", high quality", underscores="spaces", deduplicate=True
    )
    assert edit_tags("1girl, solo", options) == ["my_char", "solo", "1girl", "high quality"]
    assert edit_tags("", TagOptions(prefix="x")) == ["x"]


@pytest.mark.parametrize(
    ("prefix", "suffix", "text"),
    [
        ("my_char", "", "my_char, A cat sits."),
        ("my_char,", "", "my_char, A cat sits."),
        ("Photo:", "", "Photo: A cat sits."),
        ("A photo of ", "", "A photo of A cat sits."),
        ("", "high quality", "A cat sits. high quality"),
        ("", ", high quality", "A cat sits., high quality"),
        ("", " (photo)", "A cat sits. (photo)"),
        ("  ", "\n", "A cat sits."),
    ],
)
def test_prefix_and_suffix_of_prose(prefix: str, suffix: str, text: str) -> None:
    assert edit_prose("A cat sits.\n", TagOptions(prefix=prefix, suffix=suffix)) == text


def test_affixes_of_prose_without_a_full_stop_and_of_nothing() -> None:
    assert edit_prose("a cat", TagOptions(suffix="hq")) == "a cat, hq"
    assert edit_prose(" ", TagOptions(prefix="x", suffix="y")) == "x, y"


def test_replacing_in_prose_takes_whole_words_and_excluding_does_nothing() -> None:
    options = TagOptions(replace="cat:dog;sits:;is very:was", exclude="cat, dog", underscores="underscores")
    prose = "The cat, a Cat sits on a cat-like scatter; it is  very old."
    assert edit_prose(prose, options) == "The dog, a dog on a cat-like scatter; it was old."


@given(ANY_TEXT)
@settings(deadline=None)
def test_prose_passes_through_the_defaults_unchanged(text: str) -> None:
    assert edit_prose(text, TagOptions()) == text.strip()


OPTIONS = st.builds(
    TagOptions,
    exclude=st.one_of(st.text(alphabet="abo_* ,()^\\"), st.just("")),
    underscores=st.sampled_from(["keep", "spaces", "underscores"]),
    escape_parentheses=st.sampled_from([None, True, False]),
    deduplicate=st.booleans(),
)


@given(ANY_TEXT, OPTIONS)
@example("^ ^, b", TagOptions(exclude="^_^", underscores="underscores"))
@example(r"\\(, \(", TagOptions(escape_parentheses=False, deduplicate=True))
@settings(deadline=None)
def test_editing_twice_is_editing_once(text: str, options: TagOptions) -> None:
    once = edit_tags(text, options)
    assert edit_tags(once, options) == once
    assert all(tag and tag == " ".join(tag.split()) for tag in once)


@given(ANY_TEXT, OPTIONS)
@settings(deadline=None)
def test_editing_without_excluding_loses_no_letter(text: str, options: TagOptions) -> None:
    assume(not options.exclude and not options.deduplicate)

    def letters(joined: str) -> str:
        return re.sub(r"[\s,_\\]", "", joined)

    assert letters(join_tags(edit_tags(text, options))) == letters(text)


@given(ANY_TEXT, st.text(alphabet="ab:;\\ _()"), st.text(alphabet="ab ,("), st.text(alphabet="ab ,("))
@settings(deadline=None)
def test_no_rules_and_no_text_crash(text: str, rules: str, prefix: str, suffix: str) -> None:
    try:
        options = TagOptions(replace=rules, prefix=prefix, suffix=suffix)
    except ValueError as error:
        event(str(error)[:20])
        return
    assert all(edit_tags(text, options))
    edit_prose(text, options)


@given(st.text(alphabet="ab*", min_size=1), st.text(alphabet="ab", min_size=1))
@settings(deadline=None)
def test_stars_stand_for_any_characters(pattern: str, tag: str) -> None:
    excluded = edit_tags([tag], TagOptions(exclude=[pattern])) == []
    assert excluded == fnmatch.fnmatchcase(tag, pattern)


def test_patterns_of_many_stars_and_texts_of_many_backslashes_take_no_time() -> None:
    began = time.monotonic()
    assert edit_tags("i" * 500, TagOptions(exclude="*i" * 100 + "*x")) == ["i" * 500]
    assert edit_tags("a", TagOptions(prefix="\\" * 20_000, exclude="\\" * 20_000)) == ["\\" * 20_000, "a"]
    assert time.monotonic() - began < 5


def test_replacements_that_feed_each_other_are_stopped() -> None:
    chain = ";".join(f"w{number}:" + f"w{number + 1} " * 10 for number in range(20))
    options = TagOptions(replace=chain)
    for edit in (edit_tags, edit_prose):
        with pytest.raises(ValueError, match="more than 100000 characters"):
            edit("a w0, b", options)
        assert edit("a w19" if edit is edit_prose else ["a w19"], options)
    long = "word " * 30_000  # which is no fault of the rules
    assert edit_prose(long, TagOptions(replace="word:world")).startswith("world world")


@given(
    st.lists(st.sampled_from(["cat", "cats", "scat", "cat-like", "t-cat", "cat's", "black cat", "black_cat"]))
)
@settings(deadline=None)
def test_a_word_is_never_replaced_inside_another(tags: list[str]) -> None:
    changed = {"cat": "dog", "black cat": "black dog", "black_cat": "black_dog"}
    assert edit_tags(tags, TagOptions(replace="cat:dog")) == [changed.get(tag, tag) for tag in tags]


def test_options_compare_by_what_they_do() -> None:
    assert TagOptions(exclude="a,b", replace="c:d") == TagOptions(exclude=["a", "b"], replace=[("c", "d")])
    assert hash(TagOptions(replace="c:d")) == hash(TagOptions(replace={"c": "d"}))
