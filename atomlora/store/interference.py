"""Interference records of a version: JSON lines, first `{"neighbours", "probes"}`, then one atom a line."""

from __future__ import annotations

import json

from pydantic import ValidationError

from atomlora.interference.records import AtomRecord, InterferenceRecords
from atomlora.store.files import DamagedFileError
from atomlora.store.manifest import canonical_json
from atomlora.store.objects import ObjectFolder


def write_interference(objects: ObjectFolder, records: InterferenceRecords) -> str:
    """Write records durably; returns the digest."""
    head = {"neighbours": records.neighbours, "probes": records.probes}
    lines = [canonical_json(head, "interference records")]
    lines += [canonical_json(atom, f"interference record of atom {atom.id[:12]}") for atom in records.atoms]
    return objects.write(line + b"\n" for line in lines)[0]


def read_interference(objects: ObjectFolder, digest: str) -> InterferenceRecords:
    """The records of that digest, verified; CorruptStoreError when the bytes have changed or are none."""
    lines = bytes(objects.map(digest)).split(b"\n")
    try:
        atoms = tuple(AtomRecord.model_validate_json(line) for line in lines[1:] if line)
        return InterferenceRecords(**json.loads(lines[0]), atoms=atoms)
    except (ValidationError, ValueError, TypeError) as error:
        raise DamagedFileError(objects.path(digest), f"holds no interference records ({error})") from error
