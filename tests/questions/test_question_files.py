"""Question files: what is read, what is refused, and that writing and reading agree."""

import pytest

from atomlora.errors import InputError
from atomlora.questions.files import QuestionLine, load_question_file, write_question_file


def test_a_users_questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": " Who? ", "answer": "Anna", "source": "a.md"}\n\n', encoding="utf-8")
    (loaded,) = load_question_file(path)
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
        ('{"question": "Who?", "answer": "A", "source": "a", "kind": "guessed", "text": "A."}', "kind"),
        ('{"question": "Who?", "answer": "A", "source": "a", "start": 4}', "start and end come together"),
        ('{"question": "Who?", "answer": "A", "source": "a", "kind": "written"}', "names its sentence"),
    ],
)
def test_user_question_errors_name_file_line_and_field(tmp_path, line, named):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who?", "answer": "A", "source": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"q\.jsonl, line 2: .*{named}"):
        load_question_file(path)


def test_user_questions_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_question_file(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        load_question_file(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_a_file_without_a_question_is_not_taken_for_no_file(tmp_path, content):
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"q\.jsonl: holds no question; leave the option out"):
        load_question_file(tmp_path / "q.jsonl")


def test_what_is_written_is_read(tmp_path):
    lines = [
        QuestionLine(question="Wer?", answer="Änne", source="b.md"),
        QuestionLine(
            question="When?", answer="nine", source="a.md", kind="written", trained=False, start=3, end=20,
            text="It leaves at nine.", score=-0.25, source_sha256="0" * 64,
        ),
    ]  # fmt: skip
    write_question_file(lines, tmp_path / "q.jsonl")
    assert [line.model_dump() for line in load_question_file(tmp_path / "q.jsonl")] == [
        line.model_dump() for line in lines
    ]
    assert [line.number for line in load_question_file(tmp_path / "q.jsonl")] == [1, 2]
    assert "Änne" in (tmp_path / "q.jsonl").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize(
    ("kind", "given", "trained"),
    [("user", None, True), ("written", None, True), ("open", None, True), ("cloze", None, False),
     ("statement", None, False), ("cloze", True, True), ("written", False, False)],
)  # fmt: skip
def test_what_a_line_trains(kind, given, trained):
    line = QuestionLine(question="Q?", answer="a", source="a", kind=kind, trained=given, text="a b")
    assert line.as_question(explicit=True).trained is trained
    assert line.as_question().trained is None


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("old")

    def lines():
        yield QuestionLine(question="Q?", answer="a", source="a")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_question_file(lines(), file)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
    assert file.read_text() == "old"
