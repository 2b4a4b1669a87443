"""A compile run as seen on stderr, and its summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.errors import StoreError

if TYPE_CHECKING:
    from atomlora.compiler.progress import CompileProgress, CompileReport, FailedAtom
    from atomlora.settings import CompileSettings

T = TypeVar("T")
STAGES = {
    "read": "reading documents",
    "questions": "writing questions",
    "pool": "training distractors, once for a base and its settings",
    "train": "training atoms",
    "route": "building the router",
    "interference": "measuring interference",
}
SECONDS_BETWEEN_LINES = 10.0
SHOWN = 20  # failed atoms and skipped files that are listed before the rest is only counted


class Listener(Protocol):
    """What `compile_corpus` reports its progress to."""

    def __call__(self, progress: CompileProgress, /) -> None: ...


def compile_shown(
    sources: Sequence[Path],
    store: Path,
    settings: CompileSettings,
    **how: Any,
) -> CompileReport:
    """`compile_corpus` with progress on stderr; when interrupted, the KeyboardInterrupt says what is kept."""
    from atomlora.compiler.compile import compile_corpus

    try:
        with progress_listener() as listen:
            return compile_corpus(sources, store, settings, **how, on_progress=listen)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Stopped; {_kept(store)}; the same command resumes") from None


@contextlib.contextmanager
def progress_listener() -> Iterator[Listener]:
    """A bar where stderr is a terminal, else a line at the end of a stage and every ten seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        plain = PlainProgress()
        yield plain
        plain.end()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, facts="")

        def listen(heard: CompileProgress) -> None:
            if heard.message:
                progress.console.print(render.one_line(heard.message), markup=False, highlight=False)
            description = STAGES.get(heard.stage, heard.stage)
            facts = ", ".join(progress_facts(heard))
            progress.update(task, description=description, completed=heard.done, total=heard.total, facts=facts)

        yield listen


@contextlib.contextmanager
def counted(what: str, total: int, keep: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Hears of things one by one, shows their number on stderr where that is a terminal, and hands them to `keep`."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)

        def hear(one: T) -> None:
            progress.update(task, advance=1)
            keep(one)

        yield hear


class PlainProgress:
    """Progress in lines on stderr, for logs."""

    def __init__(self) -> None:
        self._untold: CompileProgress | None = None
        self._told = time.monotonic()

    def __call__(self, progress: CompileProgress, /) -> None:
        if self._untold is not None and self._untold.stage != progress.stage:
            self.end()
        if progress.message:
            click.echo(render.one_line(progress.message), err=True)
        self._untold = progress
        # A new base's distractors are the longest silence of a run.
        begun = progress.stage == "pool" and not progress.done
        if begun or time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self.end()

    def end(self) -> None:
        """Tell what was heard last, if it was not told."""
        if (heard := self._untold) is not None:
            facts = [f"{heard.done}/{heard.total}", *progress_facts(heard)]
            click.echo(f"{STAGES.get(heard.stage, heard.stage)}: {', '.join(facts)}", err=True)
            self._untold, self._told = None, time.monotonic()


def progress_facts(progress: CompileProgress) -> list[str]:
    """Rate, recall and time left, as far as they are known."""
    facts = []
    if progress.atoms_per_second is not None and progress.stage != "read":
        facts.append(f"{progress.atoms_per_second:.2f}/s")
    if progress.recall is not None:
        facts.append(f"recall {progress.recall:.2f}")
    if progress.seconds_left is not None and progress.done < progress.total:
        facts.append(f"{duration(progress.seconds_left)} left")
    return facts


def duration(seconds: float) -> str:
    """`m:ss` or `h:mm:ss`."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def show_report(report: CompileReport, as_json: bool) -> None:
    """The summary on stdout; what was skipped, warned of or not learnt on stderr."""
    skipped = [f"Skipped {one.source}: {one.reason}" for one in report.skipped]
    failed = [_failure(one) for one in report.failed]
    show_list(skipped, "files skipped")
    show_list([f"Warning: {warning}" for warning in report.warnings], "warnings")
    show_list([f"Conflict: {one.reason}" for one in report.conflicts], "conflicts between documents")
    show_list(failed, "atoms not learnt in full; atomlora show lists all atoms with their recall")
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    click.echo(
        f"{report.store}: {report.atoms_total} atoms ({report.atoms_new} new, {report.atoms_kept} kept, "
        f"{report.atoms_removed} removed, {report.atoms_failed} not learnt in full) in "
        f"{duration(report.seconds)}, {report.atoms_per_second:.2f} atoms/s; version {report.version[:12]}"
    )


def _failure(atom: FailedAtom) -> str:
    text, first = render.one_line(atom.text, render.QUOTED), render.one_line(atom.questions[0], render.QUOTED)
    more = f" and {len(atom.questions) - 1} more" if len(atom.questions) > 1 else ""
    return f'Not learnt in full: {atom.id[:12]} ({atom.source}) "{text}": {first}{more}'


def show_list(lines: Sequence[str], what: str) -> None:
    """Lines on stderr; those after the first SHOWN are only counted."""
    for line in lines[:SHOWN]:
        click.echo(render.one_line(line), err=True)
    if len(lines) > SHOWN:
        click.echo(f"… and {len(lines) - SHOWN} more {what}", err=True)


def _kept(store: Path) -> str:
    """How many trained atoms lie in the store after an interruption."""
    from atomlora.store import Store

    if not store.is_dir():
        return "no atom was trained yet"
    try:
        with Store.writer(store) as writer:
            return f"{len(writer.finished())} atoms are kept"
    except StoreError:  # nothing that a resumed run would keep can be read now; it will say why
        return "finished atoms are kept"
