"""What a question file says about sentences: covered, left out, added to, refused."""

import pytest

from atomlora.compiler.drafts import drafts_from
from atomlora.compiler.given import apply_lines
from atomlora.compiler.questionnaire import question_lines
from atomlora.corpora import Passage
from atomlora.errors import InputError
from atomlora.questions.files import QuestionLine
from atomlora.questions.types import Question
from atomlora.wordings import training_wordings

FERRY, FARE, BUS = (
    "The ferry Marla leaves the harbour every day.",
    "Marla's fare is nine crowns.",
    "A bus waits at nine.",
)


def passage(text, source="a.md", start=0, sha="0", **fields):
    return Passage(source=source, source_sha256=sha * 64, start=start, end=start + len(text), text=text, title="Ferry",
                   **fields)  # fmt: skip


@pytest.fixture
def drafts():
    return drafts_from([passage(FERRY), passage(FARE, start=50), passage(BUS, "b.md", sha="b")])


def with_questions(draft, *questions):
    from dataclasses import replace

    return replace(draft, questions=questions)


def written(text, answer, kind="written", score=-0.2):
    return Question(text=text, answer=answer, kind=kind, score=score)


def asked(drafts):
    """The drafts as a compile would have them after its writer."""
    own = (
        (written("What leaves?", "The ferry Marla"), written("____ leaves.", "Marla", "cloze", None)),
        tuple(written(f"How much is it, {n}?", "nine crowns") for n in range(5)),
        (written("What waits?", "A bus"),),
    )
    return [with_questions(draft, *questions) for draft, questions in zip(drafts, own, strict=True)]


@pytest.fixture
def lines(drafts):
    return list(question_lines(asked(drafts)))


def test_a_line_without_a_sentence_goes_to_the_draft_that_holds_the_answer(drafts):
    lines = [
        QuestionLine(question="What is the fare for the ferry Marla?", answer="Nine", source="a.md"),
        QuestionLine(question="When does the bus wait?", answer="nine", source="b.md"),
        QuestionLine(question="How often does the ferry leave the harbour?", answer="daily", source="a.md"),
    ]
    given = apply_lines(drafts, lines, "q.jsonl")
    assert {i: [q.answer for q in found] for i, found in given.questions.items()} == {
        1: ["Nine"],
        2: ["nine"],
        0: ["daily"],
    }
    assert {(q.kind, q.trained) for found in given.questions.values() for q in found} == {("user", None)}
    assert (given.covered, given.notes, given.drafts) == (frozenset(), (), drafts)


def test_an_unedited_file_gives_the_very_questions_back(drafts, lines):
    assert [line.kind for line in lines if line.text == FERRY] == ["written", "cloze", "open", "open"]
    assert [line.trained for line in lines if line.text == FARE] == [True] * 3 + [False] * 2 + [True] * 2
    given = apply_lines(drafts, lines, "q.jsonl")
    assert given.covered == {0, 1, 2}
    assert [given.questions[i] for i in range(3)] == [draft.questions for draft in asked(drafts)]
    assert given.notes == ()


def test_what_is_edited_is_what_is_trained(drafts, lines):
    kept = [line for line in lines if line.text != FERRY or line.kind in ("written", "cloze")]
    edited = [
        line.model_copy(update={"question": "Which ship?", "answer": "Marla"})
        if line.question == "What leaves?"
        else line
        for line in kept
    ]
    edited.append(QuestionLine(question="Is it free?", answer="No.", source="a.md", text=FERRY))
    given = apply_lines(drafts, edited, "q.jsonl")
    draft = with_questions(given.drafts[0], *given.questions[0])
    assert list(training_wordings(draft)) == [("Is it free?", "No."), ("Which ship?", FERRY)]
    assert draft.identity("base", "recipe") != asked(drafts)[0].identity("base", "recipe")
    assert given.questions[1] == asked(drafts)[1].questions


def test_marks_decide_what_is_trained(drafts, lines):
    flipped = [line.model_copy(update={"trained": not line.trained}) if line.text == FERRY else line for line in lines]
    given = apply_lines(drafts, flipped, "q.jsonl")
    assert [w.question for w in training_wordings(with_questions(drafts[0], *given.questions[0]))] == ["____ leaves."]


def test_a_sentence_without_lines_is_left_out_while_its_document_is_the_same(drafts, lines):
    rest = [line for line in lines if line.text != FARE]
    given = apply_lines(drafts, rest, "q.jsonl")
    assert [draft.text for draft in given.drafts] == [FERRY, BUS]
    assert given.covered == {0, 1}
    assert given.questions[1] == asked(drafts)[2].questions
    assert "1 sentences have no question left" in given.notes[0]
    untrained = [line.model_copy(update={"trained": False}) if line.text == FARE else line for line in lines]
    assert [draft.text for draft in apply_lines(drafts, untrained, "q.jsonl").drafts] == [FERRY, BUS]


def test_a_changed_document_keeps_its_old_lines_and_asks_about_what_is_new(lines):
    new = "It never sinks."
    changed = drafts_from(
        [passage(FERRY, start=9, sha="1"), passage(new, start=70, sha="1"), passage(BUS, "b.md", sha="b")]
    )
    given = apply_lines(changed, lines, "q.jsonl")
    assert [draft.text for draft in given.drafts] == [FERRY, new, BUS]
    assert given.covered == {0, 2}
    stale, others = given.notes
    assert "7 lines of q.jsonl are of sentences that the documents no longer have" in stale
    assert "1 sentences are not in q.jsonl" in others


def test_lines_of_a_renamed_document_go_with_it(lines):
    renamed = drafts_from([passage(FERRY, "new/c.md"), passage(FARE, "new/c.md", 50), passage(BUS, "b.md", sha="b")])
    own = QuestionLine(question="What does Marla cost?", answer="nine", source="a.md", source_sha256="0" * 64)
    given = apply_lines(renamed, [*(line for line in lines if line.text != FERRY), own], "q.jsonl")
    assert [draft.text for draft in given.drafts] == [FARE, BUS]  # what was left out stays out under the new name
    assert given.questions[0][0].text == "What does Marla cost?"
    assert given.covered == {0, 1}
    (note,) = given.notes
    assert note.startswith("1 sentences have no question left in q.jsonl")


def test_lines_of_a_deleted_document_are_dropped(drafts, lines):
    left = drafts_from([passage(FERRY), passage(FARE, start=50)])
    own = QuestionLine(question="What waits?", answer="A bus", source="b.md", source_sha256="b" * 64)
    given = apply_lines(left, [*lines, own], "q.jsonl")
    assert given.drafts == left
    assert given.covered == {0, 1}
    gone = sum(line.source == "b.md" for line in lines) + 1
    assert given.notes == (
        f"{gone} lines of q.jsonl are of sentences that the documents no longer have; they were dropped",
    )
    none = apply_lines(drafts_from([passage("It never sinks.", "d.md", sha="d")]), lines, "q.jsonl")
    assert (none.questions, none.covered) == ({}, frozenset())


def test_a_line_without_a_sentence_adds_to_a_covered_one(drafts, lines):
    more = QuestionLine(question="What does Marla cost?", answer="nine", source="a.md")
    given = apply_lines(drafts, [*lines, more], "q.jsonl")
    assert given.questions[1][0] == Question(text="What does Marla cost?", answer="nine", kind="user")
    first = next(training_wordings(with_questions(drafts[1], *given.questions[1])))
    assert first == ("What does Marla cost?", "nine")


def test_the_same_text_twice_in_a_file_is_told_apart_by_its_place():
    both = drafts_from([passage(BUS, headings=("Summer",)), passage(BUS, start=200, headings=("Winter",))])
    line = QuestionLine(question="What?", answer="A bus", source="a.md", kind="written", text=BUS, start=190, end=210)
    assert apply_lines(both, [line], "q.jsonl").covered == {1}


def test_a_line_may_name_its_sentence_by_its_place_alone(drafts):
    line = QuestionLine(question="What does it cost?", answer="nine", source="a.md", start=50, end=50 + len(FARE))
    given = apply_lines(drafts, [line], "q.jsonl")
    assert {i: [q.text for q in found] for i, found in given.questions.items() if i in given.covered} == {
        1: ["What does it cost?"]
    }
    with pytest.raises(InputError, match="has no such sentence"):
        apply_lines(drafts, [edit(line, end=51)], "q.jsonl")


def test_lines_are_read_as_often_for_many_drafts_as_for_few(lines):
    class Counted(list):
        readings = 0

        def __iter__(self):
            self.readings += 1
            return super().__iter__()

    readings = set()
    for many in (1, 50):
        more = [passage(f"Sentence {number} of many.", start=1000 + 50 * number) for number in range(many)]
        counted = Counted(lines)
        apply_lines(drafts_from([passage(FERRY), passage(FARE, start=50), passage(BUS, "b.md", sha="b"), *more]),
                    counted, "q.jsonl")  # fmt: skip
        readings.add(counted.readings)
    assert len(readings) == 1


def edit(line, **changes):
    return QuestionLine(**{**line.model_dump(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "docs/a.md", "source_sha256": None}, r"q\.jsonl: .*docs/a\.md.*relative to the compiled folder"),
        ({"answer": "ten crowns"}, r"'ten crowns' does not stand in its sentence.*\"kind\": \"user\""),
        ({"text": "Marla's fare is ten crowns."}, r"'a\.md' has no such sentence.*leave text"),
    ],
)
def test_refused(drafts, lines, changes, message):
    (at,) = [i for i, line in enumerate(lines) if line.question == "How much is it, 0?"]
    with pytest.raises(InputError, match=message):
        apply_lines(drafts, [*lines[:at], edit(lines[at], **changes), *lines[at + 1 :]], "q.jsonl")


def test_a_users_answer_need_not_stand_in_the_sentence(drafts, lines):
    own = edit(lines[0], kind="user", answer="A ship.")
    given = apply_lines(drafts, [own, *lines[1:]], "q.jsonl")
    assert next(training_wordings(with_questions(drafts[0], *given.questions[0]))) == (own.question, "A ship.")
