"""Questions without a model (`--question-writer none`): the text with a blank for each name, number or
complement."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from atomlora.questions.candidates import Candidate, supplement
from atomlora.questions.prompts import squeeze, title_path
from atomlora.questions.types import AtomText, Question
from atomlora.questions.wider import wider
from atomlora.questions.words import STOP_WORDS

BLANK = "____"
_STATEMENT_WORDS = 8


class ClozeWriter:
    """Model-free writer: "Fill in the blank" for every pattern candidate, else the statement's end as the
    answer."""

    name = "none"
    of_base = False

    def __init__(self, rounds: int = 1) -> None:
        self.rounds = rounds
        self.digest = "cloze-1" if rounds == 1 else f"cloze-1-rounds-{rounds}"

    def close(self) -> None:
        """Nothing to free."""

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` per atom and round, in text order; none only for a text of fewer than two words."""
        written = []
        for done, atom in enumerate(atoms, start=1):
            blanks = cloze_questions(atom)
            if self.rounds > 1:
                blanks += [_blanked(atom, candidate) for candidate in wider(atom.text, [q.answer for q in blanks])]
            written.append(blanks[: max_questions * self.rounds])
            if progress is not None:
                progress(done, len(atoms))
        return written


def cloze_questions(atom: AtomText, sure: bool = False) -> list[Question]:
    """All blanks of one atom; where there is no candidate, one question that asks for the statement's end.

    `sure`: only the blanks of names, numbers and the like, without complements and statements.
    """
    questions: dict[str, Question] = {}
    for candidate in supplement(atom.text):
        if sure and not candidate.pattern:
            continue
        questions.setdefault(candidate.text, _blanked(atom, candidate))
    if questions or sure:
        return list(questions.values())
    parts = squeeze(atom.text).split()
    tail = max(1, min(_STATEMENT_WORDS, len(parts) // 2))
    # A statement's end that begins with "of the" is hard to tell apart: begin it at a word that says
    # something.
    while tail > 1 and parts[-tail].lower() in STOP_WORDS:
        tail -= 1
    if len(parts) < 2:
        return []
    text = f"Complete the statement{_about(atom)}: {' '.join(parts[:-tail])} {BLANK}"
    return [Question(text=text, answer=" ".join(parts[-tail:]).rstrip(".;:,"), kind="statement")]


def _about(atom: AtomText) -> str:
    path = title_path(atom.title, atom.headings)
    return f" ({path})" if path else ""


def _blanked(atom: AtomText, candidate: Candidate) -> Question:
    """Every occurrence of the answer is blanked, or the question would give it away."""
    pattern = re.compile(rf"(?<!\w){re.escape(candidate.text)}(?!\w)")
    blanked = pattern.sub(BLANK, atom.text)
    if BLANK not in blanked:
        blanked = atom.text[: candidate.start] + BLANK + atom.text[candidate.end :]
    text = f"Fill in the blank{_about(atom)}: {squeeze(blanked)}"
    return Question(text=text, answer=squeeze(candidate.text), kind="cloze")
