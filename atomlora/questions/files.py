"""Question files: jsonl, one question a line, as `atomlora questions` writes them and `compile --questions` reads them.

A line that only has `question`, `answer` and `source` is a question of the user's own. One with `text` (or `start` and
`end`) belongs to that very sentence.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator

from atomlora.errors import InputError
from atomlora.questions.types import Question, QuestionKind

_FORM = 'write {"question": "...", "answer": "...", "source": "..."}'


class QuestionLine(BaseModel):
    """One line. `source` is the path (POSIX, relative to the compiled root) or `FILE#id`; `start` and `end` are
    character offsets into its extracted text, `text` the sentence there, `source_sha256` the document's bytes when the
    line was written; `kind` and `trained` as in Question, `trained` None for: by kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answer: str
    source: str
    kind: QuestionKind = "user"
    trained: bool | None = None
    start: int | None = None
    end: int | None = None
    text: str | None = None
    score: float | None = None
    source_sha256: str | None = None
    _number: int = PrivateAttr(0)

    @field_validator("question", "answer", "source")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value.strip()

    @model_validator(mode="after")
    def _placed(self) -> QuestionLine:
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end come together")
        if self.kind != "user" and not self.placed:
            raise ValueError(f"a line of kind {self.kind!r} names its sentence by text, or by start and end")
        return self

    @property
    def number(self) -> int:
        """Where the line stands in its file, from 1; 0 for one that was not read from a file."""
        return self._number

    @property
    def placed(self) -> bool:
        """Whether the line names its sentence."""
        return self.text is not None or self.start is not None

    def as_question(self, explicit: bool = False) -> Question:
        """`explicit`: with `trained` set."""
        by_kind = self.kind in ("user", "written", "open")
        trained = None if not explicit else by_kind if self.trained is None else self.trained
        return Question(text=self.question, answer=self.answer, kind=self.kind, score=self.score, trained=trained)


def load_question_file(path: str | Path) -> list[QuestionLine]:
    """Read a question file; blank lines are skipped.

    Raises InputError naming the file, the line and the field for anything that is not a QuestionLine, and for a file
    that holds none: it may have been cut off, and would be taken for no file at all.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--questions {path}: cannot be read ({error.strerror}); give a jsonl file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--questions {path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    lines = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            read = QuestionLine.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            reason = first["msg"].removeprefix("Value error, ")
            raise InputError(f"--questions {path}, line {number}: {field}: {reason}; {_FORM}") from error
        read._number = number
        lines.append(read)
    if not lines:
        raise InputError(f"--questions {path}: holds no question; leave the option out to have questions written")
    return lines


def dump_question_lines(lines: Iterable[QuestionLine], file: TextIO) -> None:
    """Write lines as jsonl, without fields that are None."""
    for line in lines:
        file.write(json.dumps(line.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n")


def write_question_file(lines: Iterable[QuestionLine], path: Path) -> None:
    """Write a question file whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            dump_question_lines(lines, file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
