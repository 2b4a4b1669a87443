"""`atomlora` and `python -m atomlora`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is imported ends as it does later, without a traceback."""
    try:
        from atomlora.cli import main as commands
    except KeyboardInterrupt:
        sys.exit(130)
    commands(prog_name="atomlora")


if __name__ == "__main__":
    main()
