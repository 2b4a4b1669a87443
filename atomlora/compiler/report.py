"""What a compile run's report and its version's statistics count."""

from __future__ import annotations

from collections.abc import Sequence

from atomlora.atom import BEHAVIOUR, Atom
from atomlora.compiler.progress import FailedAtom


def atom_counts(atoms: Sequence[Atom], before: Sequence[Atom]) -> dict[str, int]:
    """How many atoms the version has, and how it differs from the one `before`."""
    now, then = {atom.id for atom in atoms}, {atom.id for atom in before}
    return {
        "atoms_total": len(atoms),
        "atoms_new": len(now - then),
        "atoms_kept": len(now & then),
        "atoms_removed": len(then - now),
        "atoms_failed": sum(not atom.record.passed for atom in atoms),
    }


def failures(atoms: Sequence[Atom]) -> tuple[FailedAtom, ...]:
    """The atoms that did not learn all of their questions."""
    return tuple(_failure(atom) for atom in atoms if not atom.record.passed)


def _failure(atom: Atom) -> FailedAtom:
    source = atom.provenances[0].source if atom.provenances else ""
    if atom.type == BEHAVIOUR:  # one line of the file an example
        failed = next(i for i, q in enumerate(atom.questions) if q.text in atom.record.failed_questions)
        source = atom.provenances[failed].source
    return FailedAtom(id=atom.id, text=atom.text, source=source, questions=atom.record.failed_questions)
