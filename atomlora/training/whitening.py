"""Directions in which an adapted layer's inputs differ, learnt before those that all of them share.

An input of a late layer is mostly what every question has in common: at the last of the embedded base's gates one
direction of 576 holds 62 % of the energy. An adapter that reads those directions answers questions that are not its
own. So A is drawn, and its steps are taken, in coordinates in which inputs at large are white: A = Z S with
S = (C / mean eigenvalue + damping)^(-1/2), C the second moment of the bare base's inputs on general questions and on
the pool's facts. K-FAC preconditions by the same moments (arXiv 1503.05671); AlphaEdit projects edits out of the
space of preserved inputs altogether (arXiv 2410.02355), of which this is the soft form.

A matrix d x d is right for narrow inputs only: its decomposition grows with the cube of d, and at d = 14,336 it alone
takes 0.8 GB for each layer. Inputs wider than WIDEST_DENSE are told by their DIRECTIONS strongest directions, kept up
to date batch by batch, and one mean for all others, which damping levels anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WIDEST_DENSE = 2048
DIRECTIONS = 256


@dataclass(frozen=True)
class Sketch:
    """A second moment C (d, d) of wide inputs: C is about rows' rows (k, d; orthogonal rows), and what its trace
    `energy` has beyond theirs lies evenly in the other directions."""

    rows: Tensor
    energy: Tensor


@dataclass(frozen=True)
class LowRank:
    """S (d, d) = rest * identity + directions (d, k) diag(gains) directions'."""

    directions: Tensor
    gains: Tensor
    rest: Tensor

    def to(self, device: Any) -> LowRank:
        """The same on another device."""
        return LowRank(self.directions.to(device), self.gains.to(device), self.rest.to(device))


Moment = Tensor | Sketch
Whitener = Tensor | LowRank


def whitened(rows: Tensor, whitener: Whitener) -> Tensor:
    """Rows (…, d) times S."""
    if isinstance(whitener, Tensor):
        return rows @ whitener
    inside = (rows @ whitener.directions) * whitener.gains
    return rows * whitener.rest + inside @ whitener.directions.T


def added(total: Moment | None, inputs: Tensor) -> Moment:
    """The sum of second moments, or its sketch, with that of `inputs` (n, d) in it. A sketch is the strongest singular
    directions of its own rows and the new inputs (incremental PCA, Ross et al., IJCV 77, 2008)."""
    if isinstance(total, Tensor):
        return total + inputs.T @ inputs
    if total is None and inputs.shape[1] <= WIDEST_DENSE:
        return inputs.T @ inputs
    energy = inputs.square().sum()
    if total is not None:
        inputs, energy = torch.cat([total.rows, inputs]), energy + total.energy
    # Of n rows, far fewer than d: the eigenvectors of their products with each other give the singular directions.
    _, mixtures = torch.linalg.eigh((inputs @ inputs.T).double())
    strongest = mixtures[:, -DIRECTIONS:].flip(1).to(inputs.dtype)
    return Sketch(strongest.T @ inputs, energy)


def mean_of(total: Moment, columns: int) -> Moment:
    """The mean over so many inputs of a sum over them."""
    if isinstance(total, Tensor):
        return total / columns
    return Sketch(total.rows / columns**0.5, total.energy / columns)


def whiteners(moments: Sequence[Moment], damping: float) -> tuple[Whitener, ...]:
    """S (d_in, d_in), symmetric, for each moment C: (C / mean eigenvalue + damping)^(-1/2), scaled so that a random
    A answers inputs at large as strongly as without it. Equal moments share one."""
    made: dict[int, Whitener] = {}
    for moment in moments:
        if id(moment) in made:
            continue
        if isinstance(moment, Sketch):
            made[id(moment)] = _low_rank(moment, damping)
            continue
        values, vectors = torch.linalg.eigh(moment.double() / moment.trace().double() * len(moment))
        values = values.clamp(min=0)
        scales = (values + damping).rsqrt()
        scales *= (values.sum() / (scales.square() * values).sum()).sqrt()
        made[id(moment)] = ((vectors * scales) @ vectors.T).to(moment.dtype)
    return tuple(made[id(moment)] for moment in moments)


def _low_rank(moment: Sketch, damping: float) -> LowRank:
    """The whitener of a sketch: each of its directions by its own eigenvalue, all others by their mean."""
    width = moment.rows.shape[1]
    lengths = moment.rows.norm(dim=1)
    known = lengths > lengths.max() * 1e-6  # fewer inputs than directions, or fewer directions than are kept
    rows, lengths = moment.rows[known], lengths[known]
    values = lengths.double().square() * (width / moment.energy.double())
    others = max(1, width - len(values))
    rest = ((width - values.sum()) / others).clamp(min=0)
    scales, scale = (values + damping).rsqrt(), (rest + damping).rsqrt()
    # As in the dense form: a random A answers inputs at large as strongly as without S.
    answered = (scales.square() * values).sum() + scale.square() * rest * others
    level = (width / answered).sqrt()
    gains = (scales - scale) * level
    return LowRank((rows / lengths[:, None]).T.contiguous(), gains.to(rows.dtype), (scale * level).to(rows.dtype))
