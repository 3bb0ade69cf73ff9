"""Digests of files that outlive a build, in one SQLite file: a build in which nothing changed only looks.

Losing them costs time and nothing else. So whatever is wrong with the file, nobody is bothered with it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from lamina.build.context import StatKey

_WORD = 1 << 64
NAME = "filedigests.sqlite"
MAX_FILES = 1_000_000
_VERSION = 1
_LOCK_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    device    INTEGER NOT NULL,
    inode     INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    ctime_ns  INTEGER NOT NULL,
    digest    BLOB NOT NULL,            -- sha256 of xattrs and content, as lamina.build.checksum frames them
    PRIMARY KEY (device, inode)
)
"""
_GET = """
SELECT f.device, f.inode, f.size, f.mtime_ns, f.ctime_ns, f.digest FROM files f
WHERE f.device = ? AND f.inode IN (SELECT value FROM json_each(?))
"""
# Rows are numbered as they come, and a replaced one is numbered anew: the lowest are the oldest.
_FORGET = "DELETE FROM files WHERE rowid <= (SELECT max(rowid) FROM files) - ?"


class FileDigests:
    """For all threads of a process, and for any number of processes. Close it after use."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_broken = False
        with self._acting():
            self._connection = self._open()
        if self._is_broken:
            with self._acting():
                self._connection = self._open()

    def get(self, keys: Sequence[StatKey]) -> dict[StatKey, bytes]:
        devices: dict[int, list[int]] = {}
        for key in keys:
            devices.setdefault(_signed(key.device), []).append(_signed(key.inode))
        found: dict[StatKey, bytes] = {}
        with self._acting():
            for device, inodes in devices.items():
                for *row, digest in self._opened().execute(_GET, (device, str(inodes))):
                    found[StatKey(row[0] % _WORD, row[1] % _WORD, *row[2:])] = digest
        return {key: found[key] for key in keys if key in found}

    def put(self, items: Mapping[StatKey, bytes]) -> None:
        rows = [(_signed(key.device), _signed(key.inode), *key[2:], digest) for key, digest in items.items()]
        with self._acting(), self._opened() as connection:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.execute(_FORGET, (MAX_FILES,))

    def close(self) -> None:
        with self._acting():
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.OperationalError, sqlite3.ProgrammingError, OverflowError, OSError):
                pass  # locked, full, read-only, not there, closed, or a number that SQLite has no room for
            except sqlite3.DatabaseError:  # no database, or a damaged one
                self._discard()

    def _discard(self) -> None:
        self._is_broken = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}{suffix}")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("closed, or never opened")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # In WAL mode nothing is torn by a kill or a loss of power; the last rows may be missing.
            connection.execute("PRAGMA synchronous=NORMAL")
            if _version(connection) != _VERSION:
                self._make_table(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _make_table(connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if _version(connection) != _VERSION:  # others may have been quicker
                connection.execute("DROP TABLE IF EXISTS files")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version={_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _signed(number: int) -> int:
    """SQLite's integers have a sign; device and inode numbers have none."""
    return number - _WORD if number >= _WORD >> 1 else number
