"""`evaluate`: a file of questions with known answers, asked in several ways side by side.

Besides the modes of `AtomLoRA.ask`: `full` puts the golden source document into the prompt (what an oracle
retriever with a long context would reach), `big` mounts the one adapter of everything, which the store must have been
compiled with, and `extract` prints the text of the likeliest atom word for word, without a model (what routing alone
is worth).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict

from atomlora import metrics
from atomlora.answers import Style
from atomlora.defaults import MAX_NEW_TOKENS, TOP_K
from atomlora.errors import InputError, UsageError
from atomlora.full_context import REBUILT, Documents, Reply, ask_documents, rebuilder
from atomlora.golden import GoldenQuestion
from atomlora.one_adapter import ask_one_adapter, require_one_adapter
from atomlora.runtime.keys import open_routes, place_of

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.model import AtomLoRA
    from atomlora.router import RouteFilter

EvalMode = Literal["none", "text", "full", "big", "atoms", "both", "auto", "extract"]
EVAL_MODES: tuple[EvalMode, ...] = get_args(EvalMode)
DEFAULT_MODES: tuple[EvalMode, ...] = ("none", "text", "full", "atoms", "both", "extract")


class Result(BaseModel):
    """Frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModeScores(Result):
    """Means over the `n` questions that a mode could be asked.

    `stated`: like contains, of the statement that a short answer was read from, where there was one. `read`: share
    that the reader answered; `unanswered`: share where it found no answer in what it read. `contains_interval`: 95 %,
    bootstrapped. `latency_ms`: from asking a batch to its answers. `truncated`: documents cut to fit into the base's
    context (mode full).
    """

    n: int
    f1: float
    em: float
    contains: float
    contains_interval: tuple[float, float]
    abstained: float
    prompt_tokens: float
    latency_ms: float
    truncated: int = 0
    stated: float | None = None
    read: float = 0.0
    unanswered: float = 0.0


class RoutingScores(Result):
    """Share of the `n` questions with a known source of which an atom is ranked first, or among the first `k`
    (of every source where a question names several); the ranking counts also where the router abstained."""

    n: int
    recall_at_1: float
    recall_at_k: float
    k: int


class EvalReport(Result):
    """What `evaluate` found; `documents` says where the texts of mode full came from, `reader` who answered shortly,
    `style` how answers were wanted."""

    modes: dict[str, ModeScores]
    routing: RoutingScores | None
    questions: int
    batch_size: int
    documents: str | None = None
    reader: str | None = None
    style: Style = "statement"
    warnings: tuple[str, ...] = ()


class ScoredAnswer(Result):
    """One answer in one mode (of EVAL_MODES, or a benchmark's own), with its scores."""

    mode: str
    question: str
    golden: tuple[str, ...]
    text: str
    statement: str = ""
    reader: str | None = None
    f1: float
    em: float
    contains: float
    stated: float | None = None
    abstained: bool
    unanswered: bool = False
    unanswerable: float | None = None
    prompt_tokens: int
    latency_ms: float
    truncated: bool = False


def parse_modes(names: str) -> tuple[EvalMode, ...]:
    """The modes of a comma-separated list, each once; UsageError for an unknown one."""
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in EVAL_MODES]
    if unknown or not wanted:
        raise UsageError(
            f"--modes {unknown[0] if unknown else names or '(empty)'}: unknown; use {','.join(EVAL_MODES)}"
        )
    return tuple(mode for name in wanted for mode in EVAL_MODES if mode == name)


def evaluate(
    model: AtomLoRA,
    golden: Sequence[GoldenQuestion],
    modes: Sequence[EvalMode] = DEFAULT_MODES,
    *,
    top_k: int = TOP_K,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    style: Style | None = None,
    documents: Mapping[str, str] | None = None,
    documents_name: str = "given",
    where: RouteFilter | None = None,
    on_answer: Callable[[ScoredAnswer], None] | None = None,
) -> EvalReport:
    """Ask every question in every mode, and score answers and routing.

    `documents`: {source: text} for mode full (default: rebuilt from the store's atoms), called
    `documents_name` in the report. `where`: which atoms may take part. `on_answer` hears of each answer.
    Questions whose source is unknown are left out of mode full, with a warning.
    """
    if not golden:
        raise InputError("there is no question to evaluate")
    style = style or model.default_style
    lookup: Documents = documents.get if documents is not None else rebuilder(model.store, where)
    if "big" in modes:
        require_one_adapter(model.store)
        if where is not None:
            raise UsageError("mode big is one adapter of all documents; leave it out of --modes, or leave out --tenant")
    scores: dict[str, ModeScores] = {}
    warnings: list[str] = []
    reader: str | None = None
    for mode in modes:
        asked = [one for one in golden if mode != "full" or _context(one, lookup) is not None]
        if len(asked) < len(golden):
            warnings.append(
                f"mode full: {len(golden) - len(asked)} of {len(golden)} questions have no known source "
                "document and were left out"
            )
        if not asked:
            continue
        _warm_up(model, asked[0], mode, top_k, style)
        answers: list[ScoredAnswer] = []
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            replies = _ask(model, batch, mode, top_k, max_new_tokens, style, lookup, where)
            for one, reply in zip(batch, replies, strict=True):
                answers.append(scored(one, reply, mode))
                if on_answer is not None:
                    on_answer(answers[-1])
        scores[mode] = mean_scores(answers)
        reader = next((one.reader for one in answers if one.reader is not None), reader)
    return EvalReport(
        modes=scores,
        routing=routing_scores(model, golden, top_k, where),
        questions=len(golden),
        batch_size=batch_size,
        reader=reader,
        style=style,
        documents=None if "full" not in scores else REBUILT if documents is None else documents_name,
        warnings=tuple(warnings),
    )


def routing_scores(
    model: AtomLoRA, golden: Sequence[GoldenQuestion], k: int, where: RouteFilter | None = None
) -> RoutingScores | None:
    """How well the router finds the golden sources; None where no question names one."""
    known = [one for one in golden if one.sources]
    if not known:
        return None
    routes = open_routes(model.router).route_batch([one.question for one in known], k, where)
    first, among = [], []
    for one, route in zip(known, routes, strict=True):
        found = [_sources(model.atoms[atom.id], where) for atom in route.atoms]
        wanted = set(one.sources)
        first.append(float(bool(found and found[0] & wanted)))
        among.append(float(wanted <= set().union(*found)))
    return RoutingScores(
        n=len(known), recall_at_1=_round(metrics.mean(first)), recall_at_k=_round(metrics.mean(among)), k=k
    )


def _sources(atom: Atom, where: RouteFilter | None) -> set[str]:
    """The documents of an atom that the filter admits."""
    return {place.source for place in atom.provenances if where is None or where.admits(place_of(place))}


def _context(one: GoldenQuestion, lookup: Documents) -> str | None:
    """All source documents of a question, joined; None when it names none or one is unknown."""
    texts = [lookup(source) for source in one.sources]
    known = [text for text in texts if text is not None]
    return "\n\n".join(known) if known and len(known) == len(texts) else None


def _warm_up(model: AtomLoRA, one: GoldenQuestion, mode: EvalMode, top_k: int, style: Style) -> None:
    """Load what the mode needs, so that the first batch's latency is like the others'."""
    if mode == "extract":
        model.route(one.question, top_k)
    else:
        model.ask(one.question, "none" if mode == "full" or mode == "big" else mode, top_k, 2, style=style)


def _ask(
    model: AtomLoRA,
    batch: Sequence[GoldenQuestion],
    mode: EvalMode,
    top_k: int,
    max_new_tokens: int,
    style: Style,
    lookup: Documents,
    where: RouteFilter | None,
) -> Iterator[Reply]:
    questions = [one.question for one in batch]
    if mode == "extract":
        start = time.perf_counter()
        routes = model.router.route_batch(questions, top_k, where)
        latency_ms = (time.perf_counter() - start) * 1000
        for route in routes:
            text = model.atoms[route.atoms[0].id].text if route.atoms else ""
            yield Reply(text, route.abstained, 0, latency_ms)
    elif mode == "big":
        yield from ask_one_adapter(model, questions, max_new_tokens)
    elif mode == "full":
        contexts = [_context(one, lookup) or "" for one in batch]
        if style != "statement" and model.reader is not None:
            yield from model.reader.read(questions, contexts, max_new_tokens)
        else:
            yield from ask_documents(model.base, questions, contexts, max_new_tokens)
    else:
        for answer in model.ask_batch(questions, mode, top_k, max_new_tokens, style=style, where=where):
            yield Reply(
                answer.text,
                answer.abstained,
                answer.prompt_tokens,
                answer.latency_ms,
                statement=answer.statement,
                reader=answer.reader,
                unanswerable=answer.unanswerable,
                unanswered=answer.unanswered,
            )


def scored(one: GoldenQuestion, reply: Reply, mode: str) -> ScoredAnswer:
    """A reply beside the golden answers."""
    return ScoredAnswer(
        mode=mode,
        question=one.question,
        golden=one.golden,
        text=reply.text,
        statement=reply.statement,
        reader=reply.reader,
        f1=metrics.f1(reply.text, one.golden, one.rule),
        em=metrics.exact_match(reply.text, one.golden, one.rule),
        contains=metrics.contains(reply.text, one.golden, one.rule),
        stated=metrics.contains(reply.statement, one.golden, one.rule) if reply.statement else None,
        abstained=reply.abstained,
        unanswered=reply.unanswered,
        unanswerable=reply.unanswerable,
        prompt_tokens=reply.prompt_tokens,
        latency_ms=round(reply.latency_ms, 3),
        truncated=reply.truncated,
    )


def mean_scores(answers: Sequence[ScoredAnswer]) -> ModeScores:
    """What the answers of a mode come to."""
    hits = [one.contains for one in answers]
    low, high = metrics.bootstrap_interval(hits)
    stated = [one.stated for one in answers if one.stated is not None]
    read = metrics.mean([float(one.reader is not None) for one in answers])
    return ModeScores(
        n=len(answers),
        f1=_round(metrics.mean([one.f1 for one in answers])),
        em=_round(metrics.mean([one.em for one in answers])),
        contains=_round(metrics.mean(hits)),
        contains_interval=(_round(low), _round(high)),
        abstained=_round(metrics.mean([one.abstained for one in answers])),
        prompt_tokens=round(metrics.mean([one.prompt_tokens for one in answers]), 1),
        latency_ms=round(metrics.mean([one.latency_ms for one in answers]), 1),
        truncated=sum(one.truncated for one in answers),
        stated=_round(metrics.mean(stated)) if stated else None,
        read=_round(read),
        unanswered=_round(metrics.mean([one.unanswered for one in answers])),
    )


def _round(value: float) -> float:
    return round(value, 4)
