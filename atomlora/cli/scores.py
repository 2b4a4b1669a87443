"""Running an evaluation with progress, and its table."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atomlora.answers import Style
from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.defaults import STEADY
from atomlora.errors import StoreError
from atomlora.evaluate import EvalReport, ScoredAnswer, evaluate, parse_modes
from atomlora.full_context import read_documents
from atomlora.golden import load_golden
from atomlora.store import Evaluation, EvaluationFolder, Store

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA
    from atomlora.router import RouteFilter


def run_evaluation(
    model: AtomLoRA,
    golden: Path,
    *,
    modes: str,
    limit: int | None,
    documents: Path | None,
    predictions: Path | None,
    top_k: int,
    max_new_tokens: int,
    batch_size: int,
    style: Style,
    where: RouteFilter | None = None,
) -> EvalReport:
    """Evaluate with a progress bar on stderr; mistakes in the input are found before anything is asked."""
    wanted = parse_modes(modes)
    questions = load_golden(golden, limit)
    texts = None if documents is None else read_documents(documents)
    with _listener(len(wanted) * len(questions), predictions) as on_answer:
        return evaluate(
            model,
            questions,
            wanted,
            top_k=top_k,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            style=style,
            documents=texts,
            documents_name=str(documents),
            where=where,
            on_answer=on_answer,
        )


def show_scores(report: EvalReport, as_json: bool) -> None:
    """The report as a table, or as one object."""
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    header = [
        "mode",
        "n",
        "contains",
        "95 %",
        "stated",
        "f1",
        "em",
        "abstained",
        "unanswered",
        "prompt tokens",
        "latency ms",
    ]
    rows = [
        [
            mode,
            row.n,
            f"{row.contains:.3f}",
            f"{row.contains_interval[0]:.3f}-{row.contains_interval[1]:.3f}",
            "" if row.stated is None else f"{row.stated:.3f}",
            f"{row.f1:.3f}",
            f"{row.em:.3f}",
            f"{row.abstained:.3f}",
            f"{row.unanswered:.3f}",
            row.prompt_tokens,
            row.latency_ms,
        ]
        for mode, row in report.modes.items()
    ]
    render.table(header, rows)
    if (routing := report.routing) is not None:
        click.echo(
            f"routing: the source is first for {routing.recall_at_1:.3f}, among the first {routing.k} for "
            f"{routing.recall_at_k:.3f} of {routing.n} questions"
        )
    if report.reader is not None:
        click.echo(f"reader: {render.one_line(report.reader)}")
    if report.documents is not None:
        cut = report.modes["full"].truncated
        click.echo(f"full: documents {report.documents}" + (f"; {cut} cut to fit the base" if cut else ""))


def require_recordable(store: Store) -> None:
    """StoreError where scores could not be kept with the version."""
    if store.url is not None:
        raise StoreError(f"--record: {store.url} is read-only; pull it into a folder, record there, and push")


def record_scores(store: Store, golden: Path, report: EvalReport, how: dict[str, Any]) -> None:
    """Keep the report with the store's version, and say so on stderr."""
    asked = {name: how[name] for name in ("modes", "limit", "top_k", "max_new_tokens")} | {"reader": report.reader}
    # What is as by default stays unsaid: evaluations that did not ask for it compare with those before there was any.
    unusual = {
        "where": how["where"] and (how["where"].model_dump(mode="json", exclude_defaults=True) or None),
        "style": how["style"] if how["style"] != "statement" else None,
        "steady": how["steady"] if how["steady"] != STEADY else None,
        "second_look": None if how["second_look"] else False,
    }
    asked |= {name: value for name, value in unusual.items() if value is not None}
    evaluation = Evaluation(
        version=store.version,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        golden=golden.name,
        golden_sha256=hashlib.sha256(golden.read_bytes()).hexdigest(),
        asked=asked,
        report=report.model_dump(mode="json"),
    )
    EvaluationFolder(store.path).write(evaluation)
    click.echo(f"Recorded with version {store.version[:12]}; see atomlora log {store.path}", err=True)


@contextlib.contextmanager
def _listener(total: int, predictions: Path | None) -> Iterator[Callable[[ScoredAnswer], None]]:
    """What hears of each answer: a progress bar on stderr, and the file of predictions if wanted."""
    from rich.console import Console
    from rich.progress import Progress

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(predictions.open("w", encoding="utf-8")) if predictions else None
        console = Console(stderr=True)
        progress = stack.enter_context(Progress(console=console, disable=not console.is_terminal, transient=True))
        task = progress.add_task("asking", total=total)

        def listen(answer: ScoredAnswer) -> None:
            progress.update(task, advance=1, description=f"mode {answer.mode}")
            if file is not None:
                file.write(answer.model_dump_json() + "\n")

        yield listen
