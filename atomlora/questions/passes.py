"""What AdapterWriter does with one batch of atoms, from answer candidates to the questions that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atomlora.questions.candidates import Candidate, merge
from atomlora.questions.cloze import cloze_questions
from atomlora.questions.decoder import Prefixes
from atomlora.questions.filters import acceptable, doomed, gives_away, select
from atomlora.questions.generation import LineWriter, Stems
from atomlora.questions.prompts import SPAN_SEPARATOR, SPAN_SUFFIX, question_suffix, squeeze
from atomlora.questions.sampling import stream
from atomlora.questions.types import AtomText, Question
from atomlora.questions.wider import wider
from atomlora.questions.words import has_number

_SPAN_LISTS = 2  # one greedy, the others sampled
_SPAN_TOKENS = 28
_QUESTION_TOKENS = 32
_RIVALS = 2
# By eye on 32 held-out sentences: below these most questions are wrong, above them most are right.
_MIN_MARGIN = 0.08  # nats per token
_MIN_MARGIN_SURE = 0.03  # for questions likelier than _SURE_SCORE
_SURE_SCORE = -0.4
_MIN_SCORE = -1.0


class Passes:
    """The passes over one batch of atoms: span lists, one greedy question a candidate, sampled wordings; and in further
    rounds the latter two again, over candidates that nobody has asked about (see `wider`)."""

    def __init__(
        self, writer: LineWriter, atoms: list[AtomText], max_questions: int, seed: int, rounds: int = 1
    ) -> None:
        self.writer, self.atoms, self.max_questions, self.rounds = writer, atoms, max_questions, rounds
        self.streams = [stream(atom, seed) for atom in atoms]
        self.contexts = [" ".join((a.title, *a.headings, a.text)) for a in atoms]
        # Of one round: the number of a candidate in `owners` and `answers` is that of its stem too.
        self.owners: list[int] = []
        self.answers: list[str] = []
        self.found: list[list[Question]] = [[] for _ in atoms]
        self.tried: list[set[str]] = [set() for _ in atoms]

    def run(self, prefixes: Prefixes) -> list[list[Question]]:
        """The questions of each atom, best first; `prefixes` are theirs in the same order."""
        for number in range(self.rounds):
            self.owners, self.answers = [], []
            for index, listed in enumerate(self._candidates(prefixes) if number == 0 else self._unasked()):
                self.owners += [index] * len(listed)
                self.answers += [squeeze(candidate.text) for candidate in listed]
                self.tried[index] |= {candidate.text for candidate in listed}
            if self.owners:
                stems = self.writer.stems(prefixes, self.owners, [question_suffix(answer) for answer in self.answers])
                self._ask(stems, range(len(self.owners)), sampled=False)
                self._ask(stems, self._again((number + 1) * self.max_questions), sampled=True)
        most = self.rounds * self.max_questions
        return [
            select(questions, most, cloze_questions(atom, sure=True)) or cloze_questions(atom)[:most]
            for questions, atom in zip(self.found, self.atoms, strict=True)
        ]

    def _draws(self, atom: Sequence[int], limit: int, greedy: Sequence[bool]) -> np.ndarray:
        draws = np.full((len(atom), limit), np.nan)
        for row, index in enumerate(atom):
            if not greedy[row]:
                draws[row] = self.streams[index].random(limit)
        return draws

    def _candidates(self, prefixes: Prefixes) -> list[list[Candidate]]:
        atom = [index for index in range(len(self.atoms)) for _ in range(_SPAN_LISTS)]
        draws = self._draws(atom, _SPAN_TOKENS, [row % _SPAN_LISTS == 0 for row in range(len(atom))])
        stems = self.writer.stems(prefixes, range(len(self.atoms)), [SPAN_SUFFIX] * len(self.atoms))
        lines = self.writer.lines(stems, atom, _SPAN_TOKENS, draws)
        lists: list[list[list[str]]] = [[] for _ in self.atoms]
        for index, (line, _) in zip(atom, lines, strict=True):
            lists[index].append(line.split(SPAN_SEPARATOR.strip()))
        # Some questions will be dropped by the filters, so two more candidates than questions are asked.
        return [merge(a.text, spans, self.max_questions + 2) for a, spans in zip(self.atoms, lists, strict=True)]

    def _unasked(self) -> list[list[Candidate]]:
        """The first of what was no candidate of earlier rounds."""
        listed = [wider(atom.text, tried) for atom, tried in zip(self.atoms, self.tried, strict=True)]
        return [candidates[: self.max_questions + 2] for candidates in listed]

    def _ask(self, stems: Stems, asked: Sequence[int], sampled: bool) -> None:
        owners = [self.owners[number] for number in asked]
        draws = self._draws(owners, _QUESTION_TOKENS, [False] * len(owners)) if sampled else None

        def hopeless(row: int, begun: str) -> bool:
            return doomed(begun, self.answers[asked[row]], self.contexts[owners[row]])

        lines = self.writer.lines(stems, asked, _QUESTION_TOKENS, draws, hopeless, _MIN_SCORE)
        passed = []
        for number, index, (line, score) in zip(asked, owners, lines, strict=True):
            question = Question(text=line, answer=self.answers[number], kind="written", score=round(score, 4))
            new = all(question.text != other.text for other in self.found[index])
            if new and score >= _MIN_SCORE and acceptable(question, self.contexts[index]):
                passed.append((index, question))
        self._verify(stems, passed)

    def _verify(self, stems: Stems, written: Sequence[tuple[int, Question]]) -> None:
        """Keep a question only if its own answer makes it likelier than other candidates do.

        By Bayes' rule and equal priors p(answer | question) is in proportion to p(question | answer), which
        the writer gives; so this asks whether the question would be answered by its answer. The two rivals
        are those most alike in kind, which is where writers go wrong.
        """
        pairs = [(at, rival) for at, (index, question) in enumerate(written) for rival in self._rivals(index, question)]
        texts = [written[at][1].text for at, _ in pairs]
        scores = self.writer.scores(stems, [rival for _, rival in pairs], texts)
        best: dict[int, float] = {}
        for (at, _), score in zip(pairs, scores, strict=True):
            best[at] = max(score, best.get(at, score))
        for at, (index, question) in enumerate(written):
            own = question.score if question.score is not None else 0.0
            margin = _MIN_MARGIN_SURE if own >= _SURE_SCORE else _MIN_MARGIN
            if at not in best or own - best[at] >= margin:
                self.found[index].append(question)

    def _of(self, index: int) -> list[int]:
        """The numbers of one atom's candidates."""
        return [number for number, owner in enumerate(self.owners) if owner == index]

    def _rivals(self, index: int, question: Question) -> list[int]:
        others = [n for n in self._of(index) if self.answers[n] != question.answer]
        open_ones = [n for n in others if not gives_away(question.text, self.answers[n])]
        return sorted(open_ones, key=lambda n: _kind(self.answers[n]) != _kind(question.answer))[:_RIVALS]

    def _again(self, most: int) -> list[int]:
        """Where there is room up to `most` questions: first candidates that have no question yet, then those with the
        best questions."""
        chosen = []
        for index, found in enumerate(self.found):
            best = {q.answer: q.score or 0.0 for q in found}
            numbers = self._of(index)
            bare = [n for n in numbers if self.answers[n] not in best]
            rest = sorted((n for n in numbers if self.answers[n] in best), key=lambda n: -best[self.answers[n]])
            chosen += (bare + rest)[: max(0, most - len(best))]
        return chosen


def _kind(answer: str) -> str:
    """Numbers, names and the rest: answers of one kind are taken for each other."""
    if has_number(answer):
        return "number"
    return "name" if any(word[0].isupper() for word in answer.split()) else "other"
