"""Options of `adapt` to its settings, its progress on stderr, and its summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.cli.progress import SECONDS_BETWEEN_LINES, duration
from atomlora.errors import UsageError
from atomlora.reader.settings import AdaptSettings

if TYPE_CHECKING:
    from atomlora.reader.loop import AdaptProgress
    from atomlora.reader.training import AdaptReport


def adapt_settings(targets: str | None, **chosen: Any) -> AdaptSettings:
    """The defaults, but for the options that were given. UsageError names the option that cannot be."""
    given = {name: value for name, value in chosen.items() if value is not None}
    if targets is not None:
        given["targets"] = tuple(name.strip() for name in targets.split(",") if name.strip())
        if not given["targets"]:
            raise UsageError("--targets is empty; name linear layers, such as q_proj,v_proj")
    try:
        return AdaptSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg'].lower()}"
        ) from error


def adapt_shown(
    data: Path, out: Path, base: str, settings: AdaptSettings, device: str, start: Path | None
) -> AdaptReport:
    """`atomlora.reader.training.adapt` with progress on stderr; an interruption says what is kept."""
    from atomlora.reader.training import adapt

    try:
        with _Bar() as bar:
            return adapt(data, out, base, settings, device, bar.hear, start)
    except KeyboardInterrupt:
        kept = f"{out} holds a checkpoint; the same command resumes" if out.is_dir() else "nothing was trained yet"
        raise KeyboardInterrupt(f"Stopped; {kept}") from None


def show_adapted(report: AdaptReport, as_json: bool) -> None:
    """The summary on stdout, what was left out on stderr."""
    if report.left_out:
        click.echo(f"Warning: {report.left_out} texts were left out as too long with their questions", err=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    click.echo(
        f"{render.one_line(report.reader)}: {report.parameters:,} parameters trained on {report.examples:,} examples "
        f"in {report.steps} steps and {duration(report.seconds)}, loss {report.loss:.3f}"
    )
    if report.fingerprint is not None:
        click.echo(f"It is a base of its own ({report.fingerprint[:12]}…): compile and ask with --base {report.reader}")


class _Bar:
    """A bar where stderr is a terminal, else a line every ten seconds."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(console=console, disable=not self._live, transient=True)
        self._progress.start()
        self._task = self._progress.add_task("training", total=1.0)
        self._told = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def hear(self, heard: AdaptProgress) -> None:
        left = heard.seconds * (1 - heard.done) / heard.done if heard.done else 0.0
        facts = f"step {heard.steps}, loss {heard.loss:.3f}, {duration(left)} left"
        self._progress.update(self._task, completed=heard.done, description=facts)
        if not self._live and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            click.echo(f"training: {heard.done:.0%}, {facts}", err=True)
            self._told = time.monotonic()
