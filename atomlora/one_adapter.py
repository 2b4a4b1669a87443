"""Asking the one adapter of a store (`compile --one-adapter`): mounted alone, at weight 1, for every question."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from atomlora.errors import UsageError
from atomlora.full_context import Reply

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA
    from atomlora.store import Store


def require_one_adapter(store: Store) -> None:
    """UsageError where the version has no one adapter."""
    if store.manifest.one_adapter is None:
        raise UsageError("--modes big: this version of the store has no one adapter; compile it with --one-adapter")


def ask_one_adapter(model: AtomLoRA, questions: Sequence[str], max_new_tokens: int) -> Iterator[Reply]:
    """The answers to a batch of questions, greedy. Its weights are mounted for the batch and let go of after it."""
    import torch

    from atomlora.atom import split_record
    from atomlora.kernels import AdapterPool
    from atomlora.prompts import chat_prompt
    from atomlora.runtime.composition import composition
    from atomlora.runtime.decoding import check_room, decode_batch
    from atomlora.runtime.mount import Mount, pool_targets

    require_one_adapter(model.store)
    found = model.store.one_adapter()
    assert found is not None
    atom, record = found
    base, manifest = model.base, model.store.manifest
    factors = split_record(record, atom.rank, manifest.targets)
    targets, device = pool_targets(manifest.targets), base.model.device
    pool = AdapterPool(targets, capacity=1, rank=atom.rank, dtype=torch.bfloat16, device=device)
    (slot,) = pool.acquire([atom.id], lambda _id: (factors, atom.scaling))
    prompts = [chat_prompt(base.tokenizer, question) for question in questions]
    for prompt, question in zip(prompts, questions, strict=True):
        check_room(base, prompt, question, max_new_tokens)
    many, last = len(prompts), max(map(len, prompts)) - 1
    mounted = composition([[slot]] * many, [[1.0]] * many, [last] * many, pool.device, pool)
    start = time.perf_counter()
    with Mount(base.model, manifest.targets, pool, manifest.settings.get("adapter", {}).get("scope", "answer")):
        texts = decode_batch(base, prompts, mounted, max_new_tokens)
    latency_ms = (time.perf_counter() - start) * 1000
    yield from (Reply(text, False, len(prompt), latency_ms) for text, prompt in zip(texts, prompts, strict=True))
