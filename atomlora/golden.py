"""Golden questions: jsonl of `{"question", "answer" | "answers" | "answers_all", "source"?, "sources"?}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from atomlora.errors import InputError
from atomlora.metrics import AnswerRule
from atomlora.spread import evenly

_FORMS = ("answer", "answers", "answers_all")
_EXAMPLE = 'write {"question": "…", "answer": "…", "source": "…"}'
_ASKED = 'write {"question": "…"}'


class GoldenQuestion(BaseModel):
    """A question, its `golden` answers, whether `any` or `all` of them count, and the documents (as
    provenances write them) that hold the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    golden: tuple[str, ...]
    rule: AnswerRule = "any"
    sources: tuple[str, ...] = ()


def load_golden(path: Path, limit: int | None = None) -> list[GoldenQuestion]:
    """The questions of a file; with `limit`, that many of them, evenly spread over the file.

    Raises InputError naming file and line for a line that is no such question, and for a file without any.
    """
    questions = [_question(record, place) for place, record in read_jsonl(path)]
    if not questions:
        raise InputError(f"{path}: holds no question; {_EXAMPLE}, one a line")
    return questions if limit is None else evenly(questions, limit)


def read_questions(path: Path, data: bytes | None = None) -> Iterator[str]:
    """The `question` of every line of a jsonl file (or of `data`, called `path` in messages), whatever else
    the line holds. Raises InputError naming file and line."""
    for place, record in read_jsonl(path, data, _ASKED):
        yield text_field(record, "question", place, _ASKED)


def read_jsonl(path: Path, data: bytes | None = None, example: str = _EXAMPLE) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line for messages, object) of every line that is not blank; messages show the `example`.

    Raises InputError for a file that cannot be read and for a line that is no JSON object.
    """
    try:
        content = (path.read_bytes() if data is None else data).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a jsonl file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = loads_text(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON ({error}); {example}") from error
        if not isinstance(record, dict):
            raise InputError(f"{place}: is not a JSON object; {example}")
        yield place, record


def loads_text(line: str) -> Any:
    """What a line of JSON holds; ValueError for what is none, or holds half a character (a lone surrogate), which no
    tokenizer takes."""
    value = json.loads(line)
    if "\\u" in line:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _question(record: dict[str, Any], place: str) -> GoldenQuestion:
    forms = [form for form in _FORMS if form in record]
    if len(forms) != 1:
        raise InputError(f"{place}: has {' and '.join(forms) or 'no answer'}; give exactly one of {', '.join(_FORMS)}")
    form = forms[0]
    golden = (text_field(record, form, place),) if form == "answer" else texts_field(record, form, place)
    if "sources" in record:
        sources = texts_field(record, "sources", place)
    else:
        sources = (text_field(record, "source", place),) if "source" in record else ()
    return GoldenQuestion(
        question=text_field(record, "question", place),
        golden=golden,
        rule="all" if form == "answers_all" else "any",
        sources=sources,
    )


def text_field(record: dict[str, Any], key: str, place: str, example: str = _EXAMPLE) -> str:
    """The stripped text of a field; InputError naming `place` when it is none, or empty."""
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: {key!r} must be text that is not empty; {example}")
    return value.strip()


def texts_field(record: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    """The stripped texts of a field; InputError naming `place` when it is no list of texts."""
    values = record.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise InputError(f"{place}: {key!r} must be a list of texts that are not empty")
    return tuple(value.strip() for value in values)
