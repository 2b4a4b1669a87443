"""`log`, `diff`, `checkout` and `tag`: how a store came to be, and which version of it counts."""

from __future__ import annotations

from pathlib import Path

import click

from atomlora.cli import options
from atomlora.errors import UsageError

VERSION_HELP = "A version is the start of its name, a tag, HEAD, or one of these~N for its N-th ancestor."


@click.command(epilog=VERSION_HELP)
@options.store_argument
@click.option("--all", "everything", is_flag=True, help="Also versions that the current one does not come from.")
@options.json_option
def log(store: Path | str, everything: bool, as_json: bool) -> None:
    """List a store's versions, newest first.

    The column `scores` holds what `atomlora eval --record` found, and how that moved since the version before that
    was asked the same questions.
    """
    from atomlora.cli.version_details import read_history, show_history

    show_history(read_history(store, everything), as_json)


@click.command(epilog=VERSION_HELP)
@options.store_argument
@click.argument("a")
@click.argument("b", default="HEAD")
@options.json_option
def diff(store: Path | str, a: str, b: str, as_json: bool) -> None:
    """Show what changed from version A to B (default: HEAD).

    Atoms that were added or removed, whose weights are others, or that stand in other places.
    """
    from atomlora.cli.version_details import show_difference
    from atomlora.store import Store, difference

    with Store.open(store, a) as one, Store.open(store, b) as other:
        show_difference(difference(one, other), as_json)


@click.command(epilog=VERSION_HELP)
@options.folder_argument
@click.argument("version")
@options.json_option
def checkout(store: Path, version: str, as_json: bool) -> None:
    """Make VERSION the one that is asked.

    Nothing is lost: every version stays, and is checked out again in the same way. `atomlora checkout STORE HEAD~1`
    takes the last compile back. The next compile goes on from VERSION.
    """
    from atomlora.store import checkout as check_out

    done = check_out(store, version)
    if as_json:
        options.print_json({"store": str(store), **done.model_dump(mode="json")})
        return
    click.echo(f"{store}: version {done.version[:12]} is the current one")
    if done.before not in (None, done.version):
        click.echo(f"Back with: atomlora checkout {store} {str(done.before)[:12]}", err=True)


@click.command(epilog=VERSION_HELP)
@options.folder_argument
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Move NAME if it is taken.")
@click.option("--delete", is_flag=True, help="Remove NAME; its version stays.")
@options.json_option
def tag(store: Path, name: str | None, version: str | None, force: bool, delete: bool, as_json: bool) -> None:
    """Name a version (default: HEAD), or list the names.

    A version with a tag outlives `atomlora gc --keep`.
    """
    from atomlora.store import delete_tag, list_tags, set_tag

    if delete:
        if name is None or version is not None or force:
            raise UsageError("--delete takes a NAME and nothing else")
        delete_tag(store, name)
    elif name is not None:
        set_tag(store, name, version or "HEAD", force)
    elif force:
        raise UsageError("--force moves a tag; give its NAME")
    tags = list_tags(store)
    lines = [f"{one:<20} {of[:12]}" for one, of in tags.items()]
    options.print_json({"store": str(store), "tags": tags}) if as_json else click.echo("\n".join(lines), nl=bool(lines))
