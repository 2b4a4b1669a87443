"""`show`, `log` and `verify`: what is in a store, how it came to be, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from atomlora.cli import options
from atomlora.errors import CorruptStoreError


@click.command()
@options.store_argument
@click.argument("atom", required=False)
@options.json_option
def show(store: Path, atom: str | None, as_json: bool) -> None:
    """List atoms, or show one.

    ATOM is an atom's id or the start of it, six characters or more.
    """
    from atomlora.cli.details import show_atom, show_atoms
    from atomlora.store import Store

    with Store.open(store) as opened:
        if atom is None:
            show_atoms(opened, as_json)
        else:
            show_atom(opened, atom, as_json)


@click.command()
@options.store_argument
@options.json_option
def log(store: Path, as_json: bool) -> None:
    """List a store's versions, newest first."""
    from atomlora.cli.details import show_versions
    from atomlora.store import Store

    with Store.open(store) as opened:
        show_versions(opened.log(), as_json)


@click.command()
@options.store_argument
@options.json_option
def verify(store: Path, as_json: bool) -> None:
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
