"""What a base says of whether a text tells about a question: the router's second look (`atomlora.router.second_look`).

The bare base reads; no atom is mounted, so a question has the same evidence whatever the store has trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from atomlora.runtime.decoding import left_pad, plan_batches

if TYPE_CHECKING:
    from atomlora.bases import Base

_ROWS = 8  # of a batch: their logits over the vocabulary are what memory goes to


class _Read(NamedTuple):
    """A row: `prompt` ids, and the `question`'s, whose log-probability behind the prompt is asked."""

    prompt: list[int]
    question: list[int]


def evidence(base: Base, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """Of each question, the largest log p(question | text) - log p(question) in nats over its texts (one or more). A
    text that does not fit into the base's context loses its end."""
    alone = _log_probabilities(base, [_row(base, question) for question in questions])
    pairs = [(number, text) for number, some in enumerate(texts) for text in some]
    found = _log_probabilities(base, [_row(base, questions[number], text) for number, text in pairs])
    best = [-float("inf")] * len(questions)
    for (number, _), value in zip(pairs, found, strict=True):
        best[number] = max(best[number], value - alone[number])
    return best


def _row(base: Base, question: str, text: str | None = None) -> _Read:
    def encode(part: str) -> list[int]:
        return list(base.tokenizer.encode(part, add_special_tokens=False))

    asked, begin, bos = encode(f" {question}\n"), encode("Question:"), base.tokenizer.bos_token_id
    start = [] if bos is None else [int(bos)]
    room = base.model.config.max_position_embeddings - len(start) - len(begin) - len(asked)
    before = [] if text is None else encode(f"Text: {text}\n")[: max(room, 0)]
    return _Read(start + before + begin, asked)


def _log_probabilities(base: Base, rows: Sequence[_Read]) -> list[float]:
    """log p(question | prompt) of each row, the sum over its tokens; rows of like length share a batch."""
    found = [0.0] * len(rows)
    lengths = [len(row.prompt) + len(row.question) for row in rows]
    for batch in plan_batches(lengths, [frozenset()] * len(rows), _ROWS, 1):
        for number, value in zip(batch, _batch(base, [rows[n] for n in batch]), strict=True):
            found[number] = value
    return found


def _batch(base: Base, rows: Sequence[_Read]) -> list[float]:
    model: Any = base.model
    # The question last, so that the head is asked for its tokens alone
    ids, mask = left_pad([row.prompt + row.question for row in rows], base.tokenizer.pad_token_id, model.device)
    kept = max(len(row.question) for row in rows) + 1
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=kept).logits
    chances = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1 - kept :, None])[..., 0]
    return [float(chance[-len(row.question) :].sum()) for chance, row in zip(chances, rows, strict=True)]
