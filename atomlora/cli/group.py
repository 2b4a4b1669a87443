"""Errors to messages and exit codes: a user's mistake never shows a traceback."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from atomlora.errors import AtomLoraError

INTERRUPTED = 130


class Commands(click.Group):
    """A group whose commands may raise AtomLoraError, OSError and KeyboardInterrupt.

    Commands are listed in the order in which they were added.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal without Unicode shows "?" instead of failing
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except AtomLoraError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as interruption:
            click.echo(str(interruption) or "Interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly when the reader of a pipe has gone
                raise
            place = f"{error.filename}: " if error.filename else ""
            message = f"{place}{error.strerror or error}; check the path, its permissions and the disk"
            click.echo(f"Error: {message}", err=True)
            ctx.exit(AtomLoraError.exit_code)
