"""The sample corpora that ship with the package."""

from importlib.resources import files
from pathlib import Path

from atomlora.errors import InputError


def sample_names() -> list[str]:
    """The names of the sample corpora, sorted."""
    return sorted(path.name for path in _samples().iterdir() if path.is_dir() and path.name[0] not in "._")


def sample_path(name: str) -> Path:
    """The folder of the sample corpus `name`. Raises InputError for an unknown name, listing the names."""
    names = sample_names()
    if name not in names:
        raise InputError(f"{name!r} is not a sample corpus; there are: {', '.join(names) or 'none'}")
    return _samples() / name


def _samples() -> Path:
    # Wheels are installed as plain folders; nothing in atomlora runs from inside a zip archive.
    folder = Path(str(files("atomlora.corpora"))) / "samples"
    if not folder.is_dir():
        raise InputError(f"{folder}: the sample corpora are missing; install atomlora again")
    return folder
