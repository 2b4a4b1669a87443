"""Mode full of `evaluate`: where the documents come from, and asking a base with one in the prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atomlora.prompts import chat_prompt
from atomlora.runtime.keys import place_of

if TYPE_CHECKING:
    from atomlora.bases import Base
    from atomlora.router import RouteFilter
    from atomlora.runtime.refusing import Refusing
    from atomlora.store import Store

REBUILT = "rebuilt from the store's atoms"
_TOKENS_PER_BATCH = 16384  # of documents in the prompt: what a small machine's memory can hold
Prompt = Callable[[Any, str, str], list[int]]
"""Token ids of tokenizer, question and text."""
Documents = Callable[[str], str | None]
"""The text of the document with this `source`; None where there is none."""


class Reply(NamedTuple):
    """What asking gives, in whatever mode; not `sure` where decoding stopped because the answer was improbable.
    `unanswerable`: probability that what was read does not answer, of a reader that can tell; where that makes it
    refuse, `unanswered`, and there is no text."""

    text: str
    abstained: bool
    prompt_tokens: int
    latency_ms: float
    truncated: bool = False
    statement: str = ""
    reader: str | None = None
    sure: bool = True
    unanswerable: float | None = None
    unanswered: bool = False


def read_documents(folder: Path) -> dict[str, str]:
    """{source: text} of the documents below `folder`, named as `compile` names them."""
    from atomlora.corpora import Document, read_corpus

    return {found.source: found.text for found in read_corpus([folder]) if isinstance(found, Document)}


def rebuilt_document(store: Store, source: str, where: RouteFilter | None = None) -> str | None:
    """The text of a document as far as the store's atoms tell it: title, headings and texts in their order.
    None when no atom comes from `source`, at a place that `where` admits."""
    places = sorted(
        (
            (place.start, place.end, atom)
            for atom in store.from_source(source)
            for place in atom.provenances
            if place.source == source and (where is None or where.admits(place_of(place)))
        ),
        key=lambda found: found[:2],
    )
    if not places:
        return None
    lines = [places[0][2].title]
    headings: tuple[str, ...] = ()
    for _, _, atom in places:
        if atom.headings != headings:
            headings = atom.headings
            lines.append(" / ".join(headings))
        lines.append(atom.text)
    return "\n".join(line for line in lines if line)


def rebuilder(store: Store, where: RouteFilter | None = None) -> Documents:
    """Looks documents up among a store's atoms; each is rebuilt once."""
    known: dict[str, str | None] = {}

    def lookup(source: str) -> str | None:
        if source not in known:
            known[source] = rebuilt_document(store, source, where)
        return known[source]

    return lookup


def ask_documents(
    base: Base,
    questions: Sequence[str],
    documents: Sequence[str],
    max_new_tokens: int,
    prompt_of: Prompt = chat_prompt,
    least: Sequence[float] | None = None,
    refusal: Callable[[], Refusing] | None = None,
) -> Iterator[Reply]:
    """Answers of the bare base with a document in each prompt. `least`: for each, the probability of the whole
    answer below which it stops, unsure (default: never). `refusal`: makes what hears a trained refusal, for a
    batch."""
    from atomlora.runtime.decoding import decode_steady

    start = time.perf_counter()
    fitted = [
        fit_prompt(base, question, document, max_new_tokens, prompt_of)
        for question, document in zip(questions, documents, strict=True)
    ]
    least = [0.0] * len(fitted) if least is None else least
    longest = max(len(prompt) for prompt, _ in fitted)
    size = max(1, _TOKENS_PER_BATCH // longest)
    for at in range(0, len(fitted), size):
        part = fitted[at : at + size]
        prompts = [prompt for prompt, _ in part]
        refusing = None if refusal is None else refusal()
        texts = decode_steady(base, prompts, None, max_new_tokens, least[at : at + size], True, refusing)
        latency_ms = (time.perf_counter() - start) * 1000
        heard = [(None, False)] * len(part) if refusing is None else refusing.heard()
        for (prompt, cut), (text, lost), (chance, refused) in zip(part, texts, heard, strict=True):
            yield Reply(
                "" if refused else text,
                False,
                len(prompt),
                latency_ms,
                cut,
                sure=not (lost or refused),
                unanswerable=chance,
                unanswered=refused,
            )


def fit_prompt(
    base: Base, question: str, document: str, max_new_tokens: int, prompt_of: Prompt = chat_prompt
) -> tuple[list[int], bool]:
    """The prompt's ids, and whether the document's end was cut off to fit into the base's context."""
    limit = getattr(base.model.config, "max_position_embeddings", None)
    prompt = prompt_of(base.tokenizer, question, document)
    cut = False
    while limit is not None and document and len(prompt) + max_new_tokens > limit:
        share = max(0.0, limit - max_new_tokens) / len(prompt)
        document, cut = document[: int(len(document) * min(0.98, share))], True
        prompt = prompt_of(base.tokenizer, question, document)
    return prompt, cut
