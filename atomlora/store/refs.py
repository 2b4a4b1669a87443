"""Names for versions: the start of a digest, HEAD, tags, and `NAME~N` for the N-th ancestor of any of these.

A tag is a file `tags/NAME` that holds a version's name, replaced in one step like HEAD.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from atomlora.errors import StoreError
from atomlora.store.files import (
    DamagedFileError,
    fsync_folder,
    is_digest,
    make_folder,
    reading,
    replace_durably,
    writing,
)
from atomlora.store.layout import HEX, MINIMUM_PREFIX, read_head, resolve_version
from atomlora.store.manifest import ManifestFolder

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REVISION = re.compile(r"(?P<name>[^~]+)(~(?P<steps>\d{1,9}))?")


class TagFolder:
    """The `tags/` folder of the store at `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self._store = folder
        self.folder = folder / "tags"

    def names(self) -> list[str]:
        """All tags, sorted; files that are no tags are passed over."""
        if not self.folder.is_dir():
            return []
        with reading(self.folder):
            return sorted(name for name in os.listdir(self.folder) if is_tag(name))

    def read(self, name: str) -> str:
        """The version that a tag names; CorruptStoreError when the file holds none or names none that is there."""
        path = self.path(name)
        remedy = f"set it again: atomlora tag {self._store} {name} VERSION --force"
        with reading(path), path.open("rb") as file:
            data = file.read(66)
        text = data[:64].decode("ascii", errors="replace")
        if len(data) != 65 or data[64:] != b"\n" or not is_digest(text):
            raise DamagedFileError(path, "does not hold a version's name", remedy)
        if not ManifestFolder(self._store / "manifests").path(text).exists():
            raise DamagedFileError(path, f"names version {text[:12]}, which the store does not have", remedy)
        return text

    def all(self) -> dict[str, str]:
        """{tag: version}; CorruptStoreError at the first that is damaged."""
        return {name: self.read(name) for name in self.names()}

    def write(self, name: str, version: str, force: bool = False) -> None:
        """Name `version` durably; StoreError for a name that cannot be a tag or, without `force`, is taken."""
        path = self.path(name)
        taken = next((other for other in self.names() if other.lower() == name.lower()), None)
        if taken is not None and taken != name:
            raise StoreError(f"tag {name}: differs from tag {taken} only in upper and lower case; choose another name")
        if taken is not None and not force:
            raise StoreError(f"tag {name}: is taken; move it with --force, or remove it with --delete")
        make_folder(self.folder)
        replace_durably(path, f"{version}\n".encode())

    def delete(self, name: str) -> None:
        """Remove a tag durably; the version stays. StoreError when there is no such tag."""
        path = self.path(name)
        if name not in self.names():
            raise StoreError(f"tag {name}: there is none of that name; see atomlora tag {self._store}")
        with writing(path):
            os.unlink(path)
            fsync_folder(self.folder)

    def path(self, name: str) -> Path:
        """Where a tag lies; StoreError for a name that cannot be one."""
        if not is_tag(name):
            raise StoreError(
                f"{name[:80]!r} cannot be a tag: use up to 64 letters, digits, '.', '_' and '-', beginning with a "
                f"letter or digit; not HEAD, and not {MINIMUM_PREFIX} or more hex digits, which would look like a "
                "version"
            )
        return self.folder / name


def is_tag(name: str) -> bool:
    """Whether a tag can have this name; nothing else from outside ever becomes a path in `tags/`."""
    return _TAG.fullmatch(name) is not None and name.upper() != "HEAD" and not _like_a_version(name)


def resolve(folder: Path, revision: str) -> str:
    """The full version that `revision` names in the store at `folder`: a tag, HEAD, or the start of a version, each
    with or without `~N`. StoreError where it names none, saying what there is."""
    manifests = ManifestFolder(folder / "manifests")
    match = _REVISION.fullmatch(revision)
    if match is None:
        raise StoreError(f"{revision[:80]!r} is not a version; give a version's start, a tag, HEAD, or one of these~N")
    name, steps = match["name"], int(match["steps"] or 0)
    version = _named(folder, manifests, name)
    for step in range(steps):
        parent = manifests.read(version).parent
        if parent is None or (parent in shallow(folder) and not manifests.path(parent).exists()):
            raise StoreError(f"{revision}: {name} has only {step} versions before it; see atomlora log {folder}")
        version = parent
    return version


def shallow(folder: Path) -> frozenset[str]:
    """Versions that `gc --keep` removed, so that it is no damage when they are missing."""
    path = folder / "shallow"
    if not path.exists():
        return frozenset()
    with reading(path):
        lines = path.read_bytes().split(b"\n")
    names = [line.decode("ascii", errors="replace") for line in lines[:-1]]
    if lines[-1] or not all(is_digest(name) for name in names):
        raise DamagedFileError(path, "does not hold versions' names, one a line")
    return frozenset(names)


def _named(folder: Path, manifests: ManifestFolder, name: str) -> str:
    if name == "HEAD":
        head = read_head(folder)
        if head is None:
            raise StoreError(f"{folder}: has no version yet (its first compile did not finish); compile again")
        return head
    tags = TagFolder(folder)
    if name in tags.names():
        return tags.read(name)
    if not _like_a_version(name):
        known = ", ".join(tags.names()[:8])
        raise StoreError(
            f"{folder}: {name[:80]!r} is no tag ({'there are ' + known if known else 'there are none'}) and not a "
            f"version; give a version's first {MINIMUM_PREFIX} hex characters or more (see atomlora log {folder}), a "
            "tag, or HEAD"
        )
    return resolve_version(manifests, name)


def _like_a_version(name: str) -> bool:
    return MINIMUM_PREFIX <= len(name) <= 64 and HEX.issuperset(name)


def tags_by_version(folder: Path) -> dict[str, list[str]]:
    """{version: its tags}, without those that are damaged."""
    found: dict[str, list[str]] = {}
    tags = TagFolder(folder)
    for name in tags.names():
        with contextlib.suppress(StoreError):
            found.setdefault(tags.read(name), []).append(name)
    return found
