"""Trains many atoms at once: one frozen forward, stacked factors, one optimiser clock per atom, early exit.

Each step an atom sees its own questions, with its weight and its neighbours' drawn as serving draws them (mixed
visibility), and a few rows of the silence bank, on which it must leave the base's output alone. A token that has
passed leaves the loss (MemFT), and the arithmetic with it: a step looks at whole answers without gradients, and
computes again, with gradients, only the columns whose tokens did not pass; over a training they are a fifth of all.
A row's random stream derives from the atom's identity and the atom's own step, never from its batch mates.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from atomlora.atom import Target
from atomlora.settings import AdapterSettings, TrainSettings
from atomlora.training.adapters import FrozenPool, StackedAdapters
from atomlora.training.groups import Group, padded_length
from atomlora.training.objective import LOSS_TOKENS, CandidateHead, Candidates, answer_nll, silence_loss
from atomlora.training.pace import pace_of
from atomlora.training.rows import IGNORED, LateRows, columns_of
from atomlora.training.silence import SilenceBank
from atomlora.training.trunk import Example, Trunk, alike, late_forward, whole_cache
from atomlora.training.visibility import Mounted, drawn, mixture
from atomlora.training.whitening import Whitener

BATCH_ROWS = 64  # rows of one pass through the late blocks
NARROW_RATIO = 3.0  # of the columns of rows in one pass with gradients: padding costs less there than more passes


@dataclass(frozen=True)
class AtomJob:
    """An atom to be trained: its identity and its examples, in the order of its questions."""

    identity: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TrainedAtom:
    """A finished atom. `passed[i]` tells whether example i is greedy under the full head, atom alone at weight 1.
    One whose training diverged has passed nothing: its record is zero and its loss that of a blind guess."""

    identity: str
    record: np.ndarray
    steps: int
    loss: float
    passed: tuple[bool, ...]
    seconds: float


@dataclass
class _Slot:
    """An atom in training, the random stream that its identity gives it, and the tokens that compete with its
    answers'."""

    job: AtomJob
    random: np.random.Generator
    watched: Tensor
    started: float
    steps: int = 0

    def watch(self, tokens: Tensor) -> None:
        self.watched = torch.cat([self.watched, tokens]).unique()


class _Drawn(NamedTuple):
    """A row of a step: in the group of which padded length, which row, and what is mounted on it."""

    length: int
    row: int
    mounted: Mounted


class Trainer:
    """`run(jobs)` yields atoms as they finish; at most `slots` atoms are in flight."""

    def __init__(
        self,
        model: Any,
        trunk: Trunk,
        targets: tuple[Target, ...],
        adapter: AdapterSettings,
        settings: TrainSettings,
        slots: int,
        bank: SilenceBank | None = None,
        pool: FrozenPool | None = None,
        whitening: Sequence[Whitener] | None = None,
    ) -> None:
        self.model, self.trunk, self.settings = model, trunk, settings
        self.head = CandidateHead(model)
        self.pace = pace_of(model)
        self.adapters = StackedAdapters(model, targets, slots, adapter.rank, adapter.alpha, pool, whitening)
        self.bank = bank if settings.silent else None
        self._free = list(range(slots))
        self._slots: dict[int, _Slot] = {}
        self._groups: dict[int, Group] = {}

    def run(self, jobs: Iterable[AtomJob]) -> Iterator[TrainedAtom]:
        """Train every job, taken as slots get free; atoms come as they finish, not in the order of the jobs. One that
        has not passed after `max_steps` comes too, `passed` says so."""
        queue = iter(jobs)
        exhausted = False
        total = len(self._free)
        while True:
            # Refilling by halves keeps batches full without a trunk pass for each single atom.
            if not exhausted and len(self._free) * 2 >= total:
                exhausted = self._admit(queue)
            if not self._slots:
                return
            self._step()
            yield from self._finish()

    def _admit(self, queue: Iterator[AtomJob]) -> bool:
        """Fill the free slots; True when no job is left."""
        new: dict[int, list[tuple[Example, int, int]]] = defaultdict(list)
        exhausted = False
        while self._free:
            job = next(queue, None)
            if job is None:
                exhausted = True
                break
            index = self._free.pop()
            self.adapters.reset(index, job.identity)
            tokens = sorted({t for e in job.examples for t in e.answer})
            self._slots[index] = _Slot(
                job=job,
                random=np.random.default_rng(int(job.identity[:16], 16)),
                watched=torch.tensor(tokens, device=self.model.device),
                started=time.perf_counter(),
            )
            for number, example in enumerate(job.examples):
                new[padded_length(len(example.answer))].append((example, index, number))
        for length, found in new.items():
            examples, owners, numbers = zip(*found, strict=True)
            group = Group.of(self.trunk.rows(examples, owners, length), numbers)
            self._groups[length] = self._groups[length].with_rows(group) if length in self._groups else group
        return exhausted

    # one step ------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        active: set[int] = set()
        for some in self._batches(self._draw()):
            active |= self._learn(some)
        if active:
            order = sorted(active)
            if self.bank is not None:
                self._silence(self.bank, order)
            decay = torch.tensor([self._decay(self._slots[slot].steps) for slot in order], device=self.model.device)
            slots = torch.tensor(order, device=self.model.device)
            rate_a, rate_b = self.settings.learning_rate_a * self.pace.a, self.settings.learning_rate_b * self.pace.b
            self.adapters.step(slots, rate_a, rate_b, decay)
        for slot in self._slots.values():
            slot.steps += 1

    def _decay(self, steps: int) -> float:
        return max(self.settings.learning_rate_floor, 1 - steps / self.settings.decay_steps)

    def _draw(self) -> list[_Drawn]:
        """`rows_per_step` rows of every atom, those that have not passed first, else in random order."""
        found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for length, group in self._groups.items():
            for row, asked in enumerate(group.asked):
                found[asked.owner].append((asked.example, length, row))
        neighbours = len(self.adapters.pool) if self.adapters.pool is not None else 0
        chosen = []
        for owner, places in found.items():
            random = self._slots[owner].random
            places.sort()  # by question: no trace of where its rows stand in a batch
            mixed = [places[i] for i in random.permutation(len(places)).tolist()]
            mixed.sort(key=lambda place: self._groups[place[1]].asked[place[2]].passed)
            for _, length, row in mixed[: self.settings.rows_per_step]:
                chosen.append(_Drawn(length, row, drawn(random, self.settings, neighbours)))
        return chosen

    def _batches(self, rows: Sequence[_Drawn]) -> Iterator[list[_Drawn]]:
        """The rows in batches of one group and of like answer length."""
        for length, group in self._groups.items():
            mine = {one.row: one for one in rows if one.length == length}
            lengths = [asked.length for asked in group.asked]
            for part in alike(mine, lengths.__getitem__, BATCH_ROWS):
                yield [mine[row] for row in part]

    def _learn(self, some: Sequence[_Drawn]) -> set[int]:
        """Add the gradients of one batch; returns the atoms that have any."""
        group, rows = self._rows(some)
        with torch.no_grad():
            hidden, cache = self._late(rows, [one.mounted for one in some])
            candidates = self._candidates(rows)
            nll = answer_nll(self.head.logits(hidden, candidates), candidates)
            failed = (rows.targets != IGNORED) & ~(torch.exp(-nll) > self.settings.pass_probability)  # NaN too
        self._watch(rows, hidden, failed)
        many = failed.sum(1).tolist()
        for one, wrong in zip(some, many, strict=True):
            group.asked[one.row].passed = not wrong
        failing = [i for i, wrong in enumerate(many) if wrong]
        for part in alike(failing, many.__getitem__, BATCH_ROWS, ratio=NARROW_RATIO):
            picked = torch.tensor(part, device=failed.device)
            columns = columns_of(failed[picked])
            narrow = rows.narrowed(picked, columns, cache.layers[self.trunk.first_late :])
            hidden, _ = self._late(narrow, [some[i].mounted for i in part])
            few = candidates.narrowed(picked, columns)
            loss = (answer_nll(self.head.logits(hidden, few), few) * (columns >= 0)).sum()
            (loss / LOSS_TOKENS).backward()
        return {group.asked[some[i].row].owner for i in failing}

    def _rows(self, some: Sequence[_Drawn]) -> tuple[Group, LateRows]:
        """The group that the rows are of, and they, cut to their longest answer."""
        group = self._groups[some[0].length]
        rows = group.rows.select(torch.tensor([one.row for one in some], device=self.model.device))
        return group, rows.cut(max(group.asked[one.row].length for one in some))

    def _late(self, rows: LateRows, mounted: Sequence[Mounted]) -> tuple[Tensor, Any]:
        """The rows' last hidden states and the late blocks' cache."""
        cache = whole_cache()
        with self.adapters.mounted(mixture(rows.owner, mounted)):
            return late_forward(self.model, self.trunk.first_late, rows, cache), cache

    def _candidates(self, rows: LateRows) -> Candidates:
        return self.head.candidates(rows, self._watched(rows.owner.tolist()))

    def _watched(self, owners: Sequence[int]) -> Tensor:
        """(B, L) int64: the tokens that each row's atom watches, IGNORED behind."""
        watched = [self._slots[owner].watched for owner in owners]
        return pad_sequence(watched, batch_first=True, padding_value=IGNORED)

    def _watch(self, rows: LateRows, hidden: Tensor, failed: Tensor) -> None:
        """Every few steps of an atom, the tokens that the full head finds likely by now where it failed join its
        candidates."""
        owners = rows.owner.tolist()
        due = [self._slots[owner].steps % self.settings.refresh_every == 0 for owner in owners]
        chosen = failed & torch.tensor(due, device=failed.device)[:, None]
        likely = self.head.likely(hidden[chosen])
        column_owner = rows.owner[:, None].expand_as(chosen)[chosen]
        for owner in column_owner.unique().tolist():
            self._slots[owner].watch(likely[column_owner == owner].flatten())

    def _silence(self, bank: SilenceBank, active: Sequence[int]) -> None:
        owners = [owner for owner in active for _ in range(self.settings.silence_rows)]
        picks, mounted = zip(*(bank.drawn(self._slots[owner].random, self.settings) for owner in owners), strict=True)
        owner = torch.tensor(owners, device=self.model.device)
        picked = torch.tensor(picks, device=self.model.device)
        rows = bank.rows.select(picked, owner)
        tokens = torch.cat([bank.likely[picked], self._watched(owners)], dim=1)
        candidates = self.head.candidates(rows, tokens, with_teacher=True)
        with self.adapters.mounted(mixture(owner, mounted)):
            hidden = late_forward(self.model, self.trunk.first_late, rows)
        losses = silence_loss(self.head.logits(hidden, candidates), candidates, rows.targets != IGNORED)
        (losses.sum() * (self.settings.silence_weight / self.settings.silence_rows)).backward()

    # leaving -------------------------------------------------------------------------------------------------

    def _finish(self) -> Iterator[TrainedAtom]:
        learning = {asked.owner for group in self._groups.values() for asked in group.asked if not asked.passed}
        most = self.settings.max_steps
        due = [index for index, slot in self._slots.items() if index not in learning or slot.steps >= most]
        if not due:
            return
        verdict = self._exact(due)
        for index in due:
            passed, loss = verdict[index]
            slot = self._slots[index]
            if not all(passed) and slot.steps < most:
                continue
            del self._slots[index]
            self._free.append(index)
            record = self.adapters.record(index)
            if not (np.isfinite(loss) and self.adapters.finite(index)):
                record, passed = np.zeros_like(record), [False] * len(passed)
                loss = float(np.log(self.head.weight.shape[0]))
            yield TrainedAtom(
                identity=slot.job.identity,
                record=record,
                steps=slot.steps,
                loss=loss,
                passed=tuple(passed),
                seconds=time.perf_counter() - slot.started,
            )
        kept = {length: group.keep(self._slots) for length, group in self._groups.items()}
        self._groups = {length: group for length, group in kept.items() if group is not None}

    @torch.no_grad()
    def _exact(self, slots: Sequence[int]) -> dict[int, tuple[list[bool], float]]:
        """Every example of these atoms under the full head, atom alone at weight 1, with the weights as stored: which
        are greedy, and the mean NLL. What is likelier than their tokens is watched from now on."""
        self.adapters.round_to_storage(torch.tensor(slots, device=self.model.device))
        passed = {slot: [False] * len(self._slots[slot].job.examples) for slot in slots}
        losses: dict[int, list[float]] = {slot: [] for slot in slots}
        checked = [
            _Drawn(length, row, Mounted())
            for length, group in self._groups.items()
            for row, asked in enumerate(group.asked)
            if asked.owner in passed
        ]
        for some in self._batches(checked):
            group, rows = self._rows(some)
            hidden, _ = self._late(rows, [one.mounted for one in some])
            real = rows.targets != IGNORED
            best, nll = self.head.exact(hidden[real], rows.targets[real])
            wrong, cost = torch.zeros_like(real), torch.zeros(real.shape, device=real.device)
            wrong[real], cost[real] = best != rows.targets[real], nll
            column_owner = rows.owner[:, None].expand_as(real)[real]
            for owner in column_owner.unique().tolist():
                self._slots[owner].watch(best[column_owner == owner])
            means = (cost.sum(1) / real.sum(1)).tolist()
            for one, failed, loss in zip(some, wrong.any(1).tolist(), means, strict=True):
                asked = group.asked[one.row]
                asked.passed = passed[asked.owner][asked.example] = not failed
                losses[asked.owner].append(loss)
        return {slot: (passed[slot], float(np.mean(losses[slot]))) for slot in slots}
