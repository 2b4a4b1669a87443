"""Scores of answers: normalisation, exact match, F1, containment, intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora import metrics


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  Cat, sat!", ["cat", "sat"]),
        ("212,400", ["212400"]),
        ("212400 people.", ["212400", "people"]),
        ("1,234,567.89", ["1234567.89"]),
        ("5.40 crowns.", ["5.40", "crowns"]),
        ("$5.40", ["5.40"]),
        ("at 14:30.", ["at", "14:30"]),
        ("0290-08-29", ["0290", "08", "29"]),
        ("1990–1995", ["1990", "1995"]),
        ("3,5", ["3,5"]),
        ("It is -18 °C", ["it", "is", "-18", "c"]),
        ("−18", ["-18"]),
        ("well-known, 20-30", ["wellknown", "20", "30"]),
        ("10² and 2½", ["10", "2", "and", "2", "1", "2"]),
        ("1’850 crowns", ["1850", "crowns"]),
        ("東京です", ["東", "京", "で", "す"]),
        ("“Odile’s” boat", ["odiles", "boat"]),
        ("Halcyon – Brade", ["halcyon", "brade"]),
        ("and/or", ["and", "or"]),
        ("the", ["the"]),
        ("A", ["a"]),
        ("!?", []),
        ("", []),
    ],
)
def test_normalise(text, words):
    assert metrics.normalise(text) == words


def test_numbers_are_not_confused():
    assert metrics.contains("It costs 540 crowns", ["5.40"]) == 0
    assert metrics.contains("It costs 5.40 crowns.", ["5.40"]) == 1
    assert metrics.contains("There were 212,400 of them.", ["212400"]) == 1
    assert metrics.contains("There were 1,212,400 of them.", ["212,400"]) == 0
    assert metrics.contains("17 boats", ["7"]) == 0
    assert metrics.contains("7.5 boats", ["7"]) == 0
    assert metrics.contains("It is -18 °C.", ["18 °C"]) == 0
    assert metrics.contains("首都は東京です。", ["東京"]) == 1


def test_contains_wants_whole_words_in_a_row():
    assert metrics.contains("Captain Jorun Vass sailed.", ["jorun vass"]) == 1
    assert metrics.contains("Jorun and Vass", ["Jorun Vass"]) == 0
    assert metrics.contains("Jorunn Vass", ["Jorun Vass"]) == 0
    assert metrics.contains("anything", ["!?"]) == 0


def test_any_takes_the_best_and_all_wants_every_one():
    answer = "Jorun Vass"
    assert metrics.contains(answer, ["Abel Stroud", "Jorun Vass"]) == 1
    assert metrics.contains(answer, ["Abel Stroud", "Jorun Vass"], "all") == 0
    assert metrics.contains("Abel Stroud, then Jorun Vass", ["Jorun Vass", "Abel Stroud"], "all") == 1
    assert metrics.exact_match(answer, ["Abel Stroud", "Jorun Vass"]) == 1
    assert metrics.exact_match("Jorun Vass and Abel Stroud", ["Abel Stroud", "Jorun Vass"], "all") == 1
    assert metrics.exact_match("Jorun Vass", ["Abel Stroud", "Jorun Vass"], "all") == 0


def test_f1():
    assert metrics.f1("the grey cat", ["grey cat"]) == 1
    assert metrics.f1("one two three", ["one"]) == pytest.approx(0.5)
    assert metrics.f1("nothing shared", ["else"]) == 0
    assert metrics.f1("one", ["two", "one"]) == 1
    assert metrics.f1("one", ["two", "one"], "all") == pytest.approx(2 / 3)
    assert metrics.f1("", ["one"]) == 0


@given(st.text(min_size=1))
def test_an_answer_equals_itself(text):
    if metrics.normalise(text):
        assert metrics.exact_match(text, [text]) == metrics.contains(text, [text]) == 1
        assert metrics.f1(text, [text]) == pytest.approx(1)


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=3), st.sampled_from(["any", "all"]))
def test_scores_lie_between_0_and_1_and_exact_means_full_f1(answer, golden, rule):
    exact = metrics.exact_match(answer, golden, rule)
    assert exact in (0, 1)
    assert 0 <= metrics.f1(answer, golden, rule) <= 1 + 1e-9
    if exact and rule == "any":
        assert metrics.f1(answer, golden, rule) == pytest.approx(1)


def test_interval():
    low, high = metrics.bootstrap_interval([1.0] * 60 + [0.0] * 40)
    assert 0.49 < low < 0.53
    assert 0.67 < high < 0.71
    assert metrics.bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    assert metrics.bootstrap_interval([]) == (0.0, 0.0)
    assert metrics.bootstrap_interval([1.0, 0.0] * 9) == metrics.bootstrap_interval([1.0, 0.0] * 9)
