"""What the late blocks need of a batch of examples: chosen rows of it, and batches put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

Item = TypeVar("Item")
IGNORED = -100  # a target of columns that are not there


@dataclass(frozen=True)
class LateRows:
    """What the late blocks need of B examples, T answer columns and P prompt columns (padded, masked).

    hidden (B, T, d): input of the first late block at the last prompt token and all answer tokens but the last.
    keys_values: per late block the prompt's K and V (B, heads, P, head_dim), positions before `answer_start`.
    masks, rotary: per late block, as the model gave them, cut to the answer columns.
    targets (B, T) int64: the token to follow each column, IGNORED where padded.
    owner (B,) int64: which atom each row belongs to.
    final (B, T, d): the bare base's last hidden state after its final norm, where asked for (silence's teacher).
    """

    hidden: Tensor
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    masks: tuple[Tensor, ...]
    rotary: tuple[tuple[Tensor, Tensor], ...]
    targets: Tensor
    owner: Tensor
    final: Tensor | None = None

    def __len__(self) -> int:
        return int(self.hidden.shape[0])

    def select(self, rows: Tensor, owner: Tensor | None = None) -> LateRows:
        """The given rows (int64 indices, repeats allowed), with other owners if given."""

        def chosen(item: Tensor) -> Tensor:
            return item[rows] if item.shape[0] > 1 else item

        return LateRows(
            hidden=self.hidden[rows],
            keys_values=tuple((k[rows], v[rows]) for k, v in self.keys_values),
            masks=each(self.masks, chosen),
            rotary=_each_pair(self.rotary, chosen),
            targets=self.targets[rows],
            owner=self.owner[rows] if owner is None else owner,
            final=None if self.final is None else self.final[rows],
        )

    def cut(self, length: int) -> LateRows:
        """The first `length` answer columns."""
        longer = self.targets.shape[1] - length
        if not longer:
            return self
        return replace(
            self,
            hidden=self.hidden[:, :length],
            masks=each(self.masks, lambda mask: mask[:, :, :length, :-longer]),
            rotary=_each_pair(self.rotary, lambda turn: turn[:, :length]),
            targets=self.targets[:, :length],
            final=None if self.final is None else self.final[:, :length],
        )

    def narrowed(self, picked: Tensor, columns: Tensor, layers: Sequence[Any]) -> LateRows:
        """The answer `columns` (R, C; -1 is padding, behind) of the rows `picked` (R,). `layers`: the late blocks'
        cache of a forward over all columns; those that are not chosen stand by with the K and V it holds."""
        real = columns >= 0
        at = torch.where(real, columns, columns[:, :1])  # padding computes a row's first column again, to be ignored
        row = picked[:, None]
        column = (self.keys_values[0][0].shape[2] + at)[:, None, :].expand(-1, at.shape[1], -1)

        def seen(mask: Tensor) -> Tensor:
            all_columns = mask.expand(len(self), -1, -1, -1)[row, 0, at]
            fresh = all_columns.gather(2, column).masked_fill(~real[:, None, :], _hiding(mask))
            return torch.cat([all_columns.scatter(2, column, _hiding(mask)), fresh], dim=2)[:, None]

        return LateRows(
            hidden=self.hidden[row, at],
            keys_values=tuple((layer.keys[picked], layer.values[picked]) for layer in layers),
            masks=each(self.masks, seen),
            rotary=_each_pair(self.rotary, lambda turn: turn.expand(len(self), -1, -1)[row, at]),
            targets=torch.where(real, self.targets[row, at], IGNORED),
            owner=self.owner[picked],
        )


def columns_of(chosen: Tensor) -> Tensor:
    """The numbers of the True columns of `chosen` (R, T), row by row, as (R, C) int64 padded with -1 behind."""
    many = chosen.sum(1)
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : max(int(many.max()), 1)]
    return torch.where(torch.arange(order.shape[1], device=order.device) < many[:, None], order, -1)


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
        owner=torch.cat([part.owner for part in wide]),
        final=torch.cat([part.final for part in wide if part.final is not None]) if wide[0].final is not None else None,
    )


def lengthened(part: LateRows, length: int) -> LateRows:
    """The part with `length` answer columns; the new ones have no target and hide from the old ones."""
    extra = length - part.targets.shape[1]
    if not extra:
        return part

    def longer(mask: Tensor) -> Tensor:
        # A new column sees what the last one sees: with nothing in sight its softmax would be undefined.
        rows = torch.cat([mask, mask[:, :, -1:].expand(-1, -1, extra, -1)], dim=2)
        return functional.pad(rows, (0, extra), value=_hiding(mask))

    return replace(
        part,
        hidden=functional.pad(part.hidden, (0, 0, 0, extra)),
        masks=each(part.masks, longer),
        rotary=_each_pair(part.rotary, lambda turn: functional.pad(turn, (0, 0, 0, extra))),
        targets=functional.pad(part.targets, (0, extra), value=IGNORED),
        final=None if part.final is None else functional.pad(part.final, (0, 0, 0, extra)),
    )


def _widened(part: LateRows, width: int) -> LateRows:
    """The part with `width` prompt columns, the new ones hidden, and with a mask of its own for every row."""
    extra = width - part.keys_values[0][0].shape[2]

    def wider(mask: Tensor) -> Tensor:
        return functional.pad(mask.expand(len(part), *mask.shape[1:]), (extra, 0), value=_hiding(mask))

    before = (0, 0, extra, 0)
    return replace(
        part,
        keys_values=tuple((functional.pad(k, before), functional.pad(v, before)) for k, v in part.keys_values),
        masks=each(part.masks, wider),
    )


def _hiding(mask: Tensor) -> float:
    """What a mask says where a column must not be seen."""
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min


def each(items: Sequence[Item], change: Callable[[Item], Tensor]) -> tuple[Tensor, ...]:
    """`change` of each item, made once for those that layers share, which go on sharing it."""
    made: dict[int, Tensor] = {}
    for item in items:
        if id(item) not in made:
            made[id(item)] = change(item)
    return tuple(made[id(item)] for item in items)


def _each_pair(
    pairs: Sequence[tuple[Tensor, Tensor]], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Tensor, Tensor], ...]:
    """`each` over the cosines and sines of every layer."""
    flat = each([item for pair in pairs for item in pair], change)
    return tuple(zip(flat[::2], flat[1::2], strict=True))
