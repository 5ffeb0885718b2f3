"""Reading ANALYZE's fields and subjects."""

from __future__ import annotations

import pickle
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import Analysis, parse_analysis
from promptgen.captioning.analysis import ANALYSIS_FIELDS

REAL = (
    "camera_angle: portrait, art_style: photo realistic, location: indoor, background: solid green, text: NA,"
    " distance_to_camera: upper body, clothing: orange coat with leaf patterns, hat, image_composition:"
    " middle,"
    " pants: NA"
)


def test_a_real_answer() -> None:
    analysis = parse_analysis(REAL)
    assert analysis == Analysis(
        (
            {
                "camera_angle": "portrait",
                "art_style": "photo realistic",
                "location": "indoor",
                "background": "solid green",
                "text": "NA",
                "distance_to_camera": "upper body",
                "clothing": "orange coat with leaf patterns, hat",
                "image_composition": "middle",
                "pants": "NA",
            },
        )
    )
    assert list(analysis.subjects[0])[:2] == ["camera_angle", "art_style"]
    assert analysis.to_text() == REAL


@pytest.mark.parametrize("field", ANALYSIS_FIELDS)
def test_every_known_field_in_any_spelling(field: str) -> None:
    for spelling in (field, field.upper(), field.replace("_", " ").title()):
        assert parse_analysis(f"location: here, {spelling} : a value").subjects[-1][field] == "a value"


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        ("gender: female, age: 20; gender: male", [{"gender": "female", "age": "20"}, {"gender": "male"}]),
        ("gender: female, gender: male", [{"gender": "female"}, {"gender": "male"}]),
        (
            "location: indoor; gender: female, age: 5",
            [{"location": "indoor"}, {"gender": "female", "age": "5"}],
        ),
        ("gender: female; age: 20; race: NA", [{"gender": "female", "age": "20", "race": "NA"}]),
        (
            "camera_angle: front; gender: female; age: 5; gender: male; age: 6",
            [{"camera_angle": "front", "gender": "female", "age": "5"}, {"gender": "male", "age": "6"}],
        ),
        ("gender: female; gender: male; gender: NA", [{"gender": name} for name in ("female", "male", "NA")]),
        ("gender: female; male, age: 20; 30", [{"gender": "female; male", "age": "20; 30"}]),
        ("gender: female;", [{"gender": "female"}]),
        ("text: SALE: 50%, now: today, action: NA", [{"text": "SALE: 50%, now: today", "action": "NA"}]),
        ("text: a, eye_color: blue", [{"text": "a", "eye_color": "blue"}]),
        ("clothing: coat: red, mood: calm", [{"clothing": "coat: red", "mood": "calm"}]),
        ("text: ONE\nTWO, action:", [{"text": "ONE\nTWO", "action": ""}]),
        ("camera_angle: portrait\nart_style: anime", [{"camera_angle": "portrait", "art_style": "anime"}]),
        ("action: at 12:30, body: slim", [{"action": "at 12:30", "body": "slim"}]),
    ],
)
def test_commas_colons_and_semicolons(text: str, subjects: list[dict[str, str]]) -> None:
    assert list(parse_analysis(text).subjects) == subjects


def test_what_is_no_field_is_kept() -> None:
    assert parse_analysis("A cat. ") == Analysis(unparsed="A cat.")
    assert parse_analysis("Well, gender: male") == Analysis(({"gender": "male"},), "Well")
    assert parse_analysis("") == Analysis()


def test_subjects_one_by_one() -> None:
    apart = parse_analysis("gender: female, age: 20; gender: male")
    assert apart.subject_count == 2
    assert apart.subject(1) == {"gender": "male"}
    assert apart.subject(2) == {}
    within = parse_analysis("location: park, gender: female; male, text: a; b; c")
    assert within.subject_count == 2
    assert within.subject(0) == {"location": "park", "gender": "female", "text": "a; b; c"}
    assert within.subject(1) == {"location": "park", "gender": "male", "text": "a; b; c"}
    assert within.subject(2) == {}
    assert parse_analysis("gender: NA; male, text: a; b").subject(1) == {"gender": "male", "text": "b"}
    assert parse_analysis("age: 5, text: SALE; 50% off").subject(0) == {"age": "5", "text": "SALE; 50% off"}
    assert Analysis().subject_count == 0
    with pytest.raises(ValueError, match="counts from 0"):
        apart.subject(-1)


def test_sentence() -> None:
    analysis = parse_analysis(REAL)
    assert analysis.sentence() == (
        "portrait, photo realistic, indoor, solid green, upper body, orange coat with leaf patterns, hat,"
        " middle"
    )
    assert analysis.sentence(["Clothing", "art style", "pants", "nothing"]) == (
        "orange coat with leaf patterns, hat, photo realistic"
    )
    two = parse_analysis("gender: female; gender: male")
    assert two.sentence() == "female, male"
    assert two.sentence(subject=1) == "male"
    assert two.sentence(subject=7) == ""


def test_as_json_and_across_processes() -> None:
    analysis = parse_analysis("Well, gender: male")
    assert analysis.to_dict() == {"subjects": [{"gender": "male"}], "unparsed": "Well"}
    assert parse_analysis("age: 5").to_dict() == {"subjects": [{"age": "5"}]}
    assert pickle.loads(pickle.dumps(analysis)) == analysis


def words(text: str) -> Counter[str]:
    return Counter(word for word in re.split(r"[\s,;:_]+", text.lower()) if word)


FRAGMENTS = st.lists(
    st.sampled_from(
        ["gender: female", "age: 20", "text: SALE: 50%", "eye_color: blue", "clothing: hat, coat", "NA",
         ":", ";", ", ", "\n", " ", "Camera Angle", ": ", "text", "狐: 狸", "İ: ı", "; gender: male"]
    )
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), st.text(alphabet="ab_:;, \ntexage"), FRAGMENTS))
@settings(deadline=None, max_examples=400)
def test_any_text_is_read_and_no_word_lost(text: str) -> None:
    analysis = parse_analysis(text)
    assert words(analysis.to_text()) == words(text)
    assert parse_analysis(analysis.to_text()).to_dict() is not None
    for index in range(analysis.subject_count + 1):
        assert isinstance(analysis.sentence(subject=index), str)
