"""One frozen forward per example; what the late blocks need of it is kept.

An answer-scoped atom acts in the late blocks from `answer_start` (the last prompt token) on. So everything below the
first adapted block, and the late blocks' prompt keys and values, are constants of an example: they are computed
once, after which a training step touches only answer tokens x late blocks.

The late blocks are the model's own modules, driven with the masks and rotary embeddings that the model itself
handed to them in the frozen forward: no block's code is copied, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomlora.bases import blocks
from atomlora.prompts import answer_ids, chat_prompt
from atomlora.training.rows import IGNORED, LateRows, each, joined, lengthened

FORWARD_ROWS = 64  # rows of one frozen forward


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of the answer that must follow it (with its end token)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def asked(cls, tokenizer: Any, question: str, answer: str) -> Example:
        """A question as people will ask it, and what is to be said to it."""
        return cls(tuple(chat_prompt(tokenizer, question)), tuple(answer_ids(tokenizer, answer)))


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
        output = self.model.model(ids, past_key_values=whole_cache(), use_cache=True)
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    @torch.no_grad()
    def rows(
        self, examples: Sequence[Example], owners: Sequence[int], length: int | None = None, with_final: bool = False
    ) -> LateRows:
        """Frozen forwards over the examples, one for those of similar length; answers are padded to `length` tokens
        (default: the longest's). `with_final` runs the late blocks too."""
        skip = len(self.prefix)
        if any(e.prompt[:skip] != self.prefix for e in examples):
            raise ValueError("an example's prompt does not begin with the common prefix")
        length = length or max(len(e.answer) for e in examples)
        chunks = [
            chunk
            for group in alike(range(len(examples)), lambda i: len(examples[i].answer), len(examples))
            for chunk in alike(group, lambda i: len(examples[i].prompt) - skip, FORWARD_ROWS)
        ]
        parts = [
            lengthened(self._forward([examples[i] for i in chunk], [owners[i] for i in chunk], with_final), length)
            for chunk in chunks
        ]
        order = torch.tensor([i for chunk in chunks for i in chunk]).argsort().to(self.device)
        return joined(parts).select(order)

    def _forward(self, examples: Sequence[Example], owners: Sequence[int], with_final: bool) -> LateRows:
        """All blocks over the prompts but their last tokens, then the trunk alone over those and the answers."""
        # Prompts are padded on the left and answers on the right, so answer columns line up. At least one column
        # comes before the last prompt token, if only of padding: the late blocks' cache is never without any.
        skip = len(self.prefix)
        prompts = [e.prompt[skip:] for e in examples]
        width = max(2, *map(len, prompts))
        length = max(len(e.answer) for e in examples)
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
        ids, mask, targets = (x.to(self.device) for x in (ids, mask, targets))
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, skip:]
        cut, cache = width - 1, self._expanded_prefix(len(examples))

        def run(begin: int, end: int) -> Any:
            return self.model.model(
                ids[:, begin:end],
                attention_mask=mask[:, : skip + end],
                position_ids=positions[:, begin:end],
                past_key_values=cache,
                use_cache=True,
            )

        run(0, cut)
        keys_values = tuple((x.keys, x.values) for x in cache.layers[self.first_late :])
        with _Recorder(self.blocks, self.first_late, skipping=not with_final) as seen:
            output = run(cut, ids.shape[1])
        return LateRows(
            hidden=seen.hidden,
            keys_values=keys_values,
            masks=_explicit(seen.masks, mask, skip + cut),
            rotary=tuple(seen.rotary),
            targets=targets,
            owner=torch.tensor(owners, device=self.device),
            final=output.last_hidden_state if with_final else None,
        )

    def _expanded_prefix(self, rows: int) -> Any:
        cache = whole_cache()
        for index, (k, v) in enumerate(self._prefix_cache or []):
            cache.update(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), index)
        return cache


def alike(indices: Iterable[int], length: Callable[[int], int], max_rows: int, ratio: float = 1.4) -> list[list[int]]:
    """The indices in runs of at most `max_rows`, none more than `ratio` times as long as the shortest of its run."""
    groups: list[list[int]] = []
    for i in sorted(indices, key=length):
        shortest = length(groups[-1][0]) if groups else 0
        if groups and length(i) <= max(shortest + 2, ratio * shortest) and len(groups[-1]) < max_rows:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def late_forward(model: Any, first_late: int, rows: LateRows, cache: Any = None) -> Tensor:
    """Last hidden state (B, T, d), after the final norm, of the late blocks over `rows`; differentiable in whatever
    hooks on the blocks' linear layers add. An empty `cache` that is handed in receives the late blocks' K and V."""
    cache = whole_cache() if cache is None else cache
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


def whole_cache() -> Any:
    """An empty cache that keeps every position: told the config, it would drop those outside a sliding window, which
    are a batch's columns, padding included, and no longer fit the masks. The masks alone cut the window."""
    from transformers import DynamicCache

    return DynamicCache()


class _Recorder:
    """Keeps what the model hands to its late blocks during one forward; `skipping`, the blocks do not run."""

    def __init__(self, all_blocks: Any, first_late: int, skipping: bool) -> None:
        self.late = all_blocks[first_late:]
        self.skipping = skipping
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
        if self.skipping:
            for block in self.late:
                block.forward = lambda hidden_states, **_: hidden_states
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self.skipping:
            for block in self.late:
                del block.forward


def _explicit(masks: Sequence[Tensor | None], padding: Tensor, before: int) -> tuple[Tensor, ...]:
    """The masks, made where the model left one out: it may for a single column, which the next batch is not."""

    def made(mask: Tensor | None) -> Tensor:
        if mask is not None:
            return mask
        columns = torch.arange(padding.shape[1], device=padding.device)
        causal = columns[None, :] <= columns[before:, None]
        return (causal[None] & padding[:, None, :].bool())[:, None]

    return each(masks, made)


__all__ = ["IGNORED", "Example", "LateRows", "Trunk", "alike", "late_forward", "whole_cache"]
