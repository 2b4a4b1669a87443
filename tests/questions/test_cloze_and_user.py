import pytest

from atomlora.errors import InputError
from atomlora.questions.cloze import BLANK, ClozeWriter, cloze_questions
from atomlora.questions.types import AtomText
from atomlora.questions.user import load_user_questions


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


def test_user_questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": " Who? ", "answer": "Anna", "source": "a.md"}\n\n', encoding="utf-8")
    (loaded,) = load_user_questions(path)
    assert (loaded.question, loaded.answer, loaded.source) == ("Who?", "Anna", "a.md")
    assert loaded.as_question().kind == "user"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"question": "Who?", "answer": "Anna"}', "source"),
        ('{"question": "", "answer": "Anna", "source": "a"}', "question"),
        ('{"question": "Who?", "answer": 5, "source": "a"}', "answer"),
        ('{"question": "Who?", "answer": "a", "source": "a", "extra": 1}', "extra"),
        ("{oops", "JSON"),
    ],
)
def test_user_question_errors_name_file_line_and_field(tmp_path, line, named):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who?", "answer": "A", "source": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"q\.jsonl, line 2: .*{named}"):
        load_user_questions(path)


def test_user_questions_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_user_questions(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        load_user_questions(tmp_path / "latin.jsonl")
