"""Evaluations of versions on golden sets: what `eval --record` leaves in the store, and how quality moved.

Each is a file `evaluations/<version>.<sha256 of its bytes>.json`: added beside the version, which never changes, and
checked against its name whenever it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atomlora.atom import Record
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store.files import (
    DamagedFileError,
    hash_buffer,
    make_folder,
    reading,
    write_addressed,
    writing,
)
from atomlora.store.manifest import Digest, Manifest, canonical_json

_NAME = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})\.json")
_LIMIT = 1 << 22
_REMEDY = "restore it from a backup, or remove it and evaluate the version again"


class Evaluation(Record):
    """What a version scored. `golden` is the file's name, `golden_sha256` of its bytes; `created` is UTC in ISO
    8601; `asked` says how (modes, limit, top_k, max_new_tokens, reader, and style, filter, steadiness and second look
    where they are not the defaults); `report` is an `atomlora.evaluate.EvalReport`.
    """

    version: Digest
    created: str
    golden: str
    golden_sha256: Digest
    asked: dict[str, Any]
    report: dict[str, Any]

    @property
    def questions(self) -> int:
        """How many questions were asked."""
        return int(self.report.get("questions", 0))

    def scores(self) -> dict[str, float]:
        """The figures that `log` follows: `contains` of every mode, and recall@1 of routing."""
        found = {mode: float(row["contains"]) for mode, row in self.report.get("modes", {}).items()}
        if routing := self.report.get("routing"):
            found["routing"] = float(routing["recall_at_1"])
        return found

    def comparable(self, other: Evaluation) -> bool:
        """Whether both asked the same questions in the same way."""
        # What was not recorded before there were readers is as None was.
        mine, theirs = ({k: v for k, v in one.asked.items() if k != "modes" and v is not None} for one in (self, other))
        return self.golden_sha256 == other.golden_sha256 and mine == theirs


class EvaluationFolder:
    """The `evaluations/` folder of a store, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "evaluations"

    def write(self, evaluation: Evaluation) -> Path:
        """Add an evaluation durably. Needs no lock: nothing is ever changed in place."""
        make_folder(self.folder)
        data = canonical_json(evaluation, "evaluation")

        def place(digest: str) -> Path:
            return self.folder / f"{evaluation.version}.{digest}.json"

        digest, _ = write_addressed(self.folder, [data], place)
        return place(digest)

    def take(self, data: bytes, version: str, digest: str) -> None:
        """Add the bytes of an evaluation that came from elsewhere, where they are what their name tells."""
        target = self.folder / f"{version}.{digest}.json"
        if _NAME.fullmatch(target.name) and hash_buffer(data) == digest:
            make_folder(self.folder)
            write_addressed(self.folder, [data], lambda _: target)

    def has(self, version: str, digest: str) -> bool:
        """Whether an evaluation is here, and whole."""
        try:
            self.read(self.folder / f"{version}.{digest}.json")
        except StoreError:  # missing, or rotten
            return False
        return True

    def paths(self, version: str = "") -> list[Path]:
        """The files of a version (or of all), sorted; other files are passed over."""
        if not self.folder.is_dir():
            return []
        with reading(self.folder):
            names = sorted(os.listdir(self.folder))
        return [self.folder / name for name in names if _NAME.fullmatch(name) and name.startswith(version)]

    def read(self, path: Path) -> Evaluation:
        """One evaluation, verified."""
        match = _NAME.fullmatch(path.name)
        with reading(path):
            data = path.read_bytes() if path.stat().st_size <= _LIMIT else b""
        if match is None or hash_buffer(data) != match[2]:
            raise DamagedFileError(path, "its bytes are not those that its name tells, so they have changed", _REMEDY)
        try:
            found = Evaluation.model_validate_json(data)
        except ValidationError as error:
            raise DamagedFileError(path, f"is no evaluation ({error.errors()[0]['msg']})", _REMEDY) from error
        if found.version != match[1]:
            raise DamagedFileError(path, "is the evaluation of another version", _REMEDY)
        return found

    def of(self, version: str) -> list[Evaluation]:
        """The evaluations of a version, oldest first."""
        return sorted((self.read(path) for path in self.paths(version)), key=lambda one: one.created)

    def damaged(self) -> Iterator[tuple[str, DamagedFileError]]:
        """(version, error) of every evaluation that cannot be believed."""
        for path in self.paths():
            try:
                self.read(path)
            except DamagedFileError as error:
                yield path.name[:64], error
            except CorruptStoreError as error:
                yield path.name[:64], DamagedFileError(path, str(error), _REMEDY)

    def remove(self, version: str) -> int:
        """Remove a version's evaluations; returns the bytes."""
        return sum(_removed(path) for path in self.paths(version))


def moved(history: Sequence[Manifest], of: Mapping[str, Sequence[Evaluation]]) -> dict[str, dict[str, float]]:
    """{version: {score: change}} of the latest evaluation of each version against the latest comparable one before
    it; `history` is newest first. Versions without either are left out."""
    found: dict[str, dict[str, float]] = {}
    for at, manifest in enumerate(history):
        mine = of.get(manifest.version, ())
        if not mine:
            continue
        latest = mine[-1]
        for older in history[at + 1 :]:
            before = [one for one in of.get(older.version, ()) if one.comparable(latest)]
            if before:
                was, now = before[-1].scores(), latest.scores()
                found[manifest.version] = {name: round(now[name] - was[name], 6) for name in now if name in was}
                break
    return found


def _removed(path: Path) -> int:
    with writing(path):
        size = path.stat().st_size
        path.unlink()
    return size
