"""Options that say which atoms may take part in an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from atomlora.cli.options import Command
from atomlora.errors import UsageError

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA
    from atomlora.router import RouteFilter

tenant_option = click.option("--tenant", metavar="NAME", help="Who asks: adds that tenant's atoms to everybody's.")
FILTERS = (
    tenant_option,
    click.option("--source", multiple=True, metavar="PATH", help="Only from this document, folder or pattern."),
    click.option(
        "--labelled", multiple=True, metavar="NAME", help="Only from documents with this label. Repeated: all."
    ),
    click.option("--since", metavar="DATE", help="Only from documents of then or later: 2024, 2024-03, 2024-03-12."),
    click.option("--until", metavar="DATE", help="Only from documents of then or earlier."),
)
_FIELDS = {"tenant": "tenant", "source": "sources", "labelled": "labels", "since": "since", "until": "until"}


def filter_options(command: Command) -> Command:
    """--tenant, --source, --labelled, --since and --until."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def take_filter(how: dict[str, Any]) -> RouteFilter | None:
    """Takes the filter's options out of `how`; None where none is given. UsageError names the option that is wrong."""
    taken = {name: how.pop(name, None) for name in _FIELDS}
    given = {_FIELDS[name]: value for name, value in taken.items() if value not in (None, ())}
    if not given:
        return None
    from pydantic import ValidationError

    from atomlora.router import RouteFilter

    try:
        return RouteFilter(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = first["loc"][0] if first["loc"] else "since"
        option = next(name for name, field in _FIELDS.items() if field == place)
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_too_short":
            reason = "is empty; give a name, or leave the option out"
        raise UsageError(f"--{option}: {reason}") from error


def note_if_nothing_passes(model: AtomLoRA, where: RouteFilter | None) -> None:
    """A line on stderr where the filter leaves no atom at all, or the tenant has none, so that a slip of the pen is not
    taken for ignorance."""
    if where is None:
        return
    if not model.router.count(where):
        click.echo("Note: no atom of the store passes these filters", err=True)
    elif where.tenant is not None and not any(where.tenant in atom.tenants for atom in model.atoms.values()):
        click.echo(f"Note: tenant {where.tenant!r} has no atoms of its own; everybody's take part", err=True)
