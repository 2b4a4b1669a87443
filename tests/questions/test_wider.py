"""Candidates of further rounds: what kinds there are, and that each is a piece of the text that nobody asked about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.questions.candidates import supplement
from atomlora.questions.wider import wider
from atomlora.questions.words import content_words


def found(text, kind):
    return [candidate.text for candidate in wider(text) if candidate.source == kind]


@pytest.mark.parametrize(
    ("text", "kind", "answers"),
    [
        ("Fares: Ticket: Sheep, per head; Single: 1.75; Return: 2.90", "cell", ["Sheep, per head", "1.75", "2.90"]),
        ("Note: this is one sentence.", "cell", []),
        ("The church split because of tensions over slavery.", "clause", ["tensions over slavery"]),
        ("It is used to reward loyalists, and more.", "clause", ["reward loyalists"]),
        ("The road leads to the old harbour.", "clause", []),
        ("One enters by turning the brass key.", "clause", ["turning the brass key"]),
        ("Bring apples, pears and ripe plums.", "list", ["Bring apples, pears and ripe plums"]),
        ("The centre of mass does not move.", "phrase", ["centre of mass", "centre", "mass", "move"]),
        ("It uses distributed computing.", "phrase", ["uses distributed computing"]),
    ],
)
def test_kinds(text, kind, answers):
    assert found(text, kind) == answers


def test_what_was_asked_about_is_left_out():
    text = "The centre of mass of a ship does not move."
    assert "centre of mass" not in [c.text for c in wider(text, ["the Centre of Mass"])]
    assert "mass" in [c.text for c in wider(text, ["the Centre of Mass"])]


@given(st.text(alphabet="abC of,the.;:\n-(1", max_size=120))
def test_each_is_a_piece_of_the_text_and_no_other_has_its_words(text):
    known = [candidate.text for candidate in supplement(text)]
    candidates = wider(text, known)
    assert all(text[c.start : c.end] == c.text and c.text.strip() for c in candidates)
    contents = [tuple(content_words(c.text)) for c in candidates]
    assert len(set(contents)) == len(contents)
    assert not set(contents) & {tuple(content_words(answer)) for answer in known}
