"""Running a check with progress, its tables, and the file of its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.errors import InputError

if TYPE_CHECKING:
    from atomlora.interference.check import CheckReport
    from atomlora.model import AtomLoRA

SHOWN = 10  # pairs in the table; JSON and the report have more
STAGES = {"measure": "measuring pairs", "stack": "stacking", "off topic": "asking off topic"}


def run_check(model: AtomLoRA, measure: bool, *, golden: Path | None, questions: int) -> CheckReport:
    """Check the store, with progress on stderr; with `measure`, what it has no records of is measured and committed
    first. Mistakes in the golden file are found before anything is computed."""
    from rich.console import Console
    from rich.progress import Progress

    from atomlora.golden import load_golden
    from atomlora.interference.check import CheckSettings, check_store
    from atomlora.interference.remeasure import remeasure
    from atomlora.model import AtomLoRA

    asked = None if golden is None else load_golden(golden)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("checking", total=None)

        def listen(stage: str, done: int, total: int) -> None:
            progress.update(task, description=STAGES[stage], completed=done, total=total)

        settings = CheckSettings(questions=questions)
        if not measure:
            return check_store(model, settings, asked, listen)
        version = remeasure(model, listen).version
        click.echo(f"{model.store.path}: version {version[:12]} has the records of all pairs", err=True)
        with AtomLoRA.open(model.store.path, model.base) as again:
            return check_store(again, settings, asked, listen)


def show_check(report: CheckReport, as_json: bool) -> None:
    """The report as tables, or as one object."""
    if not report.recorded:
        click.echo("The store has no interference records; these were measured now (--measure keeps them)", err=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    harmful = sum(pair.damage > 10 for pair in report.pairs)
    click.echo(
        f"{report.store}: {report.atoms} atoms, {len(report.pairs)} pairs of neighbours, of which {harmful} are "
        f"expected to cost more than 10 points of recall at weight 1; checked in {report.seconds:.0f} s"
    )
    rows = [
        [pair.a[:12], pair.b[:12], pair.damage, pair.delta_nll, pair.overlap, pair.kl] for pair in report.pairs[:SHOWN]
    ]
    if rows:
        click.echo("\nThe worst: b beside a, both at weight 1")
        render.table(
            ["a", "b", "points lost", "delta nll", "overlap", "kl"], [[*row[:2], *_three(row[2:])] for row in rows]
        )
    click.echo(f"\nRecall of whole statements, {'people' if report.asked == 'golden' else 'training'} questions")
    header = ["beside", "weights", *(f"k={one}" for one in sorted({row.k for row in report.stacked_recall}))]
    kinds = dict.fromkeys((row.others, row.weights) for row in report.stacked_recall)
    render.table(
        header,
        [
            [
                others,
                weights,
                *(f"{r.recall:.3f}" for r in report.stacked_recall if (r.others, r.weights) == (others, weights)),
            ]
            for others, weights in kinds
        ],
    )
    off = report.off_topic
    click.echo(
        f"\nOff topic, one wrong atom at weight 1 ({off.questions} unseen general questions): KL {off.kl:.4f} nats "
        f"a token, {off.unchanged:.1%} of answers unchanged ({off.interval[0]:.1%}-{off.interval[1]:.1%}); as routed, "
        f"with abstaining on: {off.routed_unchanged:.1%}"
    )


def check_place(html: Path | None) -> None:
    """InputError when a report could not be written there: known before anything is computed."""
    if html is not None and not html.absolute().parent.is_dir():
        raise InputError(f"--html {html}: its folder is not there; make it, or name another")


def write_report(model: AtomLoRA, report: CheckReport, path: Path) -> None:
    """Write the HTML report; InputError when the file cannot be written."""
    from atomlora.interference.report import report_html

    page = report_html(report, list(model.atoms.values()), model.store.keys())
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--html {path}: cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from error


def _three(values: list[float]) -> list[str]:
    return [f"{values[0]:.0f}", *(f"{value:.3f}" for value in values[1:])]
