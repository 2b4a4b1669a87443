"""Measuring, at compile time, what every atom's nearest neighbours do to it.

Low cosine between adapters does not mean low interference, so nothing is compared in weight space: the neighbour is
mounted, and the atom asked. Answers are scored over a candidate set of the vocabulary (the most frequent tokens, the
atom's own answer, what the atom alone finds likely, and all that its neighbours say, for what goes wrong is mostly
that they speak instead), because the whole LM head would cost more than the late blocks. Only pairs that no record
covers are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from atomlora.atom import Atom
from atomlora.interference.lab import PASS_ROWS, Lab, Stack, Weights, wordings
from atomlora.interference.records import AtomRecord, InterferenceRecords, PairRecord
from atomlora.training.adapters import target_modules
from atomlora.training.objective import Candidates, answer_nll, silence_loss
from atomlora.training.rows import IGNORED, LateRows
from atomlora.training.trunk import Example

CHUNK = 32  # atoms that are measured side by side, with their neighbours in memory
DIGITS = 5


def measure(
    lab: Lab,
    atoms: Sequence[Atom],
    weights: Weights,
    near: np.ndarray,
    probes: int,
    before: InterferenceRecords | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> InterferenceRecords:
    """Records of `atoms`, `near` (atoms, m) being their neighbours' numbers; those that `before` has of the same
    weights are taken over. `on_progress` hears of (atoms done, atoms to be measured)."""
    many = near.shape[1]
    known = _known(atoms, before, many, probes)
    lacking = [[int(j) for j in row if (atoms[i].id, atoms[j].id) not in known] for i, row in enumerate(near)]
    todo = [i for i, others in enumerate(lacking) if others]
    for start in range(0, len(todo), CHUNK):
        on_progress(start, len(todo))
        chunk = todo[start : start + CHUNK]
        reach = list(dict.fromkeys([*chunk, *(j for i in chunk for j in lacking[i])]))
        place = {number: at for at, number in enumerate(reach)}
        lab.mount([atoms[number] for number in reach], weights)
        wanted = [(place[i], [place[j] for j in lacking[i]]) for i in chunk]
        for i, found in zip(chunk, _measure(lab, wanted, probes), strict=True):
            known |= {(atoms[i].id, pair.other): pair for pair in found}
    on_progress(len(todo), len(todo))
    return InterferenceRecords(
        neighbours=many,
        probes=probes,
        atoms=tuple(
            AtomRecord(
                id=atom.id,
                weights_digest=atom.weights_digest,
                pairs=tuple(known[atom.id, atoms[j].id] for j in row),
            )
            for atom, row in zip(atoms, near.tolist(), strict=True)
        ),
    )


def probe_examples(lab: Lab, atom: Atom, probes: int) -> list[Example]:
    """The atom's first training questions with what it is to say."""
    return [Example.asked(lab.base.tokenizer, *asked) for asked in wordings(atom)[:probes]]


def _known(
    atoms: Sequence[Atom], before: InterferenceRecords | None, many: int, probes: int
) -> dict[tuple[str, str], PairRecord]:
    """Pairs that need no measuring: both atoms have the weights that were measured."""
    if before is None or (before.neighbours, before.probes) != (many, probes):
        return {}
    same = {atom.id for atom in atoms if before.measured.get(atom.id) == atom.weights_digest}
    return {pair: record for pair, record in before.pairs.items() if same.issuperset(pair)}


@torch.no_grad()
def _measure(lab: Lab, wanted: Sequence[tuple[int, Sequence[int]]], probes: int) -> Iterator[list[PairRecord]]:
    """Records of atoms beside others, all by their places in the lab."""
    examples = [probe_examples(lab, lab.atoms[own], probes) for own, _ in wanted]
    owners = [number for number, some in enumerate(examples) for _ in some]
    rows = lab.rows([example for some in examples for example in some])
    figures: list[dict[int, list[tuple[float, ...]]]] = [{j: [] for j in others} for _, others in wanted]
    alone = [Stack.at_one(wanted[owner][0]) for owner in owners]
    for picks, chosen, stacks in lab.batches(rows, range(len(owners)), alone):
        mine = [wanted[owners[pick]] for pick in picks]
        beside = [(row, other) for row, (_, others) in enumerate(mine) for other in others]
        for (row, other), found in zip(beside, _beside(lab, chosen, stacks, beside), strict=True):
            figures[owners[picks[row]]][other].append(found)
    for (_, others), found_of in zip(wanted, figures, strict=True):
        yield [
            PairRecord(other=lab.atoms[j].id, **dict(zip(_FIGURES, _mean(found_of[j]), strict=True))) for j in others
        ]


_FIGURES = ("delta_nll", "peak", "half_peak", "overlap", "kl", "flips")


def _mean(found: Sequence[tuple[float, ...]]) -> list[float]:
    return [round(float(value), DIGITS) for value in np.mean(np.array(found), axis=0)]


def _beside(
    lab: Lab, rows: LateRows, stacks: Sequence[Stack], beside: Sequence[tuple[int, int]]
) -> Iterator[tuple[float, ...]]:
    """Figures of each (row, other atom): one pass of the rows alone, then one of them for every other atom."""
    real = rows.targets != IGNORED
    with _watching(lab) as seen:
        own = lab.hidden(rows, stacks)
    row = torch.tensor([one for one, _ in beside], device=own.device)
    other = torch.tensor([number for _, number in beside], device=own.device)
    overlaps = _overlaps(lab, seen, real, row, other)
    every = _candidates(lab, rows, own, row, other)
    assert every.teacher is not None
    before = answer_nll(every.teacher, every)
    greedy = every.teacher.argmax(-1) == every.target
    mixed = [[Stack((*stacks[one].atoms, number), (1.0, gate)) for one, number in beside] for gate in (1.0, 0.5)]
    for part in torch.arange(len(beside)).split(PASS_ROWS):
        at = row[part]
        few = Candidates(every.head[at], every.bias[at], every.target[at], every.teacher[at])
        logits, halved = (
            lab.head.logits(lab.hidden(rows.select(at), [stacked[i] for i in part.tolist()]), few) for stacked in mixed
        )
        many = real[at].sum(1)
        rise, half_rise = ((answer_nll(x, few) - before[at]) * real[at] for x in (logits, halved))
        peak, half_peak = (x.amax(1).clamp(min=0) for x in (rise, half_rise))
        flips = (greedy[at] & (logits.argmax(-1) != few.target) & real[at]).sum(1) / many
        kl = silence_loss(logits, few, real[at])
        found = torch.stack([rise.sum(1) / many, peak, half_peak, overlaps[part], kl, flips], dim=1)
        yield from (tuple(figures) for figures in found.tolist())


def _candidates(lab: Lab, rows: LateRows, own: Tensor, row: Tensor, other: Tensor) -> Candidates:
    """Each row's candidate set, with the log-probabilities of the atom alone as the teacher's."""
    said = [rows.targets[at][rows.targets[at] != IGNORED] for at in range(len(rows))]
    likely = lab.head.likely(own.flatten(0, 1)).reshape(len(rows), -1)
    spoken = {number: lab.statement(number) for number in set(other.tolist())}
    tokens = [
        torch.cat([said[at], likely[at], *(spoken[j] for j in other[row == at].tolist())]) for at in range(len(rows))
    ]
    padded = pad_sequence([some.unique() for some in tokens], batch_first=True, padding_value=IGNORED)
    return lab.head.candidates(replace(rows, final=own), padded, with_teacher=True)


@contextmanager
def _watching(lab: Lab) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within: what each adapted layer is given and what the base makes of it, (B, T, d_in) and norms (B, T)."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_module: Any, args: tuple[Tensor, ...], y: Tensor) -> None:
        seen.append((args[0].float(), y.float().norm(dim=-1)))

    # Hooks run in their order, so these see the output before any atom has added to it.
    handles = [module.register_forward_hook(watch) for module in target_modules(lab.base.model, lab.targets)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _overlaps(lab: Lab, seen: Sequence[tuple[Tensor, Tensor]], real: Tensor, row: Tensor, other: Tensor) -> Tensor:
    """||s B_j A_j h|| / ||W h|| of each (row, other), (P,): mean over its answer's columns and all adapted layers."""
    found = torch.zeros(len(row), device=real.device)
    for (x, norms), (a, bt) in zip(seen, lab.pool.factors, strict=True):
        shrunk = torch.bmm(x[row], a[other].transpose(1, 2))  # (P, T, r)
        gram = torch.bmm(bt[other], bt[other].transpose(1, 2))  # ||B z||^2 = z' (B' B) z
        added = (torch.bmm(shrunk, gram) * shrunk).sum(-1).clamp(min=0).sqrt()
        ratio = added / norms[row].clamp(min=1e-9)
        found += (ratio * real[row]).sum(1) / real[row].sum(1)
    return found / len(seen)
