"""A reader mounted on a base: a second view of the model, with PEFT's adapter in it, and the same weights beneath.

The view shares every parameter and buffer with the base, so it costs the adapter's memory alone, works for any PEFT
method and on a quantised base, and needs no switch that another thread could turn: whoever asks the base sees the bare
base, whoever asks the view sees the reader.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from atomlora.answers import UNANSWERED
from atomlora.bases import Base
from atomlora.errors import CorruptStoreError
from atomlora.full_context import Reply, ask_documents
from atomlora.metrics import contains, normalise
from atomlora.reader.folder import ReaderFolder, require_fit
from atomlora.reader.prompts import reader_prompt
from atomlora.reader.refusals import refusal_step
from atomlora.reader.whole import require_own
from atomlora.runtime.refusing import Refusing

ANSWER_TOKENS = 32  # at most: short answers are short
# Probability of a refusal from which on it is given: odds of two to one, because training has more questions without
# an answer than use, where a router chose the text.
REFUSES = 0.67


class Reader:
    """Reads texts and answers shortly. `name`: the folder's name and the start of its digest."""

    def __init__(self, base: Base, folder: ReaderFolder) -> None:
        """UsageError where the reader was made for a base of another shape, CorruptStoreError where PEFT cannot load
        it. A base that reads by itself needs no adapter."""
        require_fit(folder, base)
        require_own(folder, base)
        self.digest = folder.digest
        self.name = f"{folder.path.resolve().name}@{folder.digest[:12]}"
        self.base = base if folder.whole else replace(base, model=_with_adapter(view_of(base.model), folder))
        self._refusal = refusal_step(base.tokenizer, folder.refusal) if folder.refusal is not None else None

    def read(
        self,
        questions: Sequence[str],
        texts: Sequence[str],
        max_new_tokens: int = ANSWER_TOKENS,
        least: Sequence[float] | None = None,
    ) -> Iterator[Reply]:
        """The short answers to questions, each from a text of its own, greedy; a text that does not fit into the
        base's context loses its end. `least`: probabilities of a whole answer below which it is broken off, unsure. A
        reader that was trained to refuse tells how probable it is that a text does not answer, and where that is
        likely it says UNANSWERED."""
        if questions:
            limit = min(max_new_tokens, ANSWER_TOKENS)
            refusal = None if self._refusal is None else partial(Refusing, *self._refusal, REFUSES)
            for reply in ask_documents(self.base, questions, texts, limit, reader_prompt, least, refusal):
                yield reply._replace(reader=self.name, text=UNANSWERED if reply.unanswered else reply.text)


def grounded(answer: str, text: str) -> bool:
    """Whether an answer stands in what was read, word by word."""
    return bool(normalise(answer)) and contains(text, [answer]) == 1.0


def view_of(model: Any) -> Any:
    """A copy of a model's modules over the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def _with_adapter(view: Any, folder: ReaderFolder) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PEFT's own use of transformers
            wrapped = PeftModel.from_pretrained(view, str(folder.path), is_trainable=False)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorruptStoreError(f"{folder.path}: not an adapter that PEFT can load ({reason})") from error
    return wrapped.get_base_model().eval()
