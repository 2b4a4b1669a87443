"""The writer's lock: flock on the file `lock`, whose text names the holder.

The kernel drops the lock with its process, so a dead holder needs no clean-up; the text only informs.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atomlora.atom import Record
from atomlora.errors import StoreError
from atomlora.store.files import writing

_NAMELESS_SECONDS = 0.2
_logger = logging.getLogger(__name__)
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class Holder(Record):
    """Who holds, or held, the lock; `started` is UTC in ISO 8601."""

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"


class WriterLock:
    """An exclusive lock on a store, taken at once or not at all. `recovered` names a holder that died with
    it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovered: Holder | None = None
        self._handle: int | None = None

    def __enter__(self) -> WriterLock:
        with writing(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._take(handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held.add(self)
        return self

    def __exit__(self, *_: Any) -> None:
        handle, self._handle = self._handle, None
        _held.discard(self)
        if handle is None:
            return
        try:
            os.ftruncate(handle, 0)
            # Said outright, as closing is not enough while a child forked just now has not closed its copy
            # yet.
            fcntl.flock(handle, fcntl.LOCK_UN)
        except OSError:
            _logger.debug("%s: the holder's name could not be removed", self.path)
        finally:
            os.close(handle)

    def _take(self, handle: int) -> None:
        with writing(self.path):
            self._lock_or_name_holder(handle)
            self.recovered = _read_holder(handle)
            if self.recovered is not None:
                _logger.warning("%s: %s ended without releasing it; going on", self.path, self.recovered)
            holder = Holder(
                pid=os.getpid(),
                host=socket.gethostname(),
                started=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder.model_dump()).encode(), 0)

    def _lock_or_name_holder(self, handle: int) -> None:
        """Take the lock, or say who has it. Between taking and releasing the lock and writing its text lies an
        instant in which a holder has no name: then it is looked at again, for a fifth of a second at most."""
        until = time.monotonic() + _NAMELESS_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                holder = _read_holder(handle)
                if holder is not None or time.monotonic() > until:
                    raise StoreError(
                        f"{self.path.parent}: is being written by {holder or 'another process'}; wait for it, "
                        "stop it, or use another folder"
                    ) from error
            time.sleep(0.002)

    def _forget(self) -> None:
        """In a forked child: close the inherited descriptor, else the lock would outlive its holder."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _read_holder(handle: int) -> Holder | None:
    try:
        return Holder.model_validate_json(os.pread(handle, 4096, 0))
    except ValidationError:
        return None


def _forget_in_child() -> None:
    for lock in list(_held):
        lock._forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
