"""`python -m atomlora`."""

from atomlora.cli import main

if __name__ == "__main__":
    main(prog_name="atomlora")
