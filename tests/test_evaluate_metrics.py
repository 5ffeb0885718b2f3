"""What answers are worth: metrics against published values, and against sums done by hand."""

from __future__ import annotations

import json
import math
import random
import re
import time
from pathlib import Path

import pytest
from promptgen.captioning import Region, find_instruction, parse_answer
from promptgen.training.errors import DataError
from promptgen.training.evaluation import texts
from promptgen.training.evaluation.alignment import common_places
from promptgen.training.evaluation.boxes import BoxScores, average_precision
from promptgen.training.evaluation.charts import line_chart
from promptgen.training.evaluation.cider import cider_d
from promptgen.training.evaluation.curves import Curve, read_curves, smoothed
from promptgen.training.evaluation.differences import differing
from promptgen.training.evaluation.losses import TokenLoss, mean_loss
from promptgen.training.evaluation.metrics import METRICS, Case, Scores, measure
from promptgen.training.evaluation.overlap import by_thing, mean_f1, pooled
from promptgen.training.evaluation.tables import compared
from promptgen.training.evaluation.words import words_of

SIZE = (1000, 1000)  # a location token's bin is then as wide as a pixel

ANSWERS = [
    "a woman holding a cat in her arms",
    "a green leaf with water droplets on it",
    "a small pond in the middle of a grassy field",
    "a woman and a young girl laying on top of each other",
    "a man and a woman standing next to a car",
]
REFERENCES = [
    ["a woman holding a fluffy grey cat in her arms", "a woman with a cat"],
    ["a green leaf covered in water droplets"],
    ["a body of water reflecting the sky and the trees", "a pond in a field"],
    ["two women are lying next to each other"],
    ["a man and a woman leaning against a dark car"],
]


def scores(instruction: str, *pairs: tuple[str, str]) -> Scores:
    """Of answers, each with the true one before it."""
    return measure([case(instruction, true, answer) for true, answer in pairs])


def case(instruction: str, true: str, answer: str) -> Case:
    truth, said = (parse_answer(instruction, text, SIZE) for text in (true, answer))
    return Case("a.png", find_instruction(instruction), (truth,), said)


# Prose --------------------------------------------------------------------------------------


def test_words_are_those_that_count() -> None:
    assert words_of("A man's black-and-white cat doesn't sit. \"OK\"!") == [
        "a", "man", "'s", "black-and-white", "cat", "does", "n't", "sit", "ok",
    ]  # fmt: skip
    assert words_of("Größe №1, 猫がいる") == ["größe", "1", "猫", "が", "い", "る"]
    assert words_of("… — !") == []
    # accents and vowel signs belong to their letters, however they are coded
    assert words_of("cafe\u0301 हिन्दी में।") == ["café", "हिन्दी", "में"]
    assert words_of("แมวนั่ง") == ["แ", "ม", "ว", "นั่", "ง"]


def test_cider_d_is_that_of_pycocoevalcap() -> None:
    # CiderScorer of pycocoevalcap 1.2 on the same words
    published = [3.72269268, 3.14398065, 1.08681662, 0.71469328, 3.86174737]
    found = cider_d(list(map(words_of, ANSWERS)), [list(map(words_of, texts)) for texts in REFERENCES])
    assert found == pytest.approx(published, abs=1e-8)


def test_cider_d_is_ten_for_the_reference_and_nothing_for_other_words() -> None:
    references = [[f"{word} one two three".split()] for word in ("red", "blue", "green")]
    same = cider_d([texts[0] for texts in references], references)
    # "one two three" is said of every picture, so it weighs nothing: only what is rare counts, in n-grams of
    # all four lengths
    assert same == pytest.approx([10.0] * 3)
    assert cider_d([["one", "two", "three"]] * 3, references) == [0.0] * 3
    assert cider_d([[]] * 3, references) == [0.0] * 3


def test_cider_d_needs_pictures_to_be_rare_among() -> None:
    with pytest.raises(ValueError, match="too few"):
        cider_d([["a"]], [[["a"]]])
    with pytest.raises(ValueError, match="2 answers"):
        cider_d([["a"]] * 2, [[["a"]]])
    assert scores("CAPTION", ("a cat", "a cat"))["CIDEr-D"] is None


def test_bleu_is_that_of_sacrebleu() -> None:
    # the example of sacreBLEU's README
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    assert texts.bleu(answers, references) == pytest.approx(48.530827, abs=1e-6)
    assert texts.bleu(["a b c d"] * 2, [["a b c d"], ["x y z w", "a b c d"]]) == pytest.approx(100)


def test_bleu_knows_words_of_scripts_without_spaces() -> None:
    answer, reference = "一只灰猫坐在红垫子上", "一只灰猫坐在蓝垫子上"
    # 10 characters, of which 9, 7, 5 and 3 n-grams of 10, 9, 8 and 7 are there
    assert texts.bleu([answer], [[reference]]) == pytest.approx(
        100 * (9 * 7 * 5 * 3 / (10 * 9 * 8 * 7)) ** 0.25
    )
    assert texts.bleu(["", ""], [["a cat"], ["a dog"]]) == 0


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    answer, reference = "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"
    # the quick brown jumps the: 5 of 8 words, 5 of 9
    assert texts.rouge_l([answer], [[reference]]) == pytest.approx(2 * 5 / (8 + 9))
    assert texts.rouge_l([answer], [["nothing", reference]]) == pytest.approx(10 / 17)
    assert texts.rouge_l(["köter"], [["Köter"]]) == 1  # which rouge_score's own words do not hold
    assert texts.rouge_l([""], [[reference]]) == 0


def test_meteor_is_that_of_nltk() -> None:
    # the examples in NLTK's documentation
    answer = "It is a guide to action which ensures that the military always obeys the commands of the party"
    reference = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert texts.meteor([answer], [[reference]]) == pytest.approx(0.6944, abs=5e-5)
    assert texts.meteor(["non matching hypothesis"], [["this is a cat"]]) == 0
    # three words by stem and form in one piece: precision = recall = 1, penalty 0.5 * (1 / 3) ** 3
    assert texts.meteor(["dogs are running"], [["dog are runs"]]) == pytest.approx(1 - 0.5 / 27)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "ab", 2), ("a", "", 1), ("äß", "äs", 1)],
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert texts.edit_distance(one, other) == texts.edit_distance(other, one) == distance


def test_edit_distance_is_that_of_the_plain_recursion() -> None:
    generator = random.Random(0)

    def plain(one: str, other: str) -> int:
        row = list(range(len(other) + 1))
        for number, a in enumerate(one, start=1):
            before, row[0] = row[0], number
            for place, b in enumerate(other, start=1):
                before, row[place] = row[place], min(before + (a != b), row[place] + 1, row[place - 1] + 1)
        return row[-1]

    for _ in range(50):
        one, other = ("".join(generator.choices("ab c", k=generator.randrange(12))) for _ in "xy")
        assert texts.edit_distance(one, other) == plain(one, other)


def test_ocr_counts_characters() -> None:
    found = scores("OCR", ("STOP  HERE", "STOP\nHERE"), ("ten chars.", "ten char"))
    assert found["CER"] == pytest.approx(100 * 2 / 19)
    assert found["exact"] == 0
    assert list(found) == ["CER", "exact", "length", "cut off"]


def test_short_answers_are_right_but_for_slips() -> None:
    # ANLS as in "Scene Text Visual Question Answering" (Biten and others, 2019): 1 - 1/8, and 0 from half on
    assert texts.anls(["Coca-Cola "], [["coca-colo"]]) == pytest.approx(1 - 1 / 9)
    assert texts.anls(["no"], [["yes", "nope"]]) == 0
    assert texts.anls(["12", "12"], [["13", "12"], ["99"]]) == 0.5
    assert scores("DOCVQA", ("1,200", "1.200"))["ANLS"] == pytest.approx(80)


# Tags and fields ----------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    sets = [
        (frozenset("abc"), frozenset("abx")),
        (frozenset("d"), frozenset("d")),
        (frozenset(), frozenset()),
    ]
    together = pooled(sets)
    assert (together.precision, together.recall, together.f1) == (3 / 4, 3 / 4, 3 / 4)
    assert mean_f1(sets) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert pooled([(frozenset("a"), frozenset())]).precision == 0
    things = by_thing([(frozenset("ab"), frozenset("a")), (frozenset("b"), frozenset("bc"))])
    assert list(things) == ["b", "a", "c"]
    assert (things["b"].precision, things["b"].recall) == (1, 1 / 2)
    assert (things["c"].precision, things["c"].recall) == (0, 0)


def test_tags_are_compared_as_tags() -> None:
    found = scores(
        "GENERATE_TAGS",
        ("1girl, long hair, saber (fate)", "Long_Hair, saber \\(fate\\), hat, hat"),
        ("tree", "tree, sky"),
    )
    # common: long hair, saber, tree; true: 4; answered: 3 + 2 different ones
    assert found["precision"] == pytest.approx(100 * 3 / 5)
    assert found["recall"] == pytest.approx(100 * 3 / 4)
    assert found["F1"] == pytest.approx(100 * 6 / 9)
    assert found["F1 per image"] == pytest.approx(100 * (4 / 6 + 2 / 3) / 2)
    assert found["length"] == 3  # as answered


def test_mixed_answers_are_prose_and_tags() -> None:
    text = "A tree stands in a field.\n\ntree, field, sky, outdoors"
    found = scores("MIXED_CAPTION", (text, text), (text, text.replace(", sky", "")))
    assert found["recall"] == pytest.approx(100 * 7 / 8)
    assert found["precision"] == 100
    assert found["exact"] == 50
    # the prose is the same, though the texts are not
    assert (found["BLEU"], found["ROUGE-L"]) == (pytest.approx(100), pytest.approx(100))
    assert "CIDEr-D" in found


def test_analyses_are_compared_by_field() -> None:
    true = "art_style: photo, text: NA, location: Indoor"
    found = scores("ANALYZE", (true, "art_style: photo, location: indoor"))
    assert (found["precision"], found["recall"]) == (100, pytest.approx(100 * 2 / 3))


# Boxes --------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    true = [Region("cat", (0, 0, 10, 10))]
    good = Region("cat", (0, 0, 10, 10), score=0.9)
    wrong = Region("cat", (50, 50, 60, 60), score=0.95)
    # the surer one is wrong: precision at the one recall there is is 1/2
    half = average_precision([(true, [wrong, good])], labelled=True)
    assert half == BoxScores(*map(pytest.approx, (0.5, 0.5, 0.5, 1.0)))
    # the less sure one is wrong, and takes nothing away
    assert average_precision(
        [(true, [good, Region("cat", wrong.box, score=0.1)])], labelled=True
    ).ap == pytest.approx(1)
    # intersection over union 0.62: right from 0.50, 0.55 and 0.60 of the ten
    rough = average_precision([(true, [Region("cat", (0, 0, 10, 6.2), score=0.5)])], labelled=True)
    assert (rough.ap, rough.ap50, rough.ap75) == pytest.approx((0.3, 1, 0))


def test_labels_matter_where_they_are_asked_for() -> None:
    pictures = [([Region("Cat", (0, 0, 10, 10))], [Region("dog", (0, 0, 10, 10))])]
    assert average_precision(pictures, labelled=True).ap == 0
    assert average_precision(pictures, labelled=False).ap == pytest.approx(1)
    same = [([Region("Cat", (0, 0, 10, 10))], [Region("cat", (0, 0, 10, 10))])]
    assert average_precision(same, labelled=True).ap == pytest.approx(1)


def test_no_boxes() -> None:
    true = [Region("cat", (0, 0, 10, 10))]
    assert average_precision([(true, [])], labelled=True) == BoxScores(0, 0, 0, 0)
    assert average_precision([([], true)], labelled=True) == BoxScores(None, None, None, None)


def test_of_several_true_lists_of_boxes_the_best_counts() -> None:
    box, other = "<loc_100><loc_100><loc_500><loc_500>", "<loc_600><loc_600><loc_900><loc_900>"
    first, second, said = (
        parse_answer("OD", text, SIZE) for text in (f"cat{other}", f"cat{box}", f"cat{box}")
    )
    found = measure([Case("a.png", find_instruction("OD"), (first, second), said)])
    assert found["AP"] == pytest.approx(100)


def test_objects_have_labels_and_descriptions_have_not() -> None:
    box = "<loc_100><loc_100><loc_500><loc_500>"
    assert scores("OD", (f"cat{box}", f"dog{box}"))["AP"] == 0
    assert scores("OD", (f"cat{box}", f"cat{box}"))["AP"] == pytest.approx(100)
    assert scores("DENSE_REGION_CAPTION", (f"a cat{box}", f"a grey cat{box}"))["AP"] == pytest.approx(100)
    assert scores("OD", ("", f"cat{box}"))["AP"] is None


# Losses and curves --------------------------------------------------------------------------


def test_every_token_weighs_alike() -> None:
    assert mean_loss([TokenLoss(10.0, 10), TokenLoss(6.0, 2)]) == pytest.approx(16 / 12)
    assert mean_loss([]) is None


def test_curves_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "loss": 3.0},
        {"step": 1, "evaluation_loss": 2.5, "by_instruction": {"CAPTION": 2.0, "OD": 3.0}},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": math.nan},
        {"step": 4, "loss": 1.0},
        {"step": 4, "evaluation_loss": 2.2, "by_instruction": {"CAPTION": 1.0, "OD": 2.0}},
        {"step": 2, "loss": 1.9},  # resumed after step 1, and not evaluated since
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo', encoding="utf-8")
    found = {curve.name: curve.points for curve in read_curves(path)}
    assert found == {
        "training": ((1, 3.0), (2, 1.9)),
        "held out": ((1, 2.5),),
        "held out, CAPTION": ((1, 2.0),),
        "held out, OD": ((1, 3.0),),
    }


def test_losses_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    losses = [3.0, math.nan, math.inf, 2.0]
    notes = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    notes.append({"step": 4, "evaluation_loss": math.nan})
    path.write_text("".join(json.dumps(note) + "\n" for note in notes), encoding="utf-8")
    (curve,) = read_curves(path)
    assert (curve.points, curve.lost) == (((1, 3.0), (4, 2.0)), (2, 3))
    chart = line_chart([curve], title="Loss")
    assert "no finite number at step 2 and 1 more" in chart
    assert "nan" not in chart.casefold()


def test_a_long_run_is_drawn_in_few_points_and_no_peak_is_lost() -> None:
    steps = 100_000
    points = [(step, 1 + step % 7 / 10) for step in range(1, steps + 1)]
    points[54_321] = (54_322, 40.0)
    chart = line_chart([Curve("training", tuple(points))], title="Loss")
    assert len(chart) < 50_000
    raw, averaged = (
        [tuple(map(float, place.split(","))) for place in found.split()]
        for found in re.findall(r'<polyline [^>]*points="([^"]*)"', chart)
    )
    assert raw[0][0] == averaged[0][0]
    assert raw[-1][0] == averaged[-1][0] == max(x for x, _ in raw)
    peak = min(raw, key=lambda place: place[1])  # y falls where losses rise
    x = 56 + 54_322 / steps * (raw[-1][0] - 56)
    assert peak[0] == pytest.approx(x, abs=1)
    assert sum(1 for _, y in averaged if y < peak[1] + 100) == 0


def test_a_curve_of_one_point() -> None:
    chart = line_chart([Curve("held out", ((5, 0.0),))], title='"<Loss>"')
    assert chart.count("<circle") == 1
    assert "<title>held out, step 5: 0.0000</title>" in chart
    assert "&quot;&lt;Loss&gt;&quot;" in chart


def test_curves_differ_in_more_than_colour() -> None:
    curves = [Curve(f"curve {number}", ((1, 1.0), (2, 2.0))) for number in range(9)]
    looks = re.findall(r'<polyline class="([^"]*)"', line_chart(curves, title="Loss"))
    assert len(set(looks)) == 9
    assert len({look.split()[-1] for look in looks[:5]}) == 5  # in dashes


def test_curves_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("hello\n{}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        read_curves(path)
    with pytest.raises(DataError, match="No such file"):
        read_curves(tmp_path / "none")


def test_smoothing_has_no_bias_towards_its_start() -> None:
    assert [value for _, value in smoothed(((1, 4.0), (2, 4.0), (3, 4.0)))] == pytest.approx([4, 4, 4])
    (_, first), (_, second) = smoothed(((1, 0.0), (2, 1.0)), weight=0.5)
    assert (first, second) == (0, pytest.approx(2 / 3))


# Differences --------------------------------------------------------------------------------


def marked(instruction: str, text: str, *others: str) -> str:
    result, *rest = (parse_answer(instruction, one, SIZE) for one in (text, *others))
    pieces = differing(result, rest)
    assert "".join(piece for piece, _ in pieces) == result.text
    return "".join(f"[{piece}]" if differs else piece for piece, differs in pieces)


def test_words_that_the_other_text_has_not_in_that_order_are_marked() -> None:
    assert marked("CAPTION", "A small grey cat sits.", "A cat sits") == "A [small grey] cat sits."
    assert marked("CAPTION", "a dog and a CAT", "A cat") in ("a [dog and a] CAT", "[a dog and] a CAT")
    assert marked("CAPTION", "the same", "the same") == "the same"
    assert marked("CAPTION", "all new words", "") == "[all new words]"


def test_a_longest_common_subsequence_is_found() -> None:
    generator = random.Random(0)

    def length(one: str, other: str) -> int:
        row = [0] * (len(other) + 1)
        for a in one:
            before = row
            row = [0]
            for place, b in enumerate(other):
                row.append(before[place] + 1 if a == b else max(before[place + 1], row[-1]))
        return row[-1]

    for _ in range(300):
        one, other = ("".join(generator.choices("abcd", k=generator.randrange(14))) for _ in "xy")
        places = common_places(one, other)
        assert places == sorted(set(places))
        rest = iter(other)
        assert all(one[place] in rest for place in places), (one, other)  # in that order
        assert len(places) == length(one, other)


def test_a_word_over_and_over_is_compared_at_once() -> None:
    began = time.process_time()
    found = marked("CAPTION", "the " * 1500, "the cat " * 1500)
    assert "[" not in found
    assert time.process_time() - began < 5  # difflib takes minutes


def test_in_scripts_without_spaces_characters_are_marked() -> None:
    assert marked("CAPTION", "一只灰猫。", "一只白猫。") == "一只[灰]猫。"
    assert marked("CAPTION", "हिन्दी में", "हिन्दी") == "हिन्दी [में]"


def test_what_one_of_several_has_is_not_marked() -> None:
    assert marked("CAPTION", "a red ball", "a ball", "red") == "a red ball"


def test_tags_may_stand_anywhere() -> None:
    assert marked("GENERATE_TAGS", "sky, Long_Hair, hat", "long hair, sky") == "sky, Long_Hair, [hat]"


def test_no_star_where_numbers_look_alike() -> None:
    models: dict[str, Scores] = {
        "one": {"loss": 1.00001, "BLEU": 0.01, "METEOR": 12.34, "length": 1.0},
        "two": {"loss": 1.00002, "BLEU": 0.04, "METEOR": 12.46, "length": 2.0},
        "three": {"loss": None, "BLEU": None, "METEOR": math.nan, "length": 3.0},
    }
    rows = compared("CAPTION", "", models).rows
    assert [row.best for row in rows] == [(False,) * 4, (False, False, True, False), (False,) * 4]
    assert [row.cells for row in rows][2] == ("–", "–", "nan", "3.0")


# The table ----------------------------------------------------------------------------------


def test_every_number_has_a_meaning() -> None:
    box = "<loc_100><loc_100><loc_500><loc_500>"
    for instruction, text in (
        ("CAPTION", "a cat"), ("GENERATE_TAGS", "cat"), ("MIXED_CAPTION", "A cat.\n\ncat, dog, sky"),
        ("ANALYZE", "art_style: photo"), ("OCR", "STOP"), ("OD", f"cat{box}"),
        ("OCR_WITH_REGION", f"STOP{box}{box}"), ("REGION_PROPOSAL", box), ("DOCVQA", "12"),
        ("REFERRING_EXPRESSION_SEGMENTATION", f"{box}<loc_1><loc_2>"),
        ("CAPTION_TO_PHRASE_GROUNDING", f"a cat{box}"), ("OPEN_VOCABULARY_DETECTION", f"cat{box}"),
    ):  # fmt: skip
        found = scores(instruction, (text, text), (text, text))
        assert set(found) <= set(METRICS)
        assert list(found) == [name for name in METRICS if name in found]
        assert found["exact"] == 100
        # but for n-grams of four words, and of what is rare
        best = {name for name in found if METRICS[name].higher_is_better} - {"BLEU", "CIDEr-D"}
        assert all((found[name] or 0) >= 50 for name in best), (instruction, found)
