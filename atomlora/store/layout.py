"""What tells a store from another folder, and how a version is found in it: HEAD, or the start of a version's
name."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from atomlora.errors import StoreError
from atomlora.store.files import REMEDY, TEMPORARY, DamagedFileError, is_digest, make_folder, reading
from atomlora.store.manifest import ManifestFolder

MINIMUM_PREFIX = 6
HEX = frozenset("0123456789abcdef")
LAYOUT = frozenset({"objects", "manifests", "tags", "evaluations", "cache", "lock", "HEAD", "shallow"})


def read_head(folder: Path) -> str | None:
    """The current version of the store at `folder`; None when none was committed yet.

    Raises StoreError when there is no store, CorruptStoreError when HEAD is lost or names no version.
    """
    require_store(folder)
    path = folder / "HEAD"
    remedy = f"{REMEDY}; or write the name of the version you want from {folder / 'manifests'} into it"
    if not path.exists():
        if ManifestFolder(folder / "manifests").versions():
            raise DamagedFileError(path, "the file is missing", f"compile again, which keeps finished atoms; {remedy}")
        return None
    with reading(path), path.open("rb") as file:
        data = file.read(66)
    text = data.decode("ascii", errors="replace")
    if len(data) != 65 or text[64] != "\n" or not is_digest(text[:64]):
        raise DamagedFileError(path, "does not hold a version's name", remedy)
    manifest = ManifestFolder(folder / "manifests").path(text[:64])
    if not manifest.exists():
        raise DamagedFileError(path, f"names the version of {manifest}, which is missing", remedy)
    return text[:64]


def create_store(folder: Path) -> Path:
    """Make an empty store at `folder` (see `Store.create`)."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; give a folder for the store")
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    foreign = [name for name in names if not is_ours(name)]
    if foreign:
        raise StoreError(f"{folder}: is not an atomlora store and not empty (it has {foreign[0]!r}); give a new folder")
    for place in (*reversed(folder.absolute().parents), folder, folder / "objects", folder / "manifests"):
        if not place.is_dir():
            make_folder(place)
    return folder


def require_store(folder: Path) -> None:
    """StoreError, saying what it is instead and how to make one, unless `folder` is a store."""
    hint = f"make one with: atomlora compile SRC… -o {shlex.quote(str(folder))}"
    if not folder.exists():
        raise StoreError(f"{folder}: no such folder; {hint}")
    if not folder.is_dir():
        raise StoreError(f"{folder}: is a file, not a store folder; {hint}")
    with reading(folder):
        names = os.listdir(folder)
    if not names:
        raise StoreError(f"{folder}: is an empty folder, not a store; {hint}")
    if "HEAD" not in names and not {"objects", "manifests"}.issubset(names):
        raise StoreError(f"{folder}: is not an atomlora store (no HEAD, objects/ and manifests/); {hint}")


def resolve_version(manifests: ManifestFolder, version: str) -> str:
    """The full name of the version that `version` starts; StoreError when there is none or more than one."""
    if not MINIMUM_PREFIX <= len(version) <= 64 or not HEX.issuperset(version):
        raise StoreError(f"{version[:80]!r} is not a version; give its first {MINIMUM_PREFIX} hex characters or more")
    found = [name for name in manifests.versions() if name.startswith(version)]
    if len(found) != 1:
        what = "no version starts" if not found else f"{len(found)} versions start"
        raise StoreError(
            f"{manifests.folder.parent}: {what} with {version}; see atomlora log {manifests.folder.parent}"
        )
    return found[0]


def is_ours(name: str) -> bool:
    """Whether a name at the top of a folder is one that a store has there."""
    return name in LAYOUT or name.startswith(TEMPORARY)
