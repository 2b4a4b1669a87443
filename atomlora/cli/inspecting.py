"""`show`, `verify` and `gc`: what is in a store, whether it is whole, and what may go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atomlora.cli import options
from atomlora.errors import CorruptStoreError, UsageError

if TYPE_CHECKING:
    from atomlora.store import RecordType


@click.command()
@options.store_argument
@click.argument("atom", required=False)
@options.at_option
@options.json_option
def show(store: Path | str, atom: str | None, version: str | None, as_json: bool) -> None:
    """List atoms, or show one.

    ATOM is an atom's id or the start of it, six characters or more.
    """
    from atomlora.cli.details import show_atom, show_atoms
    from atomlora.store import Store

    with Store.open(store, version) as opened:
        if atom is None:
            show_atoms(opened, as_json)
        else:
            show_atom(opened, atom, as_json)


@click.command()
@options.store_argument
@options.json_option
def verify(store: Path | str, as_json: bool) -> None:
    """Read and check every byte of a store.

    The exit code is 3 when something has changed.
    """
    from atomlora.cli.details import show_verified
    from atomlora.store import Store

    with Store.open(store) as opened:
        report = opened.verify()
    show_verified(report, as_json)
    if not report.ok:
        raise CorruptStoreError(f"{store}: problems found: {len(report.problems)}")


@click.command()
@options.folder_argument
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Forget all versions but the current one, the N-1 before it, and those with a tag.",
)
@click.option("--compact", "compacting", is_flag=True, help="First make a version of few large segments.")
@click.option("--storage", type=click.Choice(["bf16", "int8"]), help="With --compact: store all weights so.")
@options.json_option
def gc(
    store: Path, dry_run: bool, keep: int | None, compacting: bool, storage: RecordType | None, as_json: bool
) -> None:
    """Remove what no version needs.

    That is what interrupted compiles left. Old versions stay unless --keep says otherwise.
    """
    from atomlora.cli.details import collect, show_collected

    if storage is not None and not compacting:
        raise UsageError("--storage says how --compact stores weights; give both, or neither")
    if dry_run and compacting:
        raise UsageError("--dry-run cannot be combined with --compact, which makes a version")
    show_collected(collect(store, dry_run, keep, compacting, storage), as_json)
