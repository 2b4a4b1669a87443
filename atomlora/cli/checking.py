"""`check`: how well a store's atoms stand beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atomlora.cli import options


@click.command()
@options.store_argument
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to this file.")
@click.option(
    "--golden", type=click.Path(path_type=Path), help="Ask these questions (as eval does), not the atoms' own."
)
@click.option("--measure", is_flag=True, help="Keep what is measured in the store, as its next version.")
@click.option("--questions", default=64, show_default=True, type=click.IntRange(min=1), help="On how many.")
@options.at_option
@options.base_option
@options.device_option
@options.json_option
def check(store: Path | str, html: Path | None, measure: bool, as_json: bool, **how: Any) -> None:
    """Check how atoms stack.

    Tells which pairs of atoms disturb each other, how well an atom is recalled beside 1, 3 and 7 others, and what a
    wrong atom does to general questions that no training saw.
    """
    from atomlora.cli.checks import run_check, show_check, write_report

    options.check_place("--html", html)
    opening = {name: how.pop(name) for name in ("base", "device", "version")}
    with options.open_model(store, **opening) as model:
        report = run_check(model, measure, **how)
        if html is not None:
            write_report(model, report, html)
        show_check(model, report, as_json)
