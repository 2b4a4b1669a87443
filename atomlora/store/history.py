"""Moving between versions and naming them: `checkout`, tags. Both take the writer's lock."""

from __future__ import annotations

from pathlib import Path

from atomlora.atom import Record
from atomlora.errors import CorruptStoreError
from atomlora.store.files import DamagedFileError, replace_durably
from atomlora.store.layout import read_head, require_store
from atomlora.store.lock import WriterLock
from atomlora.store.manifest import Manifest, ManifestFolder
from atomlora.store.objects import ObjectFolder
from atomlora.store.refs import TagFolder, resolve


class Checkout(Record):
    """What `checkout` did: the current version before (None where HEAD was lost) and now."""

    version: str
    before: str | None


def checkout(path: Path | str, revision: str) -> Checkout:
    """Make a version the current one, in one step: every other version stays, and the next compile goes on from
    this one.

    Raises StoreError when there is no such version or a writer is at work, CorruptStoreError when an object that the
    version needs is missing or has another size; then nothing is changed. A damaged HEAD is replaced.
    """
    folder = Path(path)
    require_store(folder)
    with WriterLock(folder / "lock"):
        version = resolve(folder, revision)
        _require_whole(folder, ManifestFolder(folder / "manifests").read(version))
        try:
            before = read_head(folder)
        except CorruptStoreError:
            before = None
        if before != version:
            replace_durably(folder / "HEAD", f"{version}\n".encode())
    return Checkout(version=version, before=before)


def set_tag(path: Path | str, name: str, revision: str = "HEAD", force: bool = False) -> str:
    """Give a version a name; returns the version. `force` moves a tag that is taken."""
    folder = Path(path)
    require_store(folder)
    with WriterLock(folder / "lock"):
        version = resolve(folder, revision)
        ManifestFolder(folder / "manifests").read(version)
        TagFolder(folder).write(name, version, force)
    return version


def delete_tag(path: Path | str, name: str) -> None:
    """Remove a tag; its version stays."""
    folder = Path(path)
    require_store(folder)
    with WriterLock(folder / "lock"):
        TagFolder(folder).delete(name)


def list_tags(path: Path | str) -> dict[str, str]:
    """{tag: version}, sorted by tag."""
    folder = Path(path)
    require_store(folder)
    return TagFolder(folder).all()


def _require_whole(folder: Path, manifest: Manifest) -> None:
    """CorruptStoreError unless every object of a version is there in its size; their bytes are checked when read."""
    objects = ObjectFolder(folder / "objects")
    sizes = {segment.sha256: segment.size_bytes for segment in manifest.segments}
    for digest in manifest.objects():
        size = objects.size(digest)
        if size != sizes.get(digest, size):
            raise DamagedFileError(objects.path(digest), f"has {size} bytes, not the {sizes[digest]} it must have")
