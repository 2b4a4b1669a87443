"""`eval --regression`: its options, its progress, its table and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.cli.progress import counted
from atomlora.errors import RegressionError, UsageError
from atomlora.spread import evenly

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA
    from atomlora.regression import Compared, Limits, RegressionReport

LIMITS = ("min_unchanged", "min_still_right", "min_still_refused", "max_kl")
SHOWN = 5  # prompts that were lost


def check_options(regression: bool, record: bool, how: dict[str, Any]) -> Limits | None:
    """Takes the options of --regression out of `how` and gives its limits; None for an ordinary evaluation, of which
    `how` then holds the options. UsageError for options of the one that are given to the other."""
    given = {name: value for name in LIMITS if (value := how.pop(name)) is not None}
    if not regression:
        if given or how["labels"]:
            name = next(iter(given), "label").replace("_", "-")
            raise UsageError(f"--{name} is of no use without --regression")
        how.pop("labels")
        return None
    if record or how["documents"] is not None:
        raise UsageError(f"--{'record' if record else 'documents'} is of no use with --regression")
    if how["style"] == "short":
        raise UsageError("--style short is of no use with --regression, which compares what the base says")
    from atomlora.regression import Limits

    if how["where"] is not None:
        raise UsageError("--tenant is of no use with --regression")
    for name in ("modes", "documents", "batch_size", "style", "where"):
        how.pop(name)
    return Limits(**given)


def run_regression(
    model: AtomLoRA,
    path: Path,
    limits: Limits,
    as_json: bool,
    *,
    limit: int | None,
    predictions: Path | None,
    labels: tuple[str, ...],
    top_k: int,
    max_new_tokens: int,
) -> None:
    """Compare, show the report, and raise RegressionError where a limit was missed."""
    from atomlora.regression import load_cases, regression

    cases = load_cases(path)
    if limit is not None:
        cases = evenly(cases, limit)
    seen: list[Compared] = []
    with counted("comparing", len(cases), seen.append) as hear:
        report = regression(
            model, cases, limits, top_k=top_k, max_new_tokens=max_new_tokens, labels=labels, on_case=hear
        )
    if predictions is not None:
        predictions.write_text("".join(one.model_dump_json() + "\n" for one in seen), encoding="utf-8")
    show_regression(report, seen, as_json)
    if not report.passed:
        raise RegressionError("; ".join(report.failures))


def show_regression(report: RegressionReport, seen: list[Compared], as_json: bool) -> None:
    """The report on stdout; the first prompts that were lost on stderr."""
    lost = [one for one in seen if one.base_kept and not one.kept]
    for one in lost[:SHOWN]:
        what = "No longer refused" if one.refuse else "No longer right"
        said = f"{render.one_line(one.base, render.QUOTED)} -> {render.one_line(one.composed, render.QUOTED)}"
        click.echo(f"{what}: {render.one_line(one.prompt)}: {said}", err=True)
    if len(lost) > SHOWN:
        click.echo(f"… and {len(lost) - SHOWN} more", err=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    rows = [
        ["unchanged", "", _shown(report.unchanged), ""],
        ["right", _shown(report.right_base), _shown(report.right), _shown(report.still_right)],
        ["refused", _shown(report.refused_base), _shown(report.refused), _shown(report.still_refused)],
    ]
    render.table([f"{report.n} prompts", "base", "composed", "still"], rows)
    click.echo(f"KL per token {report.kl_per_token:.4f} nats; {'passed' if report.passed else 'FAILED'}")


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
