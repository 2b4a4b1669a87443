"""The conflicts of a version: JSON lines, one pair of atoms a line."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from atomlora.conflicts.records import ConflictRecord
from atomlora.store.files import DamagedFileError
from atomlora.store.manifest import canonical_json
from atomlora.store.objects import ObjectFolder


def write_conflicts(objects: ObjectFolder, records: Sequence[ConflictRecord]) -> str:
    """Write at least one record durably; returns the digest."""
    return objects.write(canonical_json(record, "a conflict") + b"\n" for record in records)[0]


def read_conflicts(objects: ObjectFolder, digest: str) -> tuple[ConflictRecord, ...]:
    """The records of that digest, verified; CorruptStoreError when the bytes have changed or are none."""
    lines = bytes(objects.map(digest)).split(b"\n")
    try:
        return tuple(ConflictRecord.model_validate_json(line) for line in lines if line)
    except ValidationError as error:
        raise DamagedFileError(objects.path(digest), f"holds no conflicts ({error.errors()[0]['msg']})") from error
