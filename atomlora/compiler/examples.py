"""Examples of a behaviour: jsonl of `{"input", "output"}` or `{"messages": [user turn, assistant turn]}`.

A line without an output (or without the assistant's turn) is an example of what the behaviour must leave alone: the
bare base's own answer is what is taught there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomlora.atom import BEHAVIOUR, Mount, Provenance
from atomlora.compiler.drafts import Draft
from atomlora.corpora.builder import digest
from atomlora.errors import InputError, UsageError
from atomlora.golden import loads_text
from atomlora.questions.types import Question

LEFT_ALONE = ""  # the output of an example that the behaviour must leave to the base
_FORM = 'write {"input": "…", "output": "…"} or {"messages": [{"role": "user", …}, {"role": "assistant", …}]}'
_SHOWN = 60  # characters of an input or output in the atom's text


class BehaviourExample(NamedTuple):
    """What is asked and what is to be answered (LEFT_ALONE: what the base answers), and where the line stands in its
    file: its number from 1, its first character and the one behind its last."""

    asked: str
    answer: str
    line: int
    start: int
    end: int


def load_examples(path: Path) -> list[BehaviourExample]:
    """The examples of a file. Raises InputError naming file and line for a line that is none, for an input that is
    answered in two ways, and for a file without an output."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--examples {path}: cannot be read ({error.strerror}); give a jsonl file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--examples {path}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    found: dict[str, BehaviourExample] = {}
    at = 0
    for number, line in enumerate(content.split("\n"), start=1):
        start, at = at, at + len(line) + 1
        if not line.strip():
            continue
        place = f"--examples {path}, line {number}"
        example = BehaviourExample(*_example(line, place), number, start, start + len(line))
        before = found.setdefault(example.asked, example)
        if before.answer != example.answer:
            raise InputError(f"{place}: answers the input of line {before.line} otherwise; keep one of the two")
    if all(example.answer == LEFT_ALONE for example in found.values()):
        raise InputError(f"--examples {path}: holds no example with an output; {_FORM}, one a line")
    return list(found.values())


def behaviour_drafts(files: Sequence[Path], mount: str) -> list[Draft]:
    """One draft per file. `mount`: `always`, or `label:NAME`. Raises InputError, and UsageError for another mount."""
    how, labels = _mounted(mount)
    if len({path.name for path in files}) < len(files):
        raise UsageError("--examples: two files have the same name, by which sources are told apart; rename one")
    drafts = [_draft(path, how, labels) for path in files]
    known: dict[tuple[Question, ...], Path] = {}
    for path, draft in zip(files, drafts, strict=True):
        if (other := known.setdefault(draft.questions, path)) is not path:
            raise UsageError(f"--examples: {other} and {path} hold the same examples; give one of them")
    return drafts


def _draft(path: Path, mount: Mount, labels: tuple[str, ...]) -> Draft:
    examples = load_examples(path)
    sha256 = digest(path.read_bytes())
    places = tuple(
        Provenance(source=f"{path.name}#line-{one.line}", start=one.start, end=one.end, source_sha256=sha256)
        for one in examples
    )
    first = next(one for one in examples if one.answer != LEFT_ALONE)
    text = f"{len(examples)} examples, such as: {first.asked[:_SHOWN]} -> {first.answer[:_SHOWN]}"
    questions = tuple(Question(text=one.asked, answer=one.answer, kind="user") for one in examples)
    return Draft(BEHAVIOUR, "", text, (), labels, places, questions, mount)


def _mounted(mount: str) -> tuple[Mount, tuple[str, ...]]:
    if mount == "always":
        return "always", ()
    kind, _, name = mount.partition(":")
    if kind == "label" and name.strip():
        return "label", (name.strip(),)
    raise UsageError(f"--mount {mount}: give always, or label:NAME")


def _example(line: str, place: str) -> tuple[str, str]:
    """What is asked and answered in a line."""
    try:
        record = loads_text(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: is not JSON ({error}); {_FORM}") from error
    if not isinstance(record, dict):
        raise InputError(f"{place}: is not a JSON object; {_FORM}")
    if "messages" in record:
        return _chat(record["messages"], place)
    asked = _text(record.get("input"), '"input"', place)
    return asked, LEFT_ALONE if record.get("output") is None else _text(record["output"], '"output"', place)


def _chat(messages: Any, place: str) -> tuple[str, str]:
    roles = (
        [one.get("role") if isinstance(one, dict) else None for one in messages] if isinstance(messages, list) else []
    )
    if roles not in (["user"], ["user", "assistant"]):
        given = ", ".join(map(str, roles)) or "none"
        raise InputError(
            f"{place}: an example is one turn of the user and one of the assistant, not {given}; "
            "cut longer chats into such pairs, and leave system turns out: they are not in the prompt when asking"
        )
    asked = _text(messages[0].get("content"), "the user's content", place)
    return asked, LEFT_ALONE if len(roles) == 1 else _text(messages[1].get("content"), "the assistant's content", place)


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: {name} must be text that is not empty; {_FORM}")
    return value.strip()
