import json

import pytest

from atomlora.corpora import sample_names, sample_path
from atomlora.questions.filters import (
    acceptable,
    doomed,
    fits_answer,
    gives_away,
    invents,
    select,
    stutters,
    well_formed,
)
from atomlora.questions.german import asks_in_german
from atomlora.questions.types import Question

CONTEXT = "Halden Glassworks History The kiln hall reopened in March 2016 after Tomas Ferreira paid for a new roof."


def question(text, answer="March 2016", score=-1.0):
    return Question(text=text, answer=answer, kind="written", score=score)


@pytest.mark.parametrize(
    ("asked", "answer", "expected"),
    [
        ("Who paid for the new roof?", "Tomas Ferreira", False),
        ("What did Tomas Ferreira pay for?", "Tomas Ferreira", True),
        ("What did the new roof cost?", "a new roof", True),
        ("Which roof of slate was paid for by Ferreira?", "new roof of slate", True),
        ("How many years are 12 months?", "12", True),
    ],
)
def test_gives_away(asked, answer, expected):
    assert gives_away(asked, answer) is expected


@pytest.mark.parametrize(
    "text", ["", "The hall reopened.", "What?", "Is it open?", "What is it? Why is it?", "What is it"]
)
def test_malformed(text):
    assert not well_formed(text)


@pytest.mark.parametrize(
    ("asked", "answer", "expected"),
    [
        ("How many moulds are there?", "3,200", True),
        ("How many moulds are there?", "slate", False),
        ("When did it reopen?", "March 2016", True),
        ("When did it reopen?", "Tomas Ferreira", False),
        ("What year did it reopen?", "slate", False),
        ("Who reopened it?", "2016", False),
        ("What is the roof made of?", "slate", True),
    ],
)
def test_fits_answer(asked, answer, expected):
    assert fits_answer(asked, answer) is expected


def test_invents_flags_foreign_names_and_numbers_only():
    assert invents("Who paid for the roof in Lisbon?", CONTEXT)
    assert invents("Who paid 300 for the roof?", CONTEXT)
    assert not invents("What hall of Halden Glassworks did Ferreira's money reopen in 2016?", CONTEXT)


LEASE = "Mietvertrag Der Vertrag von Anna Lind endet am 31. Dezember 2024 und kann mit drei Monaten gekündigt werden."


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Wann endet der Vertrag?", "31. Dezember 2024"),
        ("Mit welcher Frist kann der Vertrag gekündigt werden?", "drei Monaten"),
        ("Wie lange ist die Kündigungsfrist des Mietvertrags?", "drei Monaten"),
        ("An welchem Tag läuft der Mietvertrag aus?", "31. Dezember 2024"),
        ("Bis zu welchem Datum gilt der Vertrag?", "31. Dezember 2024"),
        ("Wer ist die Mieterin der Wohnung?", "Anna Lind"),
        ("Von wem stammt der Vertrag?", "Anna Lind"),
        ("Was endet zum Ende des Jahres?", "Der Vertrag"),
        ("Was ist nach der Frist zu tun?", "gekündigt werden"),
        ("Womit kann der Vertrag beendet werden?", "drei Monaten"),
        ("Wo steht das Enddatum?", "Mietvertrag"),
    ],
)
def test_german_questions_are_questions(asked, answer):
    assert acceptable(question(asked, answer), LEASE)
    begun = asked.split()
    assert not any(doomed(" ".join(begun[:count]), answer, LEASE) for count in range(1, len(begun)))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Wann endet der Vertrag vom 5. Mai 2021?", "Dezember"),  # a number of its own
        ("Wann endet der Vertrag am 31. Dezember 2024?", "31. Dezember 2024"),
        ("Wer beendet den Vertrag?", "2024"),
        ("Endet der Vertrag im Dezember?", "Dezember"),
        ("Was the lease of Anna Lind renewed?", "drei Monaten"),
        ("Was Anna Lind married in Lisbon?", "drei Monaten"),
        ("Was slate imported by Lind?", "drei Monaten"),
        ("Wen Jiabao signed it in Beijing?", "Anna Lind"),
        ("Wie is the owner of it?", "Anna Lind"),
        ("Quand le contrat prend-il fin?", "31. Dezember 2024"),
    ],
)
def test_what_is_no_good_question_in_german_either(asked, answer):
    assert not acceptable(question(asked, answer), LEASE)


def test_a_german_word_excuses_no_invented_name_in_english():
    assert invents("Wann is the book that Zanzibar wrote?", LEASE)
    assert invents("Who asked in Lisbon: wann endet der Vertrag?", LEASE)
    assert not invents("Wann kommt die Nebenkostenabrechnung?", LEASE)


def test_no_english_question_is_taken_for_german():
    """So that English verdicts, and the identities of atoms that hang on them, stay as they are."""
    files = [file for name in sample_names() for file in sample_path(name).glob("*.jsonl")]
    asked = [json.loads(line).get("question") for file in files for line in file.read_text().splitlines()]
    asked = [text for text in asked if text]
    assert len(asked) > 50
    for text in asked:
        _, _, rest = text.partition(" ")
        for variant in (text, f"Was {rest}", f"In {rest}", rest.capitalize()):
            assert not asks_in_german(variant), variant


def test_acceptable_is_all_of_them():
    assert acceptable(question("When did the kiln hall reopen?"), CONTEXT)
    assert not acceptable(question("When did the kiln hall reopen in March 2016?"), CONTEXT)
    assert not acceptable(question("When did the Lisbon hall reopen?"), CONTEXT)


def test_select_keeps_the_likelier_of_one_question_with_two_answers():
    kept = select([question("When was it?", "2016", -2.0), question("when was it?", "1994", -1.0)], 8)
    assert [(q.answer, q.score) for q in kept] == [("1994", -1.0)]


def test_select_covers_answers_before_wordings_and_drops_near_duplicates():
    questions = [
        question("When did the kiln hall reopen?", score=-0.1),
        question("When did the kiln hall reopen again?", score=-0.2),
        question("What month saw the reopening of the kiln hall?", score=-0.3),
        question("Who paid for the roof?", "Tomas Ferreira", -0.9),
    ]
    kept = select(questions, 8)
    assert [q.text for q in kept] == [questions[0].text, questions[3].text, questions[2].text]
    assert select(questions, 2) == kept[:2]


def test_select_fills_with_fallback_before_further_wordings():
    blank = Question(text="Fill in: ____", answer="slate", kind="cloze")
    known = Question(text="Fill in: ____ 2016", answer="march 2016", kind="cloze")
    asked = [
        question("When did the kiln hall reopen?"),
        question("What month did the hall open anew?", score=-2.0),
    ]
    assert select(asked, 8, [known, blank]) == [asked[0], blank, asked[1]]


def test_stutters():
    assert stutters("When when was it built?")
    assert stutters("What is the default timeout of the default timeout?")
    assert not stutters("What is the name of the owner of the hall?")


def test_what_is_doomed_is_never_acceptable():
    context = "Guild Anna met Bo Lind in 1990 at the old mill."
    for text, answer in [
        ("Where did Anna meet Bo Lind in 1990?", "the old mill"),
        ("When did Anna meet Bo Lind?", "1990"),
        ("When did Anna meet Bo Lind?", "Bo Lind"),
        ("Who met Anna in Paris at the mill?", "Bo Lind"),
        ("What did Anna Anna do?", "met Bo Lind"),
        ("Who is it? Who is it?", "Anna"),
    ]:
        parts = text.split()
        begun = [" ".join(parts[:count]) for count in range(1, len(parts))]
        good = acceptable(Question(text=text, answer=answer, kind="written"), context)
        assert good is not any(doomed(beginning, answer, context) for beginning in begun)
