"""An SQLite index over a catalogue, so that one atom is found without parsing all of them.

`cache/catalogue.sqlite3` belongs to the version of HEAD; `catalogue.sqlite3.stamp` names that version and the
file's sha256. Where either is absent, stale or broken, the index is made anew; where it cannot be written, or
the version is not HEAD's, it is made in memory. It says where to look, and the sha256 that the line there had when
the whole catalogue was hashed: so one atom is read, and checked, without hashing the atoms of all others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atomlora.store.catalogue import Catalogue
from atomlora.store.files import TEMPORARY, DamagedFileError, hash_file

NAME = "catalogue.sqlite3"
_SCHEMA = """
CREATE TABLE atoms (position INTEGER PRIMARY KEY, id TEXT NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT
NULL, digest BLOB NOT NULL); CREATE TABLE sources (source TEXT NOT NULL, position INTEGER NOT NULL);
"""
_INDEXES = "CREATE INDEX atoms_id ON atoms (id); CREATE INDEX sources_source ON sources (source, position);"
_FORMAT = 2  # of the schema: raise it with every change, so that files of before count as stale
_COLUMNS = "position, id, offset, size, digest"
Row = tuple[int, str, int, int, bytes]


class CatalogueIndex:
    """Positions, ids and places of a catalogue's lines: rows are (position, id, offset, size, sha256).
    Thread-safe."""

    def __init__(self, catalogue: Catalogue, version: str, folder: Path | None) -> None:
        """`folder`: where the cache file lies, or None for an index in memory."""
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._connection = _open(folder, version) if folder is not None else None
        if self._connection is None and folder is not None and _build_file(catalogue, version, folder):
            self._connection = _open(folder, version)
        if self._connection is None:
            self._connection = _connect(":memory:")
            _fill(self._connection, catalogue)

    def by_prefix(self, prefix: str, limit: int) -> list[Row]:
        """Rows of the atoms whose id starts with `prefix` (hex), at most `limit`."""
        # "g" sorts behind every hex digit.
        where = "id >= ? AND id < ? ORDER BY id LIMIT ?"
        return self._rows(f"SELECT {_COLUMNS} FROM atoms WHERE {where}", prefix, prefix + "g", limit)

    def by_position(self, position: int) -> list[Row]:
        """The row of the atom at `position`, or none."""
        return self._rows(f"SELECT {_COLUMNS} FROM atoms WHERE position = ?", position)

    def by_source(self, source: str) -> list[Row]:
        """Rows of the atoms with a provenance in `source`, in the catalogue's order."""
        where = "position IN (SELECT position FROM sources WHERE source = ?) ORDER BY position"
        return self._rows(f"SELECT {_COLUMNS} FROM atoms WHERE {where}", source)

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM atoms")[0][0])

    def close(self) -> None:
        """Release the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _rows(self, query: str, *values: Any) -> list[Row]:
        with self._lock:
            assert self._connection is not None
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError:  # the disk failed under the cache; the catalogue is what counts
                self._connection.close()
                self._connection = _connect(":memory:")
                _fill(self._connection, self._catalogue)
                return self._connection.execute(query, values).fetchall()


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(name, uri=name.startswith("file:"), check_same_thread=False, isolation_level=None)


def _open(folder: Path, version: str) -> sqlite3.Connection | None:
    """The cache file's connection, or None when it is absent, of another version, or not the bytes once
    written."""
    path = folder / NAME
    try:
        if (folder / f"{NAME}.stamp").read_text() != _stamp(version, path):
            return None
        connection = _connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1")
    except (OSError, ValueError, sqlite3.Error):
        return None
    with contextlib.suppress(sqlite3.Error):
        # Another process may have put a newer version's file there since it was hashed.
        if connection.execute("PRAGMA application_id").fetchone() == (_application_id(version),):
            return connection
    connection.close()
    return None


def _build_file(catalogue: Catalogue, version: str, folder: Path) -> bool:
    """Write the cache file and its stamp; False where that cannot be done."""
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        folder.mkdir(exist_ok=True)
        with contextlib.closing(_connect(str(temporary))) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA application_id = {_application_id(version)}")
            _fill(connection, catalogue)
        stamp = _stamp(version, temporary)
        os.replace(temporary, folder / NAME)
        temporary.write_text(stamp)
        os.replace(temporary, folder / f"{NAME}.stamp")
        return True
    except (OSError, sqlite3.Error):
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _fill(connection: sqlite3.Connection, catalogue: Catalogue) -> None:
    connection.executescript(_SCHEMA)
    connection.execute("BEGIN")
    sources: list[tuple[str, int]] = []
    connection.executemany("INSERT INTO atoms VALUES (?, ?, ?, ?, ?)", _scan(catalogue, sources))
    connection.executemany("INSERT INTO sources VALUES (?, ?)", sources)
    connection.execute("COMMIT")
    connection.executescript(_INDEXES)


def _scan(catalogue: Catalogue, sources: list[tuple[str, int]]) -> Iterator[Row]:
    """The rows of all lines; adds (source, position) to `sources` on the way."""
    decoder = json.JSONDecoder()
    for position, (offset, line) in enumerate(catalogue.lines()):
        try:
            atom = decoder.raw_decode(str(line, "utf-8"))[0]["atom"]
            names = dict.fromkeys(provenance["source"] for provenance in atom["provenances"])
            row = (position, atom["id"], offset, len(line), hashlib.sha256(line).digest())
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedFileError(catalogue.path, f"line {position + 1} is no catalogue entry ({error})") from error
        sources.extend((name, position) for name in names)
        yield row


def _stamp(version: str, path: Path) -> str:
    return f"{_FORMAT} {version} {hash_file(path)}\n"


def _application_id(version: str) -> int:
    return int(version[:7], 16)
