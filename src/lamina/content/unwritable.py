"""The state file where nothing can be written: read as it is, also while somebody else writes it.

SQLite wants to make the index of its log even to read, unless it is told that nobody writes
(sqlite.org/wal.html, "Read-Only Databases"). Told so, it trusts what it has read for ever. So the file is
looked at before and after each question, and opened anew if it is another one by then. Where there is a
log, that holds what was done last, and is read by means of the index that must lie beside it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from lamina.errors import Denied, Unavailable, Unsupported

_TRIES = 50
_SECONDS = 30.0
# Of the file: which one, when it was written last, how long it is. And whether there is a log.
_Look = tuple[int, int, int, bool]


class NotWritable(Denied):
    """Of a state directory that can only be read."""


class NeedsRecovery(Unavailable):
    pass


class AlwaysChanging(Unavailable):
    """Somebody writes the state file faster than it can be read."""


def is_writable(path: Path) -> bool:
    """Whether SQLite can do what it wants: it makes files beside its own, and removes them."""
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def hindrance(directory: Path) -> str:
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        advice = "the filesystem is read-only; make it writable, or choose another place with --root"
    else:
        advice = "not writable for this user; run as its owner, or choose a place of your own with --root"
    return f"{directory}: {advice}"


class Reader:
    """One connection at a time; the caller holds a lock. Raises ``Unsupported`` for another schema."""

    def __init__(self, path: Path, schema: int) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._seen: _Look | None = None
        self.rows("PRAGMA user_version")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Of one state of the file. Raises :class:`NeedsRecovery` or :class:`AlwaysChanging`."""
        for _try in range(_TRIES):
            look = self._look()
            try:
                if self._connection is None or look != self._seen:
                    self.close()
                    self._connection, self._seen = self._open(has_log=look[-1]), look
                found = self._connection.execute(statement, values).fetchall()
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                self.close()
                if self._look() == look:
                    raise
                continue
            # A log is read with its index, which other processes heed.
            if look[-1] or self._look() == look:
                return found
        raise AlwaysChanging(f"{self._path}: another process writes it all the time; try again")

    def _look(self) -> _Look:
        status = os.stat(self._path)
        has_log = self._log.exists() and self._log.stat().st_size > 0
        return status.st_ino, status.st_mtime_ns, status.st_size, has_log

    def _open(self, *, has_log: bool) -> sqlite3.Connection:
        options = "mode=ro" if has_log else "mode=ro&immutable=1"
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?{options}", uri=True, timeout=_SECONDS, isolation_level=None,
            check_same_thread=False,
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if not has_log or not self._look()[-1]:
                raise
            raise NeedsRecovery(
                f"{self._path}: its log must be brought into it first, and nothing can be written here "
                f"({error}); run any command once where that is possible"
            ) from None
        if version != self._schema:
            connection.close()
            raise Unsupported(
                f"{self._path}: has schema {version}; this lamina knows {self._schema}, and cannot take it "
                "over where nothing can be written"
            )
        return connection
