import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.questions.candidates import locate, merge, supplement


def texts(text):
    return [candidate.text for candidate in supplement(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The hall reopened in March 2016 after Tomas Ferreira paid for a roof of Portuguese slate.",
            ["March 2016", "Tomas Ferreira", "Portuguese slate"],
        ),
        (
            "Ilse Brandt, who joined in 1994, runs the archive of 3,200 moulds in Building 7.",
            ["Ilse Brandt", "1994", "3,200", "Building 7"],
        ),
        (
            "Visitors pay 12 euros; entry on Mondays before 10:30 a.m. is free.",
            ["12 euros", "Mondays", "10:30 a.m.", "free"],
        ),
        (
            "The default is 45 seconds; see `request_timeout` in config.toml or --timeout.",
            ["45 seconds", "request_timeout", "config.toml", "--timeout"],
        ),
        (
            "It runs at 1,140 °C for eighteen hours and uses 3.5 t of sand.",
            ["1,140 °C", "eighteen hours", "3.5 t"],
        ),
        ('Its mascot is a blue heron and its motto is "Slow water".', ["blue heron", "Slow water"]),
        ("Dr. K. Osei has led the lab since May.", ["Dr. K. Osei", "May"]),
        ("About 412 in the hall saw it in 1987 in the rain.", ["412", "1987"]),
        (
            "The model SR830 was bought for $4,950 from Orrin Research Systems.",
            ["SR830", "$4,950", "Orrin Research Systems"],
        ),
    ],
)
def test_supplement_finds_names_numbers_and_code(text, expected):
    assert texts(text) == expected


def test_sentence_openers_and_participles_are_no_candidates():
    assert texts("Although it was founded early, they were growing and it was stronger in the end.") == []


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aA bB1.,'\"`’()-—_/%°é\n", max_size=60))
def test_candidates_are_verbatim_and_do_not_overlap(text):
    end = 0
    for candidate in supplement(text):
        assert text[candidate.start : candidate.end] == candidate.text
        assert candidate.start >= end
        end = candidate.end


def test_merge_keeps_one_of_nested_spans_and_prefers_the_complete_pattern():
    text = "The kiln hall reopened in March 2016 after Tomas Ferreira paid for a new roof of Portuguese slate."
    merged = merge(text, [["in March 2016", "Ferreira", "a new roof"], ["2016", "new roof", "the kiln hall"]], 10)
    assert [c.text for c in merged] == [
        "kiln hall",
        "March 2016",
        "Tomas Ferreira",
        "new roof",
        "Portuguese slate",
    ]


def test_merge_drops_what_is_not_in_the_text_and_what_says_nothing():
    assert merge("the cat sat on it", [["the dog", "on it", "a", "cat"]], 5)[0].text == "cat"
    assert len(merge("the cat sat on it", [["the dog", "on it", "a", "cat"]], 5)) == 1


def test_merge_prefers_spans_that_more_lists_name():
    text = "a slow red boat came"
    merged = merge(text, [["slow red boat"], ["slow red boat"], ["red boat"]], 5)
    assert [c.text for c in merged] == ["slow red boat"]


def test_merge_limit_keeps_patterns_first():
    merged = merge("Anna Kolb paid 12 euros for green tea.", [["green tea"]], 2)
    assert [c.text for c in merged] == ["Anna Kolb", "12 euros"]


def test_locate_allows_other_white_space_and_needs_whole_words():
    text = "a new\nroof tile"
    assert locate(text, "new roof") == (2, 10)
    assert locate(text, "new roo") is None
    assert locate(text, "a") is None
