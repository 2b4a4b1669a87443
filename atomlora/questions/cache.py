"""Written questions in the user's cache, so that an interrupted run loses little and no text is asked about twice.

One SQLite file; a row's key is the sha256 of all that a writer's questions depend on. It holds questions about the
user's documents, so that it is readable by its owner only. A cache that cannot be used is only slower.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from atomlora.atom import digest_json
from atomlora.bases import cache_folder
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.types import AtomText, Question, QuestionWriter, StreamingWriter

_log = logging.getLogger(__name__)
_CHUNK = 64  # atoms that are written before they are kept: about one batch of the adapter writer
_QUESTIONS = TypeAdapter(list[Question])


class QuestionCache:
    """Questions by key. `scope` is what the writer's own digest leaves out (the base that it runs on)."""

    def __init__(self, path: Path, scope: str) -> None:
        self._path, self._scope = path, scope

    def key(self, digest: str, max_questions: int, atom: AtomText) -> str:
        return digest_json([self._scope, digest, max_questions, atom.title, atom.headings, atom.text])

    def read(self, keys: Iterable[str]) -> dict[str, list[Question]]:
        """What is known of `keys`."""
        found: dict[str, list[Question]] = {}
        with self._open() as connection:
            if connection is None:
                return found
            for key in keys:
                row = connection.execute("SELECT value FROM questions WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    with contextlib.suppress(ValidationError):  # written by another version: asked again
                        found[key] = _QUESTIONS.validate_json(row[0])
        return found

    def keep(self, entries: Iterable[tuple[str, Sequence[Question]]]) -> None:
        """Durable when this returns."""
        rows = [(key, json.dumps([q.model_dump(mode="json") for q in questions])) for key, questions in entries]
        with self._open() as connection:
            if connection is not None:
                connection.executemany("INSERT OR REPLACE INTO questions VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """A connection whose changes are committed at the end; None where there can be no cache."""
        connection = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, timeout=30)
            connection.execute("CREATE TABLE IF NOT EXISTS questions (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            self._tell(error)
            if connection is not None:
                connection.close()
            yield None
            return
        try:
            with connection:
                yield connection
        except sqlite3.Error as error:
            self._tell(error)
        finally:
            connection.close()

    def _tell(self, error: Exception) -> None:
        _log.warning("%s: questions cannot be cached (%s); delete the file if it is damaged", self._path, error)


class CachedWriter:
    """A writer that asks another one only about texts of which the cache knows nothing, a chunk at a time."""

    def __init__(self, writer: QuestionWriter, cache: QuestionCache) -> None:
        self.name, self.digest, self.of_base = writer.name, writer.digest, writer.of_base
        self._writer, self._cache = writer, cache

    def close(self) -> None:
        self._writer.close()

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """As the writer's own; what is finished is kept also when a later chunk fails or is interrupted."""
        keys = [self._cache.key(self.digest, max_questions, atom) for atom in atoms]
        known = self._cache.read(keys)
        # Neighbours in length share a batch: least padding.
        missing = sorted((i for i, key in enumerate(keys) if key not in known), key=lambda i: len(atoms[i].text))
        before = len(atoms) - len(missing)
        if progress is not None and before:
            progress(before, len(atoms))
        for done, (i, questions) in enumerate(
            self._fresh(atoms, keys, missing, max_questions, progress), start=before + 1
        ):
            known[keys[i]] = questions
            if progress is not None and isinstance(self._writer, StreamingWriter):
                progress(done, len(atoms))
        return [list(known[key]) for key in keys]

    def _fresh(
        self,
        atoms: Sequence[AtomText],
        keys: Sequence[str],
        missing: Sequence[int],
        max_questions: int,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[int, list[Question]]]:
        """(number, questions) of the missing texts, kept already where the writer could not do better."""
        if isinstance(self._writer, StreamingWriter):
            proven = len(missing) < len(atoms)
            for written in self._writer.stream([atoms[i] for i in missing], max_questions, proven):
                i = missing[written.number]
                if written.final:
                    self._cache.keep([(keys[i], written.questions)])
                yield i, written.questions
            return
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            done = len(atoms) - len(missing) + start

            def told(part: int, _whole: int, done: int = done) -> None:
                if progress is not None:
                    progress(done + part, len(atoms))

            written_chunk = self._writer.write([atoms[i] for i in chunk], max_questions, told)
            self._cache.keep((keys[i], questions) for i, questions in zip(chunk, written_chunk, strict=True))
            yield from zip(chunk, written_chunk, strict=True)


def cached(writer: QuestionWriter, base_fingerprint: str) -> QuestionWriter:
    """The writer behind the user's cache; one that needs no model is as fast without."""
    if isinstance(writer, ClozeWriter):
        return writer
    scope = base_fingerprint if writer.of_base else ""
    return CachedWriter(writer, QuestionCache(cache_folder() / "questions.sqlite", scope))
