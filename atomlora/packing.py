"""Training sequences packed as trees: one shared prefix, and branches that see it and themselves only.

A branch takes the positions that it would have alone behind the prefix, so its loss is what it would be in a sequence
of its own, and the prefix (a text) is computed once for all that is asked about it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from atomlora.bases import finished_logits


@dataclass(frozen=True)
class Tree:
    """One packed text: token ids, branch number (0 = prefix), position, and whether the token is a target."""

    ids: list[int]
    branch: list[int]
    position: list[int]
    target: list[bool]


def pack_branches(prefix: Sequence[int], branches: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tree:
    """The tree of a prefix's ids and of branches, each of ids that are given and ids that are targets."""
    start = len(prefix)
    tree = Tree(list(prefix), [0] * start, list(range(start)), [False] * start)
    for number, (given, wanted) in enumerate(branches, start=1):
        size = len(given) + len(wanted)
        tree.ids.extend([*given, *wanted])
        tree.branch.extend([number] * size)
        tree.position.extend(range(start, start + size))
        tree.target.extend([False] * len(given) + [True] * len(wanted))
    return tree


def collate(
    trees: Sequence[Tree],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (B, T), positions (B, T), additive mask (B, 1, T, T) float32, and rows of the flattened batch:
    the places that predict a target (M,) and the target ids (M,). Padding is on the right and sees itself
    only."""
    width = -(-max(len(t.ids) for t in trees) // 8) * 8
    ids = torch.zeros(len(trees), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, -1)
    places, wanted = [], []
    for row, tree in enumerate(trees):
        size = len(tree.ids)
        ids[row, :size] = torch.tensor(tree.ids)
        positions[row, :size] = torch.tensor(tree.position)
        branch[row, :size] = torch.tensor(tree.branch)
        for at in range(1, size):
            if tree.target[at]:
                places.append(row * width + at - 1)
                wanted.append(tree.ids[at])
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    visible = causal & (same | (branch[:, None, :] == 0) & (branch[:, :, None] >= 0))
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
    return ids, positions, mask, torch.tensor(places), torch.tensor(wanted)


def target_nll(model: Any, trees: Sequence[Tree]) -> torch.Tensor:
    """NLL of every target token, (M,) float32, in the order of `trees`; the head is applied to what predicts targets
    only. Blocks below the first that has anything to train keep nothing for a gradient."""
    ids, positions, mask, places, wanted = (tensor.to(model.device) for tensor in collate(trees))
    hidden = model.model(
        input_ids=ids, attention_mask=mask.to(model.dtype), position_ids=positions, use_cache=False
    ).last_hidden_state
    logits = finished_logits(model.config, model.lm_head(hidden.flatten(0, 1)[places])).float()
    return functional.cross_entropy(logits, wanted, reduction="none")


def batches(trees: Sequence[Tree], tokens: int, generator: random.Random) -> list[list[Tree]]:
    """Buckets of similar length holding about `tokens` padded tokens each, in random order."""
    order = sorted(trees, key=lambda t: len(t.ids) + generator.random() * 12)
    found: list[list[Tree]] = [[]]
    for tree in order:
        if found[-1] and (len(found[-1]) + 1) * len(tree.ids) > tokens:
            found.append([])
        found[-1].append(tree)
    generator.shuffle(found)
    return found
