from atomlora.questions.cloze import BLANK, ClozeWriter, cloze_questions
from atomlora.questions.types import AtomText


def test_cloze_blanks_every_occurrence_and_names_the_title():
    questions = cloze_questions(
        AtomText(title="Guild", headings=("Guild", "Staff"), text="Anna met Bo in 1990; Anna left.")
    )
    assert [q.answer for q in questions] == ["Anna", "Bo", "1990"]
    assert questions[0].text == f"Fill in the blank (Guild / Staff): {BLANK} met Bo in 1990; {BLANK} left."
    assert all(q.answer not in q.text and q.kind == "cloze" for q in questions)


def test_statement_where_nothing_can_be_blanked():
    (question,) = cloze_questions(AtomText(title="", text="old cats sleep on warm stones"))
    assert question.kind == "statement"
    assert question.text == f"Complete the statement: old cats sleep on {BLANK}"[: len(question.text)]
    assert question.answer == "warm stones"


def test_cloze_writer_respects_the_maximum_and_reports_progress():
    seen = []
    atoms = [AtomText(title="", text="Anna met Bo in 1990 with 12 euros."), AtomText(title="", text="word")]
    written = ClozeWriter().write(atoms, 2, lambda done, total: seen.append((done, total)))
    assert [len(questions) for questions in written] == [2, 0]
    assert seen == [(1, 2), (2, 2)]
