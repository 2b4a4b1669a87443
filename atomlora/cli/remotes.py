"""`push` and `pull`: stores to and from an address (s3://…, gs://…, file://…)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atomlora.cli import options

if TYPE_CHECKING:
    from atomlora.store.transfer import TransferReport


@click.command()
@options.folder_argument
@click.argument("url")
@click.option(
    "--force", is_flag=True, help="Also where URL holds a version that STORE does not come from; moves its tags too."
)
@options.json_option
def push(store: Path, url: str, force: bool, as_json: bool) -> None:
    """Publish STORE's current version at URL.

    With its history, tags and evaluations. What is there already is not sent again; readers of URL see the new version
    all at once.
    """
    from atomlora.store.transfer import push as send

    show_transfer(send(store, url, force), "sent", as_json)


@click.command()
@click.argument("url")
@options.folder_argument
@click.option(
    "--force", is_flag=True, help="Also where STORE has a version that URL does not come from; moves its tags too."
)
@options.json_option
def pull(url: str, store: Path, force: bool, as_json: bool) -> None:
    """Bring the store at URL into the folder STORE.

    Only what is missing is fetched, and every byte is checked. To ask a store without pulling it, give its URL to
    `atomlora ask`.
    """
    from atomlora.store.transfer import pull as fetch

    show_transfer(fetch(url, store, force), "fetched", as_json)


def show_transfer(report: TransferReport, done: str, as_json: bool) -> None:
    """What was moved."""
    if as_json:
        options.print_json(report.model_dump(mode="json"))
        return
    click.echo(
        f"{report.url if done == 'sent' else report.store}: version {report.version[:12]}; {report.objects} files "
        f"({report.size_bytes:,} bytes) and {report.versions} versions {done}"
    )
