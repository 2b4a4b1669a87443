"""What a question file says about the sentences of a corpus.

- A sentence that the file names (by `text`, or by `start` and `end`) is *covered*: it is trained on the file's lines
  alone, and no writer is asked about it.
- Lines go with their document's bytes where it was renamed, and are dropped where it is gone or no longer has the
  sentence.
- A sentence of which no line is left is left out, where its document is still the one that the file was written from.
- Everything else, also a document of which the file has no line at all, gets questions of its own from the writer; a
  line without a sentence adds to them.

An answer must stand in its sentence, but a user's, which is said as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from atomlora.compiler.drafts import Draft
from atomlora.errors import InputError
from atomlora.questions.files import QuestionLine, load_question_file
from atomlora.questions.prompts import squeeze
from atomlora.questions.types import Question
from atomlora.wordings import implicit_questions

_WORD = re.compile(r"\w{3,}")


@dataclass(frozen=True)
class Given:
    """The drafts that are to be compiled and the questions that come with them, by number: all of a draft's where it
    is `covered`, else the user's own. `notes`: what the user should know."""

    drafts: list[Draft]
    questions: Mapping[int, tuple[Question, ...]] = field(default_factory=dict)
    covered: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def given_questions(drafts: list[Draft], file: Path | None) -> Given:
    """Apply a question file (None: nothing is given). Raises InputError, naming the line, for a source or a sentence
    that the corpus does not have, where the line does not tell that its document has changed or gone, and for an answer
    that is not in its sentence."""
    return Given(drafts) if file is None else apply_lines(drafts, load_question_file(file), str(file))


def apply_lines(drafts: list[Draft], lines: Sequence[QuestionLine], file: str) -> Given:
    """The same for lines that were read already; `file` is their name for messages."""
    places = _Places(drafts, file)
    here = places.here(lines)
    placed, stale = places.placed(here)
    stale += len(lines) - len(here)
    added: dict[int, list[Question]] = {}
    for line in here:
        if not line.placed:
            added.setdefault(places.best(line), []).append(line.as_question())
    questions: dict[int, tuple[Question, ...]] = {}
    for index, own in placed.items():
        more = [q.model_copy(update={"trained": True}) for q in added.get(index, ())]
        asked = list(dict.fromkeys([*(line.as_question(explicit=True) for line in own), *more]))
        asked.sort(key=lambda q: q.kind != "user")  # the order in which they are trained
        if any(q.trained for q in asked):
            questions[index] = implicit_questions(drafts[index], asked)
    covered = frozenset(questions)
    questions |= {index: tuple(own) for index, own in added.items() if index not in placed}
    written = {(line.source, line.source_sha256) for line in here if line.placed}
    without = [i for i in range(len(drafts)) if i not in questions and (i in placed or places.among(i, written))]
    return _without(drafts, without, questions, covered, _notes(drafts, covered, without, stale, file))


class _Places:
    """Which draft a line belongs to."""

    def __init__(self, drafts: Sequence[Draft], file: str) -> None:
        self.drafts, self.file = drafts, file
        self.of_source: dict[str, list[int]] = {}
        self.digests: dict[str, str] = {}
        self.of_digest: dict[str, str] = {}  # the first source of these bytes
        # (start, draft) of the sentences of a source by what a line names them by
        self.by_text: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.by_span: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
        for index, draft in enumerate(drafts):
            for place in draft.provenances:
                self.of_source.setdefault(place.source, []).append(index)
                self.digests[place.source] = place.source_sha256
                self.of_digest.setdefault(place.source_sha256, place.source)
                self.by_text.setdefault((place.source, draft.text), []).append((place.start, index))
                self.by_span.setdefault((place.source, place.start, place.end), []).append((place.start, index))

    def here(self, lines: Iterable[QuestionLine]) -> list[QuestionLine]:
        """The lines of documents that there are, under their names of now; a line that does not say of which bytes
        it is stays as it is."""
        found = []
        for line in lines:
            digest = line.source_sha256
            if digest is None or line.source in self.of_source:
                found.append(line)
            elif digest in self.of_digest:
                found.append(line.model_copy(update={"source": self.of_digest[digest]}))
        return found

    def placed(self, lines: Iterable[QuestionLine]) -> tuple[dict[int, list[QuestionLine]], int]:
        """{draft: its lines}, and how many lines are of sentences that a changed document no longer has."""
        found: dict[int, list[QuestionLine]] = {}
        stale = 0
        for line in lines:
            if not line.placed:
                continue
            index = self._named(line)
            if index is None:
                stale += 1
            else:
                self._check(line, self.drafts[index].text)
                found.setdefault(index, []).append(line)
        return found, stale

    def best(self, line: QuestionLine) -> int:
        """Of the drafts of the line's source, the one that holds the answer and shares most words."""
        words = set(_WORD.findall(f"{line.question} {line.answer}".lower()))

        def fit(index: int) -> tuple[bool, int]:
            text = self.drafts[index].text.lower()
            return line.answer.lower() in text, len(words & set(_WORD.findall(text)))

        return max(self._in_source(line), key=fit)

    def among(self, index: int, documents: Set[tuple[str, str | None]]) -> bool:
        """Whether the draft stands in one of these very documents (source, sha256)."""
        return any((place.source, place.source_sha256) in documents for place in self.drafts[index].provenances)

    def _named(self, line: QuestionLine) -> int | None:
        self._in_source(line)
        near: Sequence[tuple[int, int]] = ()
        if line.text is not None:
            near = self.by_text.get((line.source, line.text), ())
        elif line.start is not None and line.end is not None:
            near = self.by_span.get((line.source, line.start, line.end), ())
        if near:
            return min((abs(start - (line.start or 0)), index) for start, index in near)[1]
        if line.source_sha256 not in (None, self.digests[line.source]):
            return None
        raise InputError(
            f"{self._place(line)}: {line.source!r} has no such sentence; leave text, start and end as they were "
            "written (a sentence is changed in its document), or delete them to add a question of your own"
        )

    def _check(self, line: QuestionLine, text: str) -> None:
        if line.kind == "user" or squeeze(line.answer).lower() in squeeze(text).lower():
            return
        raise InputError(
            f"{self._place(line)}: the answer {line.answer!r} does not stand in its sentence {squeeze(text)!r}; take "
            'words of the sentence, delete the line, or set "kind": "user" to have the answer said as it is'
        )

    def _in_source(self, line: QuestionLine) -> list[int]:
        places = self.of_source.get(line.source)
        if not places:
            raise InputError(
                f"{self._place(line)}: {line.question!r} names the source {line.source!r}, which the corpus "
                "does not have; use the path relative to the compiled folder (FILE#id for jsonl)"
            )
        return places

    def _place(self, line: QuestionLine) -> str:
        return f"--questions {self.file}" + (f", line {line.number}" if line.number else "")


def _without(
    drafts: list[Draft],
    without: Sequence[int],
    questions: Mapping[int, tuple[Question, ...]],
    covered: frozenset[int],
    notes: tuple[str, ...],
) -> Given:
    gone = set(without)
    now = {before: index for index, before in enumerate(i for i in range(len(drafts)) if i not in gone)}
    return Given(
        [drafts[i] for i in now],
        {now[i]: own for i, own in questions.items()},
        frozenset(now[i] for i in covered),
        notes,
    )


def _notes(
    drafts: Sequence[Draft], covered: frozenset[int], without: Sequence[int], stale: int, file: str
) -> tuple[str, ...]:
    notes = []
    if stale:
        notes.append(f"{stale} lines of {file} are of sentences that the documents no longer have; they were dropped")
    if without:
        first = squeeze(drafts[without[0]].text)
        notes.append(f"{len(without)} sentences have no question left in {file} and are left out, such as: {first}")
    others = len(drafts) - len(covered) - len(without)
    if covered and others:
        notes.append(f"{others} sentences are not in {file}; their questions are written")
    return tuple(notes)
