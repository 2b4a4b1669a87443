"""One frozen forward per example; what the late blocks need of it is kept.

An answer-scoped atom acts in the late blocks from `answer_start` (the last prompt token) on. So everything below the
first adapted block, and the late blocks' prompt keys and values, are constants of an example: they are computed
once, after which a training step touches only answer tokens x late blocks.

The late blocks are the model's own modules, driven with the masks and rotary embeddings that the model itself
handed to them in the frozen forward: no block's code is copied, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomlora.bases import blocks

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of the answer that must follow it (with its end token)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


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
    masks: tuple[Tensor | None, ...]
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


class Trunk:
    """Runs the frozen base over examples; `first_late` is the first adapted block."""

    def __init__(self, model: Any, first_late: int, prefix: Sequence[int], pad_id: int) -> None:
        self.model = model
        self.blocks = blocks(model)
        self.first_late = first_late
        # A sliding window counts columns, and the padding between prefix and prompt would count with them.
        self.prefix = () if getattr(model.config, "sliding_window", None) else tuple(prefix)
        self.pad_id = pad_id
        self.device = model.device
        self._prefix_cache = self._run_prefix() if self.prefix else None

    @torch.no_grad()
    def _run_prefix(self) -> list[tuple[Tensor, Tensor]]:
        """K and V of the prompt template's common beginning, the same for every example."""
        ids = torch.tensor([self.prefix], device=self.device)
        output = self.model.model(ids, past_key_values=_whole_cache(), use_cache=True)
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def order(self, examples: Sequence[Example], max_rows: int = 64) -> list[list[int]]:
        """Indices of the examples in groups of similar answer length, so that little is padded."""
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i].answer), len(examples[i].prompt)))
        groups: list[list[int]] = []
        for i in order:
            shortest = len(examples[groups[-1][0]].answer) if groups else 0
            fits = len(examples[i].answer) <= max(shortest + 2, 1.4 * shortest)
            if groups and fits and len(groups[-1]) < max_rows:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    @torch.no_grad()
    def rows(self, examples: Sequence[Example], owners: Sequence[int]) -> LateRows:
        """One frozen forward over the examples, which are padded to one width."""
        # Prompts are padded on the left and answers on the right, so answer columns line up.
        skip = len(self.prefix)
        prompts = [e.prompt[skip:] for e in examples]
        if any(e.prompt[:skip] != self.prefix for e in examples):
            raise ValueError("an example's prompt does not begin with the common prefix")
        width, length = max(map(len, prompts)), max(len(e.answer) for e in examples)
        ids = torch.full((len(examples), width + length - 1), self.pad_id)
        mask = torch.zeros((len(examples), skip + width + length - 1), dtype=torch.long)
        targets = torch.full((len(examples), length), IGNORED)
        mask[:, :skip] = 1
        for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
            answer = list(example.answer)
            start = width - len(prompt)
            ids[row, start:width] = torch.tensor(prompt)
            ids[row, width : width + len(answer) - 1] = torch.tensor(answer[:-1], dtype=torch.long)
            mask[row, skip + start : skip + width + len(answer) - 1] = 1
            targets[row, : len(answer)] = torch.tensor(answer)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, skip:]
        with _Recorder(self.blocks, self.first_late) as seen:
            output = self.model.model(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=positions.to(self.device),
                past_key_values=self._expanded_prefix(len(examples)),
                use_cache=True,
            )
        cut, before = width - 1, skip + width - 1
        layers = output.past_key_values.layers[self.first_late :]
        return LateRows(
            hidden=seen.hidden[:, cut:].clone(),
            keys_values=tuple((x.keys[:, :, :before].clone(), x.values[:, :, :before].clone()) for x in layers),
            masks=_cut_masks(seen.masks, cut, mask.to(self.device), skip),
            rotary=tuple((cos[:, cut:], sin[:, cut:]) for cos, sin in seen.rotary),
            targets=targets.to(self.device),
            final=output.last_hidden_state[:, cut:].clone(),
            owner=torch.tensor(owners, device=self.device),
        )

    def _expanded_prefix(self, rows: int) -> Any:
        cache = _whole_cache()
        for index, (k, v) in enumerate(self._prefix_cache or []):
            cache.update(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), index)
        return cache


def late_forward(model: Any, first_late: int, rows: LateRows) -> Tensor:
    """Last hidden state (B, T, d), after the final norm, of the late blocks over `rows`; differentiable in whatever
    hooks on the blocks' linear layers add."""
    cache = _whole_cache()
    hidden = rows.hidden
    for offset, block in enumerate(blocks(model)[first_late:]):
        cache.update(*rows.keys_values[offset], first_late + offset)
        hidden = block(
            hidden,
            attention_mask=rows.masks[offset],
            position_embeddings=rows.rotary[offset],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    final: Tensor = model.model.norm(hidden)
    return final


def _whole_cache() -> Any:
    """An empty cache that keeps every position: told the config, it would drop those outside a sliding window, which
    are a batch's columns, padding included, and no longer fit the masks. The masks alone cut the window."""
    from transformers import DynamicCache

    return DynamicCache()


class _Recorder:
    """Keeps what the model hands to its late blocks during one forward."""

    def __init__(self, all_blocks: Any, first_late: int) -> None:
        self.late = all_blocks[first_late:]
        self.masks: list[Tensor | None] = []
        self.rotary: list[tuple[Tensor, Tensor]] = []
        self._hidden: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        assert self._hidden is not None
        return self._hidden

    def _see(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._hidden is None:
            self._hidden = args[0] if args else kwargs["hidden_states"]
        self.masks.append(kwargs.get("attention_mask"))
        self.rotary.append(kwargs["position_embeddings"])

    def __enter__(self) -> _Recorder:
        self._handles = [b.register_forward_pre_hook(self._see, with_kwargs=True) for b in self.late]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _cut_masks(masks: Sequence[Tensor | None], cut: int, padding: Tensor, skip: int) -> tuple[Tensor | None, ...]:
    """The masks' answer rows. Where the model left the mask out (plain causal attention), an explicit one is made:
    a block run on the answer columns alone could not tell them from a prompt's beginning."""
    made: dict[int, Tensor] = {}
    for mask in masks:
        if id(mask) in made:
            continue
        if mask is None:
            columns = torch.arange(padding.shape[1], device=padding.device)
            causal = columns[None, :] <= columns[skip + cut :, None]
            made[id(mask)] = (causal[None] & padding[:, None, :].bool())[:, None]
        else:
            made[id(mask)] = mask[:, :, cut:].contiguous()
    return tuple(made[id(mask)] for mask in masks)


def _select_shared(items: tuple[Tensor | None, ...], rows: Tensor) -> tuple[Tensor | None, ...]:
    done: dict[int, Tensor | None] = {}
    for item in items:
        if id(item) not in done:
            done[id(item)] = None if item is None else (item[rows] if item.shape[0] > 1 else item)
    return tuple(done[id(item)] for item in items)


def _select_rotary(items: tuple[tuple[Tensor, Tensor], ...], rows: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    flat = _select_shared(tuple(x for pair in items for x in pair), rows)
    return tuple((flat[i], flat[i + 1]) for i in range(0, len(flat), 2))  # type: ignore[misc]


__all__ = ["IGNORED", "Example", "LateRows", "Trunk", "late_forward"]
