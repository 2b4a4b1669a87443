"""Manifests: what one version of a store is made of, and which version it came from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, PrivateAttr, StringConstraints, ValidationError

from atomlora.atom import Record, Target
from atomlora.errors import StoreError
from atomlora.store.files import (
    DamagedFileError,
    hash_buffer,
    is_digest,
    reading,
    require_digest,
    write_addressed,
)

FORMAT_VERSION = 2
"""The newest store format that this code reads, and the one that it writes. Format 1 knew no int8 records, no
tombstones and no tags; its versions stay as they are and readable."""

MANIFEST_LIMIT = 64 * 1024 * 1024

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelName(Record):
    """A base model or an embedder: its name for people, its fingerprint for the comparison."""

    name: str
    fingerprint: str


class SegmentEntry(Record):
    """A segment that the version uses; `atoms` counts all atoms in it, also those that this version left
    out."""

    sha256: Digest
    size_bytes: int
    atoms: int


class Manifest(Record):
    """One version of a store. `created` is UTC in ISO 8601; `settings` are the effective compile settings;
    `recipe` is the digest of the training settings; `parent` names the version before, None for the first;
    `tombstones` tells which of its atoms are gone, None where none are; `conflicts` names the records of atoms that
    contradict each other, None where there are none; `one_adapter` names the segment of the one adapter for everything,
    where it was asked for; `interference` names the records of what its atoms do to each other, None where nothing was
    measured."""

    format_version: int = FORMAT_VERSION
    parent: Digest | None
    created: str
    message: str
    base: ModelName
    embedder: ModelName
    settings: dict[str, Any]
    recipe: str
    targets: tuple[Target, ...]
    segments: tuple[SegmentEntry, ...]
    catalogue: Digest
    keys: Digest
    calibration: dict[str, Any]
    stats: dict[str, Any]
    conflicts: Digest | None = None
    one_adapter: Digest | None = None
    tombstones: Digest | None = None
    interference: Digest | None = None

    _version: str = PrivateAttr(default="")

    @property
    def version(self) -> str:
        """The sha256 of the manifest's file, which is the version's name; "" before it was written."""
        return self._version

    def objects(self) -> tuple[str, ...]:
        """Digests of every object that this version is made of."""
        beside = (self.tombstones, self.conflicts, self.one_adapter, self.interference)
        lists = (self.catalogue, self.keys, *(digest for digest in beside if digest is not None))
        return (*lists, *(segment.sha256 for segment in self.segments))


def canonical_json(value: Any, what: str) -> bytes:
    """Canonical JSON (sorted keys, no spaces, UTF-8) of a model or a JSON value; StoreError, naming `what`,
    when it holds something that JSON cannot carry: NaN, infinity, a lone surrogate, a foreign object."""
    try:
        # Python mode keeps NaN as NaN, which JSON mode would turn into null and so into another value.
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{what} cannot be written as JSON: {error}") from error


class ManifestFolder:
    """The `manifests/` folder of a store: `<sha256>.json` each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, version: str) -> Path:
        """Where the manifest of `version` lies; StoreError when that is not a sha256 in hex."""
        return self.folder / f"{require_digest(version)}.json"

    def write(self, manifest: Manifest) -> Manifest:
        """Write a manifest durably; returns it as it will be read. It counts for nothing before HEAD names
        it."""
        data = canonical_json(manifest, "manifest")
        written = parse_manifest(data, self.folder)
        write_addressed(self.folder, [data], self.path)
        return written

    def read(self, version: str) -> Manifest:
        """The manifest of `version`, verified. CorruptStoreError when it is missing or changed; StoreError
        when its format is newer than FORMAT_VERSION."""
        path = self.path(version)
        with reading(path):
            if os.stat(path).st_size > MANIFEST_LIMIT:
                raise DamagedFileError(path, f"is larger than {MANIFEST_LIMIT} bytes")
            data = path.read_bytes()
        found = hash_buffer(data)
        if found != version:
            raise DamagedFileError(path, f"its sha256 is {found[:12]}…, so its bytes have changed")
        return parse_manifest(data, path)

    def versions(self) -> list[str]:
        """All manifests on disk by version, sorted; those of interrupted commits are among them."""
        with reading(self.folder):
            names = os.listdir(self.folder)
        return sorted(name[:-5] for name in names if name.endswith(".json") and is_digest(name[:-5]))


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """A manifest from its bytes. The format is looked at first, as a newer one may have other fields."""
    try:
        plain = json.loads(data)
        format_version = plain["format_version"]
        if not isinstance(format_version, int) or format_version < 1:
            raise ValueError("format_version must be a whole number from 1")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedFileError(path, f"is not a manifest ({error})") from error
    if format_version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: store format {format_version}, made by a newer atomlora; this one reads formats up to "
            f"{FORMAT_VERSION}; upgrade atomlora"
        )
    try:
        manifest = Manifest.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DamagedFileError(
            path, f"is not a manifest of format {format_version} ({field}: {first['msg']})"
        ) from error
    # Kept rather than computed from the fields: a later format may add fields that this file's bytes do not
    # have.
    manifest._version = hash_buffer(data)
    return manifest
