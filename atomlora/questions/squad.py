"""Training and score examples for the question writer from SQuAD passages (jsonl, one passage a line).

A line is `{"id", "title", "text", "questions": [{"question", "answer"}]}`. A group is one piece of text (1-3
sentences) with all human questions whose answers it contains: the unit that the trainer packs into one
sequence.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from atomlora.errors import InputError

# Invented section names: atoms carry heading paths, SQuAD passages do not, and the writer should take them
# or leave them.
_HEADINGS = (
    "History",
    "Overview",
    "Background",
    "Details",
    "Today",
    "Notes",
    "Facts",
    "General",
    "About",
    "Introduction",
)
_ABBREVIATION_LIST = "mr mrs ms dr st prof rev gen col capt lt sgt jr sr no vol fig vs etc e.g i.e u.s approx ca"
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*\s+(?=[\"'(\[“‘]?[A-Z0-9])")


class Passage(BaseModel):
    """One passage with its human (question, answer) pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


class Group(BaseModel):
    """A piece of text and its human (question, answer) pairs, in the order of the answers' appearance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    text: str
    pairs: tuple[tuple[str, str], ...]


def read_passages(path: Path) -> list[Passage]:
    """All passages of a jsonl file; InputError names the file and line that cannot be used."""
    passages = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a SQuAD jsonl file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            pairs = tuple((str(q["question"]), str(q["answer"])) for q in raw["questions"])
            passages.append(Passage(title=raw["title"], text=raw["text"], questions=pairs))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: not a passage with title, text and questions ({error})"
            ) from error
    return passages


def split_titles(passages: Sequence[Passage], train_titles: int) -> tuple[list[Passage], list[Passage]]:
    """Passages of the first `train_titles` titles (file order), and all others."""
    order = list(dict.fromkeys(p.title for p in passages))
    chosen = set(order[:train_titles])
    return [p for p in passages if p.title in chosen], [p for p in passages if p.title not in chosen]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence; a full stop after a known abbreviation or a single capital ends none."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        word = re.split(r"[\s(]", text[start : match.start()])[-1]
        if match.group()[0] == "." and (word.lower() in _ABBREVIATIONS or re.fullmatch(r"[A-Z](\.[A-Z])*", word)):
            continue
        end = match.start() + len(match.group().rstrip())
        spans.append((start, end))
        start = match.end()
    if text[start:].strip():
        spans.append((start, len(text.rstrip())))
    return spans


def tidy(question: str) -> str:
    """The question with one capital, one question mark and single spaces."""
    question = " ".join(question.split()).rstrip(" .?") + "?"
    return question[0].upper() + question[1:]


def make_groups(passages: Sequence[Passage], generator: random.Random | None) -> list[Group]:
    """One group per sentence that holds an answer.

    With a generator the text is widened to neighbouring sentences (two in 25 %, three in 12 % of the
    groups) and the title is dropped (12 %) or gets an invented heading (20 %); without one, texts are
    single sentences with titles.
    """
    groups: list[Group] = []
    for passage in passages:
        sentences = sentence_spans(passage.text)
        for index, (start, end) in enumerate(sentences):
            first, last, path = index, index, passage.title
            if not pairs_within(passage, passage.text[start:end]):
                continue
            if generator is not None:
                draw = generator.random()
                extra = 0 if draw < 0.63 else 1 if draw < 0.88 else 2
                for _ in range(extra):
                    if generator.random() < 0.5 and first > 0:
                        first -= 1
                    elif last < len(sentences) - 1:
                        last += 1
                draw = generator.random()
                if draw < 0.12:
                    path = ""
                elif draw < 0.32:
                    path = f"{path} / {generator.choice(_HEADINGS)}"
            text = passage.text[sentences[first][0] : sentences[last][1]]
            groups.append(Group(path=path, text=text, pairs=tuple(pairs_within(passage, text))))
    return groups


def pairs_within(passage: Passage, text: str) -> list[tuple[str, str]]:
    """Pairs whose answer stands in `text` and nowhere else in the passage, ordered by position."""
    found = []
    for question, answer in passage.questions:
        answer = answer.strip().rstrip(".,;:")
        at = text.find(answer)
        # An answer that also occurs elsewhere may belong to another sentence, and its question would mislead.
        if len(answer) < 1 or at < 0 or passage.text.count(answer) != text.count(answer):
            continue
        if len(question.split()) >= 3:
            found.append((at, tidy(question), answer))
    return [(question, answer) for _, question, answer in sorted(found)]
