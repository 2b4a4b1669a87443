"""Running a check with progress, its tables, and the file of its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.errors import InputError

if TYPE_CHECKING:
    from atomlora.interference.check import CheckedPair, CheckReport
    from atomlora.model import AtomLoRA

SHOWN = 10  # pairs in the table; JSON and the report have more
QUOTED = 40  # characters of an atom's text there
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


def show_check(model: AtomLoRA, report: CheckReport, as_json: bool) -> None:
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
    if report.pairs:
        click.echo("\nThe worst: b beside a, both at weight 1")
        rows = [_pair(model, pair) for pair in report.pairs[:SHOWN]]
        render.table(["points lost", "delta nll", "overlap", "a", "says", "b", "says"], rows)
    asked = "people's" if report.asked == "golden" else "training"
    click.echo(f"\nShare of {asked} questions recalled, by the whole statement, the atom itself at weight 1")
    ks = sorted({row.k for row in report.stacked_recall})
    recall = {(row.others, row.weights, row.k): f"{row.recall:.3f}" for row in report.stacked_recall}
    kinds = dict.fromkeys((row.others, row.weights) for row in report.stacked_recall)
    rows = [[*kind, *(recall[(*kind, k)] for k in ks)] for kind in kinds]
    render.table(["others", "at", *(f"k={k}" for k in ks)], rows)
    off = report.off_topic
    click.echo(
        f"\nOff topic, {off.questions} general questions that no training saw\n"
        f"one wrong atom at weight 1: {off.kl:.4f} nats a token off the base, {off.unchanged:.1%} of answers unchanged "
        f"({off.interval[0]:.1%}-{off.interval[1]:.1%})\n"
        f"as routed, abstaining on: {off.routed_unchanged:.1%} unchanged; {off.loops:.1%} of the base's answers repeat "
        f"themselves, which those with atoms may not"
    )


def _pair(model: AtomLoRA, pair: CheckedPair) -> list[str]:
    says = [render.one_line(model.atoms[one].text, QUOTED) for one in (pair.a, pair.b)]
    figures = [f"{pair.damage:.0f}", f"{pair.delta_nll:.3f}", f"{pair.overlap:.2f}"]
    return [*figures, pair.a[:8], says[0], pair.b[:8], says[1]]


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
