"""Trains many atoms at once: one frozen forward, stacked factors, one optimiser clock per atom, early exit.

Each step an atom sees its own questions, with its weight and its neighbours' drawn as serving draws them (mixed
visibility), and a few rows of the silence bank, on which it must leave the base's output alone. A row's random
stream derives from the atom's identity and the atom's own step, never from its batch mates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomlora.atom import Target
from atomlora.compiler.adapters import FrozenPool, Mixture, StackedAdapters
from atomlora.compiler.objective import CandidateHead, answer_loss, silence_loss
from atomlora.compiler.silence import SilenceBank
from atomlora.compiler.trunk import IGNORED, Example, LateRows, Trunk, late_forward
from atomlora.settings import AdapterSettings, TrainSettings

RISEN_TOKENS = 4


@dataclass(frozen=True)
class AtomJob:
    """An atom to be trained: its identity and its examples, in the order of its questions."""

    identity: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TrainedAtom:
    """A finished atom. `passed[i]` tells whether example i is greedy under the full head, atom alone at weight 1."""

    identity: str
    record: np.ndarray
    steps: int
    loss: float
    passed: tuple[bool, ...]
    seconds: float


@dataclass
class _Slot:
    """An atom in training, the random stream that its identity gives it, and the tokens that silence watches."""

    job: AtomJob
    random: np.random.Generator
    watched: Tensor
    started: float
    passed: list[bool]
    steps: int = 0

    def draw_examples(self, many: int) -> set[int]:
        """Which examples this step trains: those that have not passed first, in random order."""
        order = self.random.permutation(len(self.passed)).tolist()
        return set(sorted(order, key=lambda i: self.passed[i])[:many])


@dataclass
class _Group:
    """Rows of similar answer length; `likely` (B, L) are the tokens to compete with, `example` (B,) is each row's
    place in its atom's questions."""

    rows: LateRows
    likely: Tensor
    example: Tensor
    steps: int = 0

    def keep(self, rows: Tensor) -> _Group:
        return _Group(self.rows.select(rows), self.likely[rows], self.example[rows], self.steps)


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
    ) -> None:
        self.model, self.trunk, self.settings = model, trunk, settings
        self.head = CandidateHead(model)
        self.adapters = StackedAdapters(model, targets, slots, adapter.rank, adapter.alpha, pool)
        self.bank = bank if settings.silence_rows and settings.silence_weight else None
        self._free = list(range(slots))
        self._slots: dict[int, _Slot] = {}
        self._groups: list[_Group] = []

    @property
    def pool(self) -> FrozenPool | None:
        """The distractors that are mounted; they may be handed to the adapters later than to the trainer."""
        return self.adapters.pool

    def run(self, jobs: Iterable[AtomJob]) -> Iterator[TrainedAtom]:
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
        examples: list[Example] = []
        owners: list[int] = []
        numbers: list[int] = []
        exhausted = False
        while self._free:
            job = next(queue, None)
            if job is None:
                exhausted = True
                break
            slot = self._free.pop()
            self.adapters.reset(slot, job.identity)
            tokens = sorted({t for e in job.examples for t in e.answer})
            self._slots[slot] = _Slot(
                job=job,
                random=np.random.default_rng(int(job.identity[:16], 16)),
                watched=torch.tensor(tokens, device=self.model.device),
                started=time.perf_counter(),
                passed=[False] * len(job.examples),
            )
            examples += job.examples
            owners += [slot] * len(job.examples)
            numbers += range(len(job.examples))
        if examples:
            for group in self.trunk.order(examples):
                rows = self.trunk.rows([examples[i] for i in group], [owners[i] for i in group])
                example = torch.tensor([numbers[i] for i in group])
                self._groups.append(_Group(rows, self.head.likely(rows.final), example))
        return exhausted

    # one step ------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        live = {i: slot.draw_examples(self.settings.rows_per_step) for i, slot in self._slots.items()}
        for group in self._groups:
            group.steps += 1
            pairs = zip(group.rows.owner.tolist(), group.example.tolist(), strict=True)
            chosen = [row for row, (owner, example) in enumerate(pairs) if example in live[owner]]
            if chosen:
                self._answer(group, chosen)
        if self.bank is not None:
            self._silence()
        active = torch.tensor(sorted(self._slots), device=self.model.device)
        self.adapters.step(active, self.settings.learning_rate_a, self.settings.learning_rate_b)
        for slot in self._slots.values():
            slot.steps += 1

    def _answer(self, group: _Group, chosen: list[int]) -> None:
        picked = torch.tensor(chosen, device=self.model.device)
        whole = len(chosen) == len(group.rows)
        rows = group.rows if whole else group.rows.select(picked)
        with self.adapters.mounted(self._draw(rows.owner)):
            hidden = late_forward(self.model, self.trunk.first_late, rows)
        if group.steps % self.settings.refresh_every == 0:
            self._refresh(group, picked, hidden.detach())
        candidates = self.head.candidates(rows, group.likely[picked])
        logits = self.head.logits(hidden, candidates)
        losses, passed = answer_loss(logits, candidates, rows.targets != IGNORED, self.settings.pass_probability)
        examples = group.example[picked.cpu()].tolist()
        for owner, example, ok in zip(rows.owner.tolist(), examples, passed.tolist(), strict=True):
            self._slots[owner].passed[example] = ok
        losses.sum().backward()

    def _refresh(self, group: _Group, picked: Tensor, hidden: Tensor) -> None:
        """Let the tokens that the full head finds likely by now join the candidates of the rows `picked`."""
        risen = self.head.likely(hidden, RISEN_TOKENS)
        for row, owner in zip(risen, group.rows.owner[picked].tolist(), strict=True):
            slot = self._slots[owner]
            slot.watched = torch.cat([slot.watched, row]).unique()
        added = torch.full((len(group.rows), risen.shape[1]), IGNORED, device=risen.device)
        added[picked] = risen
        group.likely = torch.cat([group.likely, added], dim=1)

    def _silence(self) -> None:
        assert self.bank is not None
        picks, owners, own, others, extra = [], [], [], [], []
        for index, slot in sorted(self._slots.items()):
            for pick in slot.random.integers(0, len(self.bank), self.settings.silence_rows):
                picks.append(int(pick))
                owners.append(index)
                whole = slot.random.random() < self.settings.silence_at_full_gate
                own.append(1.0 if whole else slot.random.uniform(0, self.settings.silence_gate_max))
                others.append(self.bank.companion[int(pick)])
                extra.append(slot.watched)
        device = self.model.device
        owner = torch.tensor(owners, device=device)
        picked = torch.tensor(picks, device=device)
        rows = self.bank.rows.select(picked, owner)
        padded = torch.nn.utils.rnn.pad_sequence(extra, batch_first=True, padding_value=IGNORED)
        candidates = self.head.candidates(rows, self.bank.likely[picked], padded, with_teacher=True)
        companions = torch.tensor(others, device=device)[:, None]
        mixture = Mixture(
            own_slots=owner,
            own_weights=torch.tensor(own, device=device),
            other_slots=companions.clamp(min=0) if self.pool is not None else None,
            other_weights=(companions >= 0).float(),
        )
        with self.adapters.mounted(mixture):
            hidden = late_forward(self.model, self.trunk.first_late, rows)
        losses = silence_loss(self.head.logits(hidden, candidates), candidates, rows.targets != IGNORED)
        (losses.sum() * (self.settings.silence_weight / self.settings.silence_rows)).backward()

    def _draw(self, owners: Tensor) -> Mixture:
        """Weights as serving draws them: own from [own_weight_min, 1], neighbours' from [0, 1]."""
        many = self.settings.max_distractors if self.pool is not None else 0
        own = np.ones(len(owners), dtype=np.float32)
        other = np.zeros((len(owners), many), dtype=np.int64)
        weights = np.zeros((len(owners), many), dtype=np.float32)
        for row, owner in enumerate(owners.tolist()):
            random = self._slots[owner].random
            if random.random() < self.settings.mixed_visibility:
                own[row] = random.uniform(self.settings.own_weight_min, 1)
                if many and self.pool is not None:
                    count = int(random.integers(0, many + 1))
                    other[row] = random.integers(0, len(self.pool), many)
                    weights[row, :count] = random.uniform(0, 1, count)
        device = self.model.device
        mounted = bool(many) and bool(weights.any())
        return Mixture(
            own_slots=owners,
            own_weights=torch.from_numpy(own).to(device),
            other_slots=torch.from_numpy(other).to(device) if mounted else None,
            other_weights=torch.from_numpy(weights).to(device) if mounted else None,
        )

    # leaving -------------------------------------------------------------------------------------------------

    def _finish(self) -> Iterator[TrainedAtom]:
        limits = self.settings
        due = [
            index
            for index, slot in self._slots.items()
            if slot.steps >= limits.max_steps or (all(slot.passed) and slot.steps >= limits.min_steps)
        ]
        if not due:
            return
        verdict = self._exact(due)
        for index in due:
            passed, loss = verdict[index]
            slot = self._slots[index]
            if not all(passed) and slot.steps < limits.max_steps:
                slot.passed = passed
                continue
            del self._slots[index]
            self._free.append(index)
            yield TrainedAtom(
                identity=slot.job.identity,
                record=self.adapters.record(index),
                steps=slot.steps,
                loss=loss,
                passed=tuple(passed),
                seconds=time.perf_counter() - slot.started,
            )
        kept = []
        for group in self._groups:
            rows = [i for i, owner in enumerate(group.rows.owner.tolist()) if owner in self._slots]
            if len(rows) == len(group.rows):
                kept.append(group)
            elif rows:
                kept.append(group.keep(torch.tensor(rows, device=self.model.device)))
        self._groups = kept

    @torch.no_grad()
    def _exact(self, slots: list[int]) -> dict[int, tuple[list[bool], float]]:
        """Every example of these atoms under the full head, atom alone at weight 1, with the weights as stored."""
        device = self.model.device
        self.adapters.round_to_storage(torch.tensor(slots, device=device))
        passed = {s: [False] * len(self._slots[s].job.examples) for s in slots}
        losses: dict[int, list[float]] = {s: [] for s in slots}
        for group in self._groups:
            chosen = [i for i, owner in enumerate(group.rows.owner.tolist()) if owner in passed]
            if not chosen:
                continue
            rows = group.rows.select(torch.tensor(chosen, device=device))
            alone = Mixture(own_slots=rows.owner, own_weights=torch.ones(len(rows), device=device))
            with self.adapters.mounted(alone):
                hidden = late_forward(self.model, self.trunk.first_late, rows)
            right, nll = self.head.exact_pass(hidden, rows)
            for at, owner, ok, loss in zip(chosen, rows.owner.tolist(), right.tolist(), nll.tolist(), strict=True):
                passed[owner][int(group.example[at])] = ok
                losses[owner].append(loss)
        return {s: (passed[s], float(np.mean(losses[s]))) for s in slots}
