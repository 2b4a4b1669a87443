"""The question writer that runs a LoRA trained by train_writer.py on a base model that is already loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from atomlora.bases import native_bfloat16
from atomlora.errors import UsageError
from atomlora.questions.decoder import KINDS, PrefixDecoder, Prefixes
from atomlora.questions.generation import LineWriter
from atomlora.questions.loading import base_shape, read_deltas, read_shape
from atomlora.questions.passes import Passes
from atomlora.questions.prompts import prefix_prompt, title_path, token_ids
from atomlora.questions.types import AtomText, Question

_PROCEDURE = "2"  # part of the digest: raise it when the same text would get other questions
# Prompt tokens a batch: a decoding step reads all weights however few its rows, and 2,500 tokens with their
# continuations take half a GB of K/V with the embedded base.
_BATCH_TOKENS = 2500
_MAX_PREFIX_TOKENS = 320


class AdapterWriter:
    """Lists answer spans, then asks for a question to each (prompts.py), with a trained LoRA on a Llama base.

    `model`, `tokenizer`: the loaded base, left untouched: the writer works on its own copy with the LoRA
    merged, in bfloat16 where the processor multiplies it natively (twice as fast), else in the model's
    type. That copy is made at the first `write` and dropped by `close`. Results depend on title, text and
    seed only, up to float noise. Raises UsageError if the base has another shape than the adapter's, or another kind of
    blocks than the decoder's.
    """

    name = "adapter"
    of_base = True

    def __init__(self, model: Any, tokenizer: Any, adapter_dir: Path | str, seed: int = 0, rounds: int = 1) -> None:
        self.adapter_dir = Path(adapter_dir)
        wanted, found = read_shape(self.adapter_dir), base_shape(model.config)
        if wanted != found:
            differ = ", ".join(f"{k} {found.get(k)} instead of {v}" for k, v in wanted.items() if found.get(k) != v)
            raise UsageError(
                f"--question-writer {self.adapter_dir}: made for another base ({differ}); use shipped, base or none"
            )
        if model.config.model_type not in KINDS:
            raise UsageError(
                f"--question-writer {self.adapter_dir}: the writer cannot run a base of type {model.config.model_type} "
                f"({', '.join(KINDS)} it can); use shipped, base or none"
            )
        self._deltas, digest = read_deltas(self.adapter_dir)
        self._model, self.tokenizer, self.seed, self.rounds = model, tokenizer, seed, rounds
        weight: torch.Tensor = model.model.embed_tokens.weight
        self._dtype = fast_dtype(weight.device.type, weight.dtype)
        self._lines: LineWriter | None = None
        self.digest = writer_digest(digest, seed, self._dtype, rounds)

    def close(self) -> None:
        """Free the merged copy; the next `write` makes it anew."""
        self._lines = None

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` per atom and round; names and numbers that no written question covers get a
        cloze question."""
        lines = self._loaded()
        prompts = [
            token_ids(self.tokenizer, prefix_prompt(title_path(a.title, a.headings), a.text))[-_MAX_PREFIX_TOKENS:]
            for a in atoms
        ]
        results: list[list[Question]] = [[] for _ in atoms]
        done = 0
        for chosen in _batches([len(prompt) for prompt in prompts]):
            passes = Passes(lines, [atoms[i] for i in chosen], max_questions, self.seed, self.rounds)
            for index, questions in zip(chosen, passes.run(lines.prefill([prompts[i] for i in chosen])), strict=True):
                results[index] = questions
            if progress is not None:
                done += len(chosen)
                progress(done, len(atoms))
        return results

    def generate(
        self,
        prefixes: Prefixes,
        atom: Sequence[int],
        suffixes: Sequence[str],
        limit: int,
    ) -> list[tuple[str, float]]:
        """One greedy line for each suffix and its mean log-probability per token (the line's end included)."""
        if not atom:
            return []
        lines = self._loaded()
        return lines.lines(lines.stems(prefixes, atom, suffixes), range(len(atom)), limit)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefixes:
        """K/V of each prompt's token ids."""
        return self._loaded().prefill(prompts)

    def _loaded(self) -> LineWriter:
        if self._lines is None:
            self._lines = LineWriter(PrefixDecoder(self._model, self._deltas, self._dtype), self.tokenizer)
        return self._lines


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of all prompts in as few batches as _BATCH_TOKENS allows, each with about as many tokens."""
    # Neighbours in length share a batch: least padding.
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    share = sum(lengths) / max(1, math.ceil(sum(lengths) / _BATCH_TOKENS))
    batches: dict[int, list[int]] = {}
    before = 0
    for index in order:
        batches.setdefault(int(before / share), []).append(index)
        before += lengths[index]
    return list(batches.values())


def writer_digest(adapter: str, seed: int, dtype: torch.dtype, rounds: int) -> str:
    """Digest of a writer whose adapter's files have the digest `adapter`."""
    parts = f"{adapter} {_PROCEDURE} {seed} {dtype}" + (f" rounds {rounds}" if rounds > 1 else "")
    return hashlib.sha256(parts.encode()).hexdigest()


def fast_dtype(device: str, own: torch.dtype) -> torch.dtype:
    """bfloat16 on a CPU with native bfloat16 products, else the base's `own` type."""
    return torch.bfloat16 if device == "cpu" and native_bfloat16() else own
