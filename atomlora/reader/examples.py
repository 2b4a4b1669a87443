"""What a reader is trained on: jsonl of `{"text" | "statements", "question", "answer"}`.

`text` is what is read; `statements` is a list of them, read one a line, as atoms state them. `answer` is short and
should stand in what is read, or null where that does not answer the question. Lines with the same text are trained
together, which is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from atomlora.errors import InputError
from atomlora.golden import read_jsonl, text_field, texts_field

FORMAT = (
    'write {"text": "…", "question": "…", "answer": "…"}, or "statements": ["…"] instead of "text", one a line; '
    '"answer": null says that the text does not answer'
)
_KEYS = {"text", "statements", "question", "answer"}


class ReaderExample(BaseModel):
    """What is read, and a question with its short answer; None where what is read does not answer it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    question: str
    answer: str | None


def load_examples(path: Path) -> list[ReaderExample]:
    """All examples of a file. Raises InputError naming file and line for what is no example, and for a file without
    any."""
    examples = [_example(record, place) for place, record in read_jsonl(path, example=FORMAT)]
    if not examples:
        raise InputError(f"{path}: holds no example; {FORMAT}")
    return examples


def by_text(examples: Sequence[ReaderExample]) -> list[tuple[str, list[ReaderExample]]]:
    """The examples of each text, in the order in which texts first appear."""
    groups: dict[str, list[ReaderExample]] = {}
    for example in examples:
        groups.setdefault(example.text, []).append(example)
    return list(groups.items())


def _example(record: dict[str, Any], place: str) -> ReaderExample:
    if unknown := sorted(record.keys() - _KEYS):
        raise InputError(f"{place}: {unknown[0]!r} is unknown; {FORMAT}")
    if ("text" in record) == ("statements" in record):
        raise InputError(f"{place}: needs either 'text' or 'statements'; {FORMAT}")
    if "text" in record:
        text = text_field(record, "text", place, FORMAT)
    else:
        text = "\n".join(texts_field(record, "statements", place))
    return ReaderExample(
        text=text,
        question=text_field(record, "question", place, FORMAT),
        answer=None if record.get("answer", "") is None else text_field(record, "answer", place, FORMAT),
    )
