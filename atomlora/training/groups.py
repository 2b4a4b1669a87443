"""Rows in training, kept in a few groups, each padded to one answer length."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from atomlora.training.rows import IGNORED, LateRows, joined


@dataclass
class Asked:
    """A row: its atom's slot, its place among the atom's questions, how many tokens its answer has, and whether all
    of them passed when it was last looked at."""

    owner: int
    example: int
    length: int
    passed: bool = False


@dataclass(frozen=True)
class Group:
    """Rows padded to one answer length, and what each of them is."""

    rows: LateRows
    asked: list[Asked]

    @classmethod
    def of(cls, rows: LateRows, examples: Sequence[int]) -> Group:
        """Rows that have not been looked at yet."""
        lengths = (rows.targets != IGNORED).sum(1).tolist()
        return cls(rows, [Asked(*row) for row in zip(rows.owner.tolist(), examples, lengths, strict=True)])

    def with_rows(self, more: Group) -> Group:
        return Group(joined([self.rows, more.rows]), self.asked + more.asked)

    def keep(self, owners: Container[int]) -> Group | None:
        """The rows of these atoms; None where there are none."""
        kept = [row for row, asked in enumerate(self.asked) if asked.owner in owners]
        if len(kept) == len(self.asked) or not kept:
            return self if kept else None
        rows = self.rows.select(torch.tensor(kept, device=self.rows.owner.device))
        return Group(rows, [self.asked[row] for row in kept])


def padded_length(length: int) -> int:
    """The next of 16, 32, 64, …: answers padded to a few lengths can be kept in a few groups."""
    return max(16, 1 << (length - 1).bit_length())
