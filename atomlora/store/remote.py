"""The files of a store behind an fsspec address, for `atomlora.store.transfer` and `atomlora.store.mirror`.

A remote store has the layout of a local one. Objects, manifests and evaluations are named by their digests, so they are
only ever added; what is written last, in one step, is HEAD. A backend must therefore replace one small file atomically:
object stores do (a PUT is seen whole or not at all), a local folder does by rename; others are refused.
https://filesystem-spec.readthedocs.io/en/latest/
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Container, Iterator
from pathlib import Path

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store.evaluations import EvaluationFolder
from atomlora.store.files import is_digest, replace_durably, write_addressed
from atomlora.store.manifest import MANIFEST_LIMIT, Manifest, parse_manifest
from atomlora.store.refs import TagFolder, is_tag

# Protocols whose writes of one object are seen whole or not at all.
ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
LOCAL = frozenset({"file", "local"})
_CHUNK = 1 << 22
_SMALL = 1 << 22
_logger = logging.getLogger(__name__)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*")


def is_url(path: Path | str) -> bool:
    """Whether this is an fsspec address rather than a path."""
    return isinstance(path, str) and _URL.fullmatch(path) is not None


def require_address(url: str) -> None:
    """StoreError for a path, with the address that it has."""
    if not is_url(url):
        raise StoreError(f"{url}: is no address; give one such as s3://BUCKET/NAME, or file://{Path(url).absolute()}")


def require_atomic(url: str) -> None:
    """StoreError for what is no address, and for a protocol with which HEAD could be seen half-written."""
    require_address(url)
    protocol = url.split("://", 1)[0].lower()
    if protocol not in ATOMIC | LOCAL:
        known = ", ".join(f"{name}://" for name in sorted(ATOMIC | LOCAL))
        raise StoreError(
            f"{url}: {protocol} does not promise that a file is replaced in one step, so a reader could see half a "
            f"version; push to one of {known}"
        )


class Remote:
    """The files of a store at an fsspec address. Every error is a StoreError that names the address."""

    def __init__(self, url: str) -> None:
        """Raises StoreError for what is no address, an unknown protocol, or one whose package is not installed."""
        require_address(url)
        self.url = url.rstrip("/")
        self.protocol = url.split("://", 1)[0].lower()
        try:
            import fsspec

            self._fs, root = fsspec.core.url_to_fs(self.url)
        except Exception as error:  # backends may connect here, each with errors of its own
            raise StoreError(
                f"{url}: cannot be opened ({type(error).__name__}: {error}); give a folder, or an address such "
                "as s3://BUCKET/NAME"
            ) from error
        self._root = str(root).rstrip("/")

    def sizes(self, folder: str) -> dict[str, int]:
        """{path below the store: size in bytes} of all files in `folder`; empty where there is none."""
        with self._honest(folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._root.lstrip("/")) + 1
        return {path.lstrip("/")[start:]: int(facts["size"]) for path, facts in found.items()}

    def read(self, name: str, limit: int = _SMALL) -> bytes | None:
        """The bytes of a small file; None where there is none. StoreError above `limit` bytes."""
        with self._honest(name):
            try:
                with self._fs.open(f"{self._root}/{name}", "rb") as file:
                    data: bytes = file.read(limit + 1)
            except FileNotFoundError:
                return None
        if len(data) > limit:
            raise self.damaged(name, f"is larger than {limit} bytes")
        return data

    def chunks(self, name: str, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of a file in pieces; CorruptStoreError where it is missing or longer than `limit`."""
        size = 0
        with self._honest(name):
            try:
                file = self._fs.open(f"{self._root}/{name}", "rb")
            except FileNotFoundError as error:
                raise self.damaged(name, "the file is missing") from error
            with file:
                while piece := file.read(_CHUNK):
                    size += len(piece)
                    if limit is not None and size > limit:
                        raise self.damaged(name, f"is larger than {limit} bytes")
                    yield piece

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file in one step."""
        if self.protocol in LOCAL:
            path = Path(self._root) / name
            with self._honest(name):
                path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(path, bytes(data))
            return
        with self._honest(name):
            self._fs.pipe_file(f"{self._root}/{name}", bytes(data))

    def head(self) -> str | None:
        """The remote's current version; None where nothing was pushed yet."""
        data = self.read("HEAD")
        if data is None:
            return None
        text = data.decode("ascii", errors="replace")
        if len(text) != 65 or text[64] != "\n" or not is_digest(text[:64]):
            raise self.damaged("HEAD", "does not hold a version's name")
        return text[:64]

    def tags(self) -> list[str]:
        """The names of the tags there; files that are no tags are passed over."""
        return [name for name in (path.removeprefix("tags/") for path in self.sizes("tags")) if is_tag(name)]

    def tag(self, name: str) -> str:
        """What the file of a tag holds: a version's name, where the file is whole."""
        return (self.read(f"tags/{name}") or b"").decode("ascii", errors="replace").strip()

    def manifest(self, version: str) -> tuple[Manifest, bytes]:
        """A version's manifest, verified, and its bytes."""
        name = f"manifests/{version}.json"
        data = self.read(name, MANIFEST_LIMIT)
        if data is None:
            raise self.damaged(name, "the file is missing")
        try:
            found = parse_manifest(data, Path(name))
        except StoreError as error:
            if isinstance(error, CorruptStoreError):
                raise self.damaged(name, "is no manifest") from error
            raise StoreError(f"{self.url}/{error}") from error  # a newer format
        if found.version != version:
            raise self.damaged(name, "its bytes have changed")
        return found, data

    def fetch_object(self, digest: str, folder: Path, place: Path, limit: int | None = None) -> int:
        """Download an object durably to `place` in a temporary file of `folder`, verified before it gets its name;
        returns its size in bytes."""
        name = f"objects/{digest[:2]}/{digest}"

        def checked(found: str) -> Path:
            if found != digest:
                raise self.damaged(name, f"its sha256 is {found[:12]}…")
            return place

        return write_addressed(folder, self.chunks(name, limit), checked)[1]

    def damaged(self, name: str, reason: str) -> CorruptStoreError:
        """The error for a file that is not what it must be."""
        return CorruptStoreError(f"{self.url}/{name}: {reason}; push the store there again, or restore that file")

    @contextlib.contextmanager
    def _honest(self, name: str) -> Iterator[None]:
        """Turn whatever a backend raises into a StoreError that names the file."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # every backend has errors of its own: botocore's, aiohttp's, OSError
            raise StoreError(
                f"{self.url}/{name}: {type(error).__name__}: {error}; check the address, the credentials and the "
                "network, and run the same command again; what was transferred is kept"
            ) from error


def take_tag(remote: Remote, tags: TagFolder, name: str, version: str, force: bool) -> None:
    """Have a tag of `remote` here; one that cannot stand beside those that are here is left out with a warning, so that
    it does not keep the versions away."""
    try:
        tags.write(name, version, force)
    except StoreError as error:
        _logger.warning("%s: %s; it is left out", remote.url, error)


def take_evaluations(remote: Remote, scores: EvaluationFolder, versions: Container[str]) -> None:
    """Download the evaluations of `versions` that are not here; what is not what its name tells is passed over."""
    for name in remote.sizes("evaluations"):
        version, _, rest = name.removeprefix("evaluations/").partition(".")
        digest = rest.removesuffix(".json")
        if version in versions and is_digest(digest) and not scores.has(version, digest):
            scores.take(remote.read(name) or b"", version, digest)
