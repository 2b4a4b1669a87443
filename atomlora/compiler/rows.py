"""What the late blocks need of a batch of examples: chosen rows of it, and batches put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LateRows:
    """What the late blocks need of B examples, T answer columns and P prompt columns (padded, masked).

    hidden (B, T, d): input of the first late block at the last prompt token and all answer tokens but the last.
    keys_values: per late block the prompt's K and V (B, heads, P, head_dim), positions before `answer_start`.
    masks, rotary: per late block, as the model gave them, cut to the answer columns.
    targets (B, T) int64: the token to follow each column, IGNORED where padded.
    final (B, T, d): the bare base's last hidden state after its final norm (the teacher of silence).
    owner (B,) int64: which atom each row belongs to.
    """

    hidden: Tensor
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    masks: tuple[Tensor, ...]
    rotary: tuple[tuple[Tensor, Tensor], ...]
    targets: Tensor
    final: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return int(self.hidden.shape[0])

    def select(self, rows: Tensor, owner: Tensor | None = None) -> LateRows:
        """The given rows (int64 indices, repeats allowed), with other owners if given."""
        return LateRows(
            hidden=self.hidden[rows],
            keys_values=tuple((k[rows], v[rows]) for k, v in self.keys_values),
            masks=_select_shared(self.masks, rows),
            rotary=_select_rotary(self.rotary, rows),
            targets=self.targets[rows],
            final=self.final[rows],
            owner=self.owner[rows] if owner is None else owner,
        )


def joined(parts: Sequence[LateRows]) -> LateRows:
    """The rows of all parts; prompts are padded on the left, with columns that every mask hides."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.keys_values[0][0].shape[2] for part in parts)
    wide = [_widened(part, width) for part in parts]
    made: dict[tuple[int, ...], Tensor] = {}

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        """Layers that share a tensor go on sharing it."""
        key = tuple(map(id, tensors))
        if key not in made:
            made[key] = torch.cat(list(tensors))
        return made[key]

    def pairs(kept: Sequence[tuple[tuple[Tensor, Tensor], ...]]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Per layer, the parts' first tensors stacked and their second ones."""
        return tuple(
            (stacked([first for first, _ in layer]), stacked([second for _, second in layer]))
            for layer in zip(*kept, strict=True)
        )

    return LateRows(
        hidden=torch.cat([part.hidden for part in wide]),
        keys_values=pairs([part.keys_values for part in wide]),
        masks=tuple(stacked(layer) for layer in zip(*(part.masks for part in wide), strict=True)),
        rotary=pairs([part.rotary for part in wide]),
        targets=torch.cat([part.targets for part in wide]),
        final=torch.cat([part.final for part in wide]),
        owner=torch.cat([part.owner for part in wide]),
    )


def _widened(part: LateRows, width: int) -> LateRows:
    """The part with `width` prompt columns, the new ones hidden, and with a mask of its own for every row."""
    extra = width - part.keys_values[0][0].shape[2]
    made: dict[int, Tensor] = {}
    for mask in part.masks:
        if id(mask) not in made:
            hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            made[id(mask)] = functional.pad(mask.expand(len(part), *mask.shape[1:]), (extra, 0), value=hidden)
    before = (0, 0, extra, 0)
    return replace(
        part,
        keys_values=tuple((functional.pad(k, before), functional.pad(v, before)) for k, v in part.keys_values),
        masks=tuple(made[id(mask)] for mask in part.masks),
    )


def _select_shared(items: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    done: dict[int, Tensor] = {}
    for item in items:
        if id(item) not in done:
            done[id(item)] = item[rows] if item.shape[0] > 1 else item
    return tuple(done[id(item)] for item in items)


def _select_rotary(items: tuple[tuple[Tensor, Tensor], ...], rows: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    flat = _select_shared(tuple(x for pair in items for x in pair), rows)
    return tuple((flat[i], flat[i + 1]) for i in range(0, len(flat), 2))
