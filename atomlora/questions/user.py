"""Questions that a user supplies: `--questions FILE`, one JSON object a line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from atomlora.errors import InputError
from atomlora.questions.types import Question


class UserQuestion(BaseModel):
    """One supplied question; `source` is the path (POSIX, relative to the compiled root) or `FILE#id`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answer: str
    source: str

    @field_validator("question", "answer", "source")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value.strip()

    def as_question(self) -> Question:
        return Question(text=self.question, answer=self.answer, kind="user")


def load_user_questions(path: str | Path) -> list[UserQuestion]:
    """Read a question file; blank lines are skipped.

    Raises InputError naming the file, the line and the field for anything that is not
    `{"question": ..., "answer": ..., "source": ...}` with three non-empty strings.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--questions {path}: cannot be read ({error.strerror}); give a jsonl file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--questions {path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    questions = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            questions.append(UserQuestion.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            raise InputError(
                f"--questions {path}, line {number}: {field}: {first['msg']}; "
                'write {"question": "...", "answer": "...", "source": "..."}'
            ) from error
    return questions
