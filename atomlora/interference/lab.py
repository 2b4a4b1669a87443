"""Stored atoms on the base, any mixture of them, under teacher forcing: only answer tokens x late blocks are computed.

What the compiler trains with is what is measured with: frozen rows of the trunk, and the atoms in a frozen pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomlora.atom import Atom, Target, split_record
from atomlora.bases import Base
from atomlora.prompts import answer_ids, common_prefix
from atomlora.training.adapters import FrozenPool, StackedAdapters
from atomlora.training.objective import HEAD_COLUMNS, CandidateHead
from atomlora.training.rows import IGNORED, LateRows
from atomlora.training.trunk import Example, Trunk, alike, late_forward
from atomlora.training.visibility import Mounted, mixture
from atomlora.wordings import training_wordings

PASS_ROWS = 64  # rows of one pass through the late blocks
Weights = Callable[[Atom], np.ndarray]


@dataclass(frozen=True)
class Stack:
    """What one row mounts: atoms by their places in the lab, with their weights."""

    atoms: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def at_one(cls, *atoms: int) -> Stack:
        """These atoms at weight 1."""
        return cls(atoms, (1.0,) * len(atoms))


@dataclass(frozen=True)
class Outcome:
    """Of B rows under a mixture: whether every answer token is greedy (B,) bool, and the mean NLL per answer token
    (B,) float32 in nats, both under the full head."""

    passed: Tensor
    nll: Tensor


class Lab:
    """A base, and some atoms of a store in reach, whose weights come as records (uint16, bfloat16)."""

    def __init__(self, base: Base, targets: tuple[Target, ...]) -> None:
        self.base, self.targets = base, targets
        first_late = min(target.layer for target in targets)
        self.trunk = Trunk(base.model, first_late, common_prefix(base.tokenizer), base.tokenizer.pad_token_id)
        self.head = CandidateHead(base.model)
        self._adapters: StackedAdapters | None = None
        self.atoms: list[Atom] = []

    def mount(self, atoms: Sequence[Atom], weights: Weights) -> None:
        """Have these atoms in reach instead of those before."""
        self.atoms = list(atoms)
        records = [weights(atom) for atom in self.atoms]
        self.reach(frozen_pool(self.atoms, records, self.targets, self.base.model.device))

    def reach(self, pool: FrozenPool) -> None:
        """Have the adapters of a pool in reach, by their places in it."""
        self._adapters = StackedAdapters(self.base.model, self.targets, 1, 1, 1.0, pool)

    def mount_for(self, atoms: Sequence[Atom], weights: Weights, stacks: Sequence[Stack]) -> list[Stack]:
        """Have those of `atoms` in reach that `stacks` name by their numbers; returns the stacks by their places."""
        used = sorted({number for stack in stacks for number in stack.atoms})
        place = {number: at for at, number in enumerate(used)}
        self.mount([atoms[number] for number in used], weights)
        return [Stack(tuple(place[number] for number in stack.atoms), stack.weights) for stack in stacks]

    @property
    def pool(self) -> FrozenPool:
        """Their factors; scaling is 1, as each atom's own stands in its Bt."""
        assert self._adapters is not None
        assert self._adapters.pool is not None
        return self._adapters.pool

    def statement(self, number: int) -> Tensor:
        """Token ids (n,) of what the atom at that place is trained to say."""
        tokenizer = self.base.tokenizer
        return torch.tensor(answer_ids(tokenizer, self.atoms[number].text), device=self.base.model.device)

    def rows(self, examples: Sequence[Example], with_final: bool = False) -> LateRows:
        """Frozen rows of the examples; `with_final` adds the bare base's last hidden states."""
        return self.trunk.rows(examples, range(len(examples)), with_final=with_final)

    @contextmanager
    def mounted(self, stacks: Sequence[Stack]) -> Iterator[None]:
        """Within: row i of a batch mounts `stacks[i]`."""
        assert self._adapters is not None
        owner = torch.zeros(len(stacks), dtype=torch.int64, device=self.base.model.device)
        with self._adapters.mounted(mixture(owner, [Mounted(0.0, s.atoms, s.weights) for s in stacks])):
            yield

    @torch.no_grad()
    def hidden(self, rows: LateRows, stacks: Sequence[Stack]) -> Tensor:
        """Last hidden states (B, T, d) of one batch."""
        with self.mounted(stacks):
            return late_forward(self.base.model, self.trunk.first_late, rows)

    def batches(
        self, rows: LateRows, picks: Sequence[int], stacks: Sequence[Stack]
    ) -> Iterator[tuple[list[int], LateRows, list[Stack]]]:
        """Rows `picks` (repeats allowed) under their stacks in batches of like length and number of atoms: (numbers
        of the picks, their rows, their stacks)."""
        lengths = (rows.targets != IGNORED).sum(1).tolist()
        for width in sorted({len(stack.atoms) for stack in stacks}):
            mine = [number for number, stack in enumerate(stacks) if len(stack.atoms) == width]
            for part in alike(mine, lambda number: lengths[picks[number]], PASS_ROWS):
                chosen = rows.select(torch.tensor([picks[number] for number in part], device=rows.hidden.device))
                yield part, chosen.cut(max(lengths[picks[n]] for n in part)), [stacks[n] for n in part]

    @torch.no_grad()
    def outcome(self, rows: LateRows, picks: Sequence[int], stacks: Sequence[Stack]) -> Outcome:
        """How rows `picks` fare, each under its stack."""
        passed = torch.zeros(len(picks), dtype=torch.bool)
        nll = torch.zeros(len(picks))
        for part, chosen, mounts in self.batches(rows, picks, stacks):
            hidden, real = self.hidden(chosen, mounts), chosen.targets != IGNORED
            best, cost = self.head.exact(hidden[real], chosen.targets[real])
            wrong, costs = torch.zeros_like(real), torch.zeros(real.shape, device=real.device)
            wrong[real], costs[real] = best != chosen.targets[real], cost
            passed[part] = ~wrong.any(1).cpu()
            nll[part] = (costs.sum(1) / real.sum(1)).cpu()
        return Outcome(passed, nll)

    @torch.no_grad()
    def divergence(self, hidden: Tensor, reference: Tensor) -> Tensor:
        """KL(reference || hidden) of N columns (N, d) in nats under the full head, (N,)."""
        parts = []
        for mixed, known in zip(hidden.split(HEAD_COLUMNS), reference.split(HEAD_COLUMNS), strict=True):
            teacher = torch.log_softmax(self.head.full_logits(known).float(), -1)
            student = torch.log_softmax(self.head.full_logits(mixed).float(), -1)
            parts.append((teacher.exp() * (teacher - student)).sum(-1))
        return torch.cat(parts) if parts else hidden.new_zeros(0)


def frozen_pool(
    atoms: Sequence[Atom], records: Sequence[np.ndarray], targets: tuple[Target, ...], device: Any
) -> FrozenPool:
    """The atoms' factors stacked in float32, smaller ranks filled up with zeros, scaling multiplied into Bt."""
    rank = max((atom.rank for atom in atoms), default=1)
    factors = [(torch.zeros(len(atoms), rank, t.d_in), torch.zeros(len(atoms), rank, t.d_out)) for t in targets]
    for number, (atom, record) in enumerate(zip(atoms, records, strict=True)):
        flat = (record.astype(np.uint32) << 16).view(np.float32)
        for (a, bt), (mine_a, mine_bt) in zip(factors, split_record(flat, atom.rank, targets), strict=True):
            a[number, : atom.rank] = torch.from_numpy(mine_a.copy())
            bt[number, : atom.rank] = torch.from_numpy(mine_bt.copy()) * atom.scaling
    return FrozenPool(factors=tuple((a.to(device), bt.to(device)) for a, bt in factors), scaling=1.0)


def wordings(atom: Atom) -> list[tuple[str, str]]:
    """What the atom was trained on: (question, statement)."""
    return [(wording.question, wording.answer) for wording in training_wordings(atom)]
