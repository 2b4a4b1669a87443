"""What a request carries: which atoms each of its rows mounts, at what weights, and from which column on.

Needs torch; holds no model and no pool, so one composition may travel between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from atomlora.errors import UsageError

if TYPE_CHECKING:
    from atomlora.kernels import AdapterPool

Scope = Literal["answer", "all"]


@dataclass(frozen=True, eq=False)
class Composition:
    """Atoms per request row: `slots` (B, k) int32 with -1 = empty, `weights` (B, k) float32, `answer_start`
    (B,) int64.

    `answer_start` counts columns of the padded input, cached columns included; it is the last prompt token's
    column. All three lie on the model's device. `pool` is what the slots point into; it may be left out where
    one pool is mounted. Build it with `composition` below.
    """

    slots: torch.Tensor
    weights: torch.Tensor
    answer_start: torch.Tensor
    pool: AdapterPool | None = None
    # Host copies, so that no forward waits for the device to learn whether anything is active.
    first_start: int = field(init=False)
    last_start: int = field(init=False)
    mounted_rows: int = field(init=False)

    def __post_init__(self) -> None:
        count = self.slots.shape[0]
        if self.slots.ndim != 2 or self.weights.shape != self.slots.shape or self.answer_start.shape != (count,):
            raise UsageError(
                f"composition: slots {tuple(self.slots.shape)}, weights {tuple(self.weights.shape)} "
                f"and answer_start {tuple(self.answer_start.shape)} do not agree; "
                "they must be (B, k), (B, k) and (B,)"
            )
        starts = self.answer_start.tolist()
        object.__setattr__(self, "first_start", min(starts, default=0))
        object.__setattr__(self, "last_start", max(starts, default=0))
        object.__setattr__(self, "mounted_rows", int(self.mounted().sum()))

    def mounted(self) -> torch.Tensor:
        """Which rows have an atom that counts, (B,) bool on the device: all others are the bare base's, bit for bit."""
        return ((self.slots >= 0) & (self.weights != 0)).any(dim=1)

    @property
    def rows(self) -> int:
        """How many prompts (rows of a batch) it composes."""
        return int(self.slots.shape[0])


def composition(
    slots: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
    answer_start: Sequence[int],
    device: torch.device | str = "cpu",
    pool: AdapterPool | None = None,
) -> Composition:
    """A Composition from plain lists, one entry per request row; shorter rows are filled up with -1 and
    weight 0."""
    if not len(slots) == len(weights) == len(answer_start):
        raise UsageError(
            f"composition: {len(slots)} rows of slots, {len(weights)} of weights, {len(answer_start)} answer starts"
        )
    if any(len(some) != len(other) for some, other in zip(slots, weights, strict=True)):
        raise UsageError("composition: a row has more slots than weights or fewer")
    width = max((len(row) for row in slots), default=0)
    return Composition(
        slots=torch.tensor(
            [[*row, *[-1] * (width - len(row))] for row in slots], dtype=torch.int32, device=device
        ).reshape(len(slots), width),
        weights=torch.tensor(
            [[*row, *[0.0] * (width - len(row))] for row in weights], dtype=torch.float32, device=device
        ).reshape(len(slots), width),
        answer_start=torch.tensor(list(answer_start), dtype=torch.int64, device=device),
        pool=pool,
    )


class Active(NamedTuple):
    """Where one forward is adapted: `rows` (n,) int64 of the flattened (B * T) tokens, None for all of them;
    `slots` and `weights` (n, k) belong to those rows; `tokens` is B * T."""

    rows: torch.Tensor | None
    slots: torch.Tensor
    weights: torch.Tensor
    tokens: int


def active_rows(
    request: Composition,
    scope: Scope,
    batch: int,
    length: int,
    past: int,
    mask: torch.Tensor | None = None,
) -> Active | None:
    """The tokens of a forward over columns [past, past + length) that are adapted, or None.

    `batch` may be a multiple of the request's rows: beams and returned sequences of one request lie side by
    side, as `generate` expands them. `mask` (batch, >= past + length), zero at padding, keeps padding out.
    Raises UsageError when the batch is no multiple of the rows.
    """
    count = request.rows
    if count == 0 or batch % count:
        raise UsageError(f"the composition has {count} rows, the batch {batch}; give one row per prompt")
    everywhere = scope == "all"
    if request.mounted_rows == 0 or (not everywhere and past + length <= request.first_start):
        return None
    slots, weights = request.slots, request.weights
    factor = batch // count
    if length == 1 and request.mounted_rows == count and (everywhere or past >= request.last_start):
        if factor > 1:
            slots, weights = (table.repeat_interleave(factor, dim=0) for table in (slots, weights))
        return Active(None, slots, weights, batch)
    device = slots.device
    start = torch.zeros_like(request.answer_start) if everywhere else request.answer_start
    mounted = request.mounted()
    columns = torch.arange(past, past + length, device=device)
    chosen = ((columns >= start[:, None]) & mounted[:, None]).repeat_interleave(factor, dim=0)
    if mask is not None and mask.ndim == 2 and mask.shape[0] == batch and mask.shape[1] >= past + length:
        chosen = chosen & mask[:, past : past + length].to(device=device, dtype=torch.bool)
    rows = chosen.flatten().nonzero().squeeze(1)
    if rows.numel() == 0:
        return None
    of_request = rows // (length * factor)
    return Active(rows, slots[of_request], weights[of_request], batch * length)
