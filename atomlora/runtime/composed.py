"""A Hugging Face model seen through a composition: `generate` and calls are composed, all else is the
model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from atomlora.errors import UsageError
from atomlora.kernels import AdapterPool
from atomlora.runtime.composition import Composition, composition


class ComposedModel:
    """The base model with the same atoms for every prompt, or with one list of atoms per prompt.

    `slots` and `weights` hold one list per prompt; a single list serves any batch. Atoms act from each row's
    last prompt token on: the last column that the attention mask shows, else the last column. Where the
    input goes on beyond the prompt (teacher forcing), give `answer_start=[column, …]`, one per row.
    """

    def __init__(
        self,
        model: Any,
        slots: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]],
        pool: AdapterPool,
    ) -> None:
        self._model = model
        self._slots = slots
        self._weights = weights
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, answer_start: Sequence[int] | None = None, **kwargs: Any) -> Any:
        """The model's forward, composed."""
        cached = _cached_columns(kwargs)
        return self._model(*args, composition=self._composition(args, kwargs, answer_start, cached), **kwargs)

    def generate(self, *args: Any, answer_start: Sequence[int] | None = None, **kwargs: Any) -> Any:
        """The model's generate, composed; with a cache, `input_ids` are the whole input, as generate
        expects."""
        return self._model.generate(*args, composition=self._composition(args, kwargs, answer_start, 0), **kwargs)

    def _composition(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], starts: Sequence[int] | None, cached: int
    ) -> Composition:
        names = ("input_ids", "inputs", "inputs_embeds")
        tokens = args[0] if args else next((kwargs[n] for n in names if kwargs.get(n) is not None), None)
        if tokens is None:
            raise UsageError("a composed model needs input_ids")
        batch, columns = int(tokens.shape[0]), int(tokens.shape[1])
        if len(self._slots) not in (1, batch):
            raise UsageError(f"{len(self._slots)} routes for {batch} prompts; give one route, or one per prompt")
        factor = batch // len(self._slots)
        if starts is None:
            starts = _last_columns(kwargs.get("attention_mask"), batch, cached + columns)
        slots, weights = list(self._slots) * factor, list(self._weights) * factor
        return composition(slots, weights, starts, self._pool.device, self._pool)


def _cached_columns(kwargs: dict[str, Any]) -> int:
    cache = kwargs.get("past_key_values")
    return int(cache.get_seq_length()) if cache is not None else 0


def _last_columns(mask: Any, batch: int, columns: int) -> list[int]:
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return [columns - 1] * batch
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), places, torch.zeros_like(places)).amax(dim=1)
    return [int(column) for column in last.tolist()]
