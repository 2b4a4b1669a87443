"""Rows in training, kept in a few groups, each padded to one answer length."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from atomlora.compiler.rows import IGNORED, LateRows, joined


@dataclass
class Group:
    """Rows padded to one answer length; `example` is each row's place in its atom's questions, `passed` whether all
    its tokens passed when it was last looked at."""

    rows: LateRows
    example: list[int]
    passed: list[bool]
    owners: list[int]
    lengths: list[int]

    @classmethod
    def of(cls, rows: LateRows, example: Sequence[int]) -> Group:
        lengths = (rows.targets != IGNORED).sum(1).tolist()
        return cls(rows, list(example), [False] * len(rows), rows.owner.tolist(), lengths)

    def with_rows(self, more: Group) -> Group:
        lists = ("example", "passed", "owners", "lengths")
        return Group(joined([self.rows, more.rows]), *(getattr(self, name) + getattr(more, name) for name in lists))

    def keep(self, owners: Container[int]) -> Group | None:
        """The rows of these atoms; None where there are none."""
        kept = [row for row, owner in enumerate(self.owners) if owner in owners]
        if len(kept) == len(self.owners) or not kept:
            return self if kept else None
        rows = self.rows.select(torch.tensor(kept, device=self.rows.owner.device))
        lists = (self.example, self.passed, self.owners, self.lengths)
        return Group(rows, *([values[row] for row in kept] for values in lists))  # type: ignore[arg-type]


def padded_length(length: int) -> int:
    """The next of 16, 32, 64, …: answers padded to a few lengths can be kept in a few groups."""
    return max(16, 1 << (length - 1).bit_length())
