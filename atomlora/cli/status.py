"""`status`: how far documents and a store have drifted apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atomlora.cli import options, render

if TYPE_CHECKING:
    from atomlora.status import Status

SHOWN = 20


@click.command()
@click.argument("src", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.store_argument
@click.option("--questions", type=click.Path(path_type=Path), help="The question file given to compile.")
@click.option("--tenant", metavar="NAME", help="Whose documents SRC are.  [default: everybody's]")
@options.json_option
def status(src: tuple[Path, ...], store: Path | str, questions: Path | None, tenant: str | None, as_json: bool) -> None:
    """Show what has changed in documents since STORE was compiled.

    SRC are the files and folders that were compiled. Nothing is trained, and no model is loaded.
    """
    from atomlora.status import status as read_status

    found = read_status(src, store, questions, tenant)
    options.print_json(found.model_dump(mode="json")) if as_json else show_status(found)


def show_status(found: Status) -> None:
    """One line a file that is not as it was, then the counts."""
    files, atoms = found.files, found.atoms
    lines = [
        *(f"new        {source}" for source in files.new),
        *(f"changed    {source}" for source in files.changed),
        *(f"moved      {one.before} -> {one.now}" for one in files.moved),
        *(f"removed    {source}" for source in files.removed),
    ]
    for line in lines[:SHOWN]:
        click.echo(render.untouched(line))
    if len(lines) > SHOWN:
        click.echo(f"… and {len(lines) - SHOWN} more (--json lists all)")
    click.echo(
        f"{found.store} at {found.version[:12]}: {files.unchanged} files unchanged; atoms: {atoms.new} new, "
        f"{atoms.kept} kept, {atoms.removed} to be removed, {atoms.stale} stale"
        + (f", {atoms.failed} of the kept not learnt in full" if atoms.failed else "")
    )
    for reason in found.stale_because:
        click.echo(f"stale: {reason}")
    if found.up_to_date:
        click.echo("up to date")
