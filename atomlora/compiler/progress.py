"""What a compile run tells while it runs and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from atomlora.atom import Record
from atomlora.conflicts.records import ConflictRecord
from atomlora.corpora import SkippedFile

Stage = Literal["read", "questions", "pool", "train", "route", "interference"]


class CompileProgress(Record):
    """`done` of `total` in a stage; `recall` is the share of questions that the atoms finished so far reproduce."""

    stage: Stage
    done: int
    total: int
    recall: float | None = None
    atoms_per_second: float | None = None
    seconds_left: float | None = None
    message: str | None = None


Listener = Callable[[CompileProgress], None]


class FailedAtom(Record):
    """An atom that did not learn all of its questions: stored, marked, and listed."""

    id: str
    text: str
    source: str
    questions: tuple[str, ...]


class CompileReport(Record):
    """The outcome of one run; `seconds` are wall time, rates count newly trained atoms only."""

    store: str
    version: str
    atoms_total: int
    atoms_new: int
    atoms_kept: int
    atoms_removed: int
    atoms_failed: int
    seconds: float
    atoms_per_second: float
    seconds_by_stage: dict[str, float] = Field(default_factory=dict)
    failed: tuple[FailedAtom, ...] = ()
    conflicts: tuple[ConflictRecord, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()


class Teller:
    """Passes progress on, with rate and time left of the current stage, and adds up the seconds of each stage."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._stage: Stage | None = None
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def tell(
        self, stage: Stage, done: int, total: int, recall: float | None = None, message: str | None = None
    ) -> None:
        now = time.perf_counter()
        if stage != self._stage:
            self.close()
            self._stage, self._began = stage, now
        rate = done / (now - self._began) if done and now > self._began else None
        if self._listener is not None:
            self._listener(
                CompileProgress(
                    stage=stage,
                    done=done,
                    total=total,
                    recall=recall,
                    atoms_per_second=rate,
                    seconds_left=(total - done) / rate if rate else None,
                    message=message,
                )
            )

    def close(self) -> None:
        """End the current stage's clock."""
        if self._stage is not None:
            now = time.perf_counter()
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._began
            self._stage, self._began = None, now
