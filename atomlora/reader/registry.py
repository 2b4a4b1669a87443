"""Which reader a name stands for."""

from __future__ import annotations

from pathlib import Path

from atomlora.bases import EMBEDDED_BASE, Base
from atomlora.errors import UsageError
from atomlora.reader.folder import read_folder
from atomlora.reader.mounted import Reader
from atomlora.reader.whole import own_reader

SHIPPED = {EMBEDDED_BASE: Path(__file__).parent / "readers" / EMBEDDED_BASE}


def reader_for(name: str, base: Base, recorded: str = "auto") -> Reader | None:
    """The reader called `name`, mounted on a view of `base`; None where there is none.

    - `auto`: the one that was recorded with the store, else the base itself where `atomlora adapt --method galore` made
      it, else the shipped one of this base, else none
    - `none`: none
    - a folder: written by `atomlora adapt`

    Raises UsageError for an unknown name and for a reader of another base.
    """
    if name == "auto" and recorded != "auto":
        if recorded != "none" and not Path(recorded).is_dir():
            raise UsageError(
                f"the store was compiled with --reader {recorded}, which is not there; give --reader DIR or none"
            )
        name = recorded
    if name == "none":
        return None
    if name != "auto":
        return Reader(base, read_folder(Path(name)))
    if (own := own_reader(base)) is not None:
        return Reader(base, own)
    shipped = [read_folder(path) for path in SHIPPED.values()]
    fitting = [one for one in shipped if one.recipe.base.fingerprint == base.fingerprint]
    return Reader(base, fitting[0]) if fitting else None
