"""`sample`: a corpus that ships with the package."""

from __future__ import annotations

from pathlib import Path

import click

from atomlora.cli import options


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--output", type=options.OutputPath(), help="Folder to make (default: ./NAME).")
@options.json_option
def sample(name: str | None, output: Path | None, as_json: bool) -> None:
    """Copy a sample corpus to try things with.

    Without NAME, list the sample corpora.
    """
    from atomlora.corpora import sample_names

    if name is None:
        names = sample_names()
        options.print_json({"samples": names}) if as_json else click.echo("\n".join(names))
        return
    folder = copy_sample(name, output or Path(name))
    if as_json:
        options.print_json({"sample": name, "path": str(folder)})
    else:
        click.echo(f"{folder}\nNow: atomlora compile {folder / 'documents'} -o {name}.atoms")


def copy_sample(name: str, folder: Path) -> Path:
    """Copy a sample to `folder`, which must not exist or be empty; returns it."""
    import shutil

    from atomlora.corpora import sample_path
    from atomlora.errors import UsageError

    source = sample_path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"-o {folder}: already exists and is not an empty folder; name a new one")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
