"""Batches and streams of greedy decoding on a Hugging Face model, atoms mounted or not."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence, Set
from typing import Any

import torch

from atomlora.bases import Base
from atomlora.errors import UsageError
from atomlora.prompts import chat_prompt, end_ids
from atomlora.runtime.composition import Composition
from atomlora.runtime.loops import no_loops
from atomlora.runtime.refusing import Refusing, UntilRefused
from atomlora.runtime.steadiness import Steadiness, UntilLost


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 (B, longest), padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def plan_batches(lengths: Sequence[int], atoms: Sequence[Set[str]], batch_size: int, capacity: int) -> list[list[int]]:
    """Row numbers of batches: of like length (little padding), at most `batch_size` rows, and no more
    distinct atoms than `capacity` where one row alone does not exceed it."""
    batches: list[list[int]] = []
    together: set[str] = set()
    for row in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        fits = len(together | atoms[row]) <= capacity
        if not batches or len(batches[-1]) >= batch_size or not fits:
            batches.append([])
            together = set()
        batches[-1].append(row)
        together |= atoms[row]
    return batches


def greedy(base: Base, max_new_tokens: int) -> Any:
    """A GenerationConfig that takes the likeliest token until the turn ends, whatever the base's own defaults
    (sampling, repetition penalties) say: atoms are trained to be recalled that way."""
    from transformers import GenerationConfig

    untyped: Any = GenerationConfig
    return untyped(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        eos_token_id=list(end_ids(base.tokenizer, base.model)),
        pad_token_id=base.tokenizer.pad_token_id,
    )


def check_room(base: Base, prompt: Sequence[int], question: str, max_new_tokens: int) -> None:
    """UsageError, naming the question, when prompt and answer do not fit into the base's context."""
    limit = getattr(base.model.config, "max_position_embeddings", None)
    if limit is not None and len(prompt) + max_new_tokens > limit:
        raise UsageError(
            f"question {question[:60]!r}: {len(prompt)} prompt tokens and {max_new_tokens} new ones exceed "
            f"the base's {limit}; ask for fewer new tokens, a lower top-k, or mode atoms"
        )


@torch.no_grad()
def base_answers(base: Base, questions: Sequence[str], tokens: int, batch: int = 32) -> list[tuple[int, ...]]:
    """The bare base's first greedy tokens to each question, to the token that ends the turn where one comes within
    them: on these it must not change its mind."""
    ending = set(end_ids(base.tokenizer, base.model))
    found: list[tuple[int, ...]] = []
    for start in range(0, len(questions), batch):
        prompts = [chat_prompt(base.tokenizer, question) for question in questions[start : start + batch]]
        ids, mask = left_pad(prompts, base.tokenizer.pad_token_id, base.model.device)
        output = base.model.generate(ids, attention_mask=mask, generation_config=greedy(base, tokens))
        for row in output[:, ids.shape[1] :].tolist():
            ends = [i for i, token in enumerate(row) if token in ending]
            found.append(tuple(row[: ends[0] + 1] if ends else row))
    return found


def decode_batch(
    base: Base, prompts: Sequence[Sequence[int]], composition: Composition | None, max_new_tokens: int
) -> list[str]:
    """The greedy answers to a batch of prompts, stripped, special tokens left out; rows with atoms never loop (see
    `atomlora.runtime.loops`)."""
    return [text for text, _ in decode_steady(base, prompts, composition, max_new_tokens, [0.0] * len(prompts))]


def decode_steady(
    base: Base,
    prompts: Sequence[Sequence[int]],
    composition: Composition | None,
    max_new_tokens: int,
    least: Sequence[float],
    whole: bool = False,
    refusing: Refusing | None = None,
) -> list[tuple[str, bool]]:
    """`decode_batch`, and whether each answer was lost: a row ends at the first token whose probability (`whole`: with
    that of the tokens before it) is below its `least` (see `atomlora.runtime.steadiness`), or where `refusing`, which
    is made for the batch, has it refused."""
    ids, mask = left_pad(prompts, base.tokenizer.pad_token_id, base.model.device)
    watch = _watch(base, ids, composition, least, whole, () if refusing is None else (refusing,))
    # No inference mode: what a model remembers of a forward (rotary tables) must stay usable in training.
    out = base.model.generate(
        ids,
        attention_mask=mask,
        generation_config=greedy(base, max_new_tokens),
        composition=composition,
        **_watched(watch, *(() if refusing is None else (UntilRefused(refusing),))),
    )
    texts = base.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [(text.strip(), lost) for text, lost in zip(texts, watch.lost.tolist(), strict=True)]


def stream_steady(
    base: Base, prompt: Sequence[int], composition: Composition | None, max_new_tokens: int, least: float
) -> Generator[str, None, bool]:
    """The greedy answer to one prompt, piece by piece as it is decoded in another thread; the generator's return value
    says whether it was lost, as `decode_steady` does, and then no piece holds the token that lost it.

    Leading white space is left out. Closing the generator ends decoding at the next token; an error of the
    decoding thread is raised here.
    """
    closed = threading.Event()
    failures: list[BaseException] = []
    ids, mask = left_pad([prompt], base.tokenizer.pad_token_id, base.model.device)
    watch = _watch(base, ids, composition, [least])
    streamer: Any = _steady_streamer(base.tokenizer, watch)

    def decode() -> None:
        try:
            base.model.generate(
                ids,
                attention_mask=mask,
                generation_config=greedy(base, max_new_tokens),
                composition=composition,
                streamer=streamer,
                **_watched(watch, _Closed(closed)),
            )
        except BaseException as error:
            failures.append(error)
            streamer.end()

    thread = threading.Thread(target=decode, name="atomlora-stream", daemon=True)
    thread.start()
    try:
        begun = False
        for piece in streamer:
            shown = piece if begun else piece.lstrip()
            if shown:
                begun = True
                yield shown
    finally:
        closed.set()
        thread.join()
    if failures:
        raise failures[0]
    return bool(watch.lost.any())


def _watch(
    base: Base,
    ids: torch.Tensor,
    composition: Composition | None,
    least: Sequence[float],
    whole: bool = False,
    processors: Sequence[Any] = (),
) -> Steadiness:
    limits = torch.tensor(least, device=ids.device)
    loops = no_loops(ids.shape[1], None if composition is None else composition.slots, limits > 0)
    return Steadiness(limits, end_ids(base.tokenizer, base.model), [*processors, *loops], whole)


def _watched(watch: Steadiness, *criteria: Any) -> dict[str, Any]:
    from transformers import LogitsProcessorList, StoppingCriteriaList

    return {
        "logits_processor": LogitsProcessorList([watch]),
        "stopping_criteria": StoppingCriteriaList([UntilLost(watch), *criteria]),
    }


def _steady_streamer(tokenizer: Any, watch: Steadiness) -> Any:
    """A streamer that gives out nothing more once the row is lost, nor what it held back until then."""
    from transformers import TextIteratorStreamer

    untyped: Any = TextIteratorStreamer

    class Streamer(untyped):  # type: ignore[misc]
        def put(self, value: torch.Tensor) -> None:
            if not bool(watch.lost.any()):
                super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text("" if bool(watch.lost.any()) else text, stream_end)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


class _Closed:
    """Stops every row once the event is set (a `transformers` stopping criterion)."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_settings: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)
