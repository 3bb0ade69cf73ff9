"""The SQLite file: everything of a state directory that needs a transaction.

It is authoritative for names, images, leases and snapshots; ``index.json`` beside it is derived.
``docs/state-on-disk.md`` describes each table. The schema lives here alone; a room that owns a
table (snapshots, for one) runs its own statements through :meth:`State.transaction`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.content import reserve
from lamina.content.unwritable import NotWritable, Reader, hindrance, is_writable
from lamina.errors import Unavailable, Unsupported

SCHEMA_VERSION = 4
LOCK_SECONDS = 30.0
_ROOM = 1 << 20

# synchronous=FULL with WAL: a commit that returned survives power loss (sqlite.org/pragma.html).
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY")

_CONTAINERS = """
CREATE TABLE containers (
    id        TEXT PRIMARY KEY,       -- 64 hex digits, and the name of a directory
    name      TEXT NOT NULL UNIQUE,
    image     TEXT NOT NULL,          -- digest of the root document of its image, which it keeps
    config    TEXT NOT NULL,          -- the image ID
    created   REAL NOT NULL,          -- seconds since the epoch
    document  TEXT NOT NULL           -- JSON: the whole record
) WITHOUT ROWID;
"""

_BUILDS = """
CREATE TABLE builds (
    key          TEXT PRIMARY KEY,    -- sha256 over the ingredients (lamina.build.key)
    site         TEXT NOT NULL,       -- where the step stands: the nearest one is found by it, or by its text
    text         TEXT NOT NULL,
    ingredients  TEXT NOT NULL,       -- JSON: name and value of each
    files        BLOB NOT NULL,       -- which files went in, with the beginnings of their digests (zlib)
    diff_id      TEXT NOT NULL,       -- empty: it changed nothing
    blob         TEXT NOT NULL,
    media_type   TEXT NOT NULL,
    size         INTEGER NOT NULL,
    created      REAL NOT NULL,       -- seconds since the epoch
    used         REAL NOT NULL,
    uses         INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX builds_site ON builds (site);
CREATE INDEX builds_text ON builds (text);
"""

_DROPPED = """
CREATE TABLE dropped (                -- blobs of layers that are not here, and can be had again
    blob         TEXT PRIMARY KEY,
    media_type   TEXT NOT NULL,
    size         INTEGER NOT NULL,
    diff_id      TEXT NOT NULL,       -- the layer, of which an unpacked form is here
    compression  TEXT NOT NULL,       -- by its first bytes
    repository   TEXT NOT NULL,       -- registry/repository that served it when it was dropped
    dropped      REAL NOT NULL        -- seconds since the epoch
) WITHOUT ROWID;
CREATE INDEX dropped_diff_id ON dropped (diff_id);
"""

_SCHEMA = """
CREATE TABLE images (
    digest        TEXT PRIMARY KEY,   -- of the root document: an index, or a manifest
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    manifest      TEXT NOT NULL,      -- the manifest that stands for the image here (one platform)
    config        TEXT NOT NULL,      -- the image ID
    platform      TEXT NOT NULL,
    created       TEXT NOT NULL,      -- RFC 3339, as the config says
    content_size  INTEGER NOT NULL,   -- bytes of file content over all layers, as docker counts
    labels        TEXT NOT NULL,      -- JSON object
    stored        REAL NOT NULL       -- seconds since the epoch
) WITHOUT ROWID;
CREATE INDEX images_config ON images (config);

CREATE TABLE names (
    name   TEXT PRIMARY KEY,          -- canonical: registry/repository:tag or registry/repository@digest
    image  TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX names_image ON names (image);

CREATE TABLE layers (                 -- what was learnt about a blob by inflating it once, and verified
    blob          TEXT PRIMARY KEY,
    diff_id       TEXT NOT NULL,
    tar_size      INTEGER NOT NULL,
    content_size  INTEGER NOT NULL,
    entries       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX layers_diff_id ON layers (diff_id);

CREATE TABLE origins (                -- repositories where a blob was seen: candidates for mounts
    blob        TEXT NOT NULL,
    repository  TEXT NOT NULL,        -- registry/repository
    PRIMARY KEY (blob, repository)
) WITHOUT ROWID;

CREATE TABLE snapshots (
    driver   TEXT NOT NULL,
    key      TEXT NOT NULL,           -- an active or view key, or a committed name
    kind     TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent   TEXT NOT NULL DEFAULT '',
    diff_id  TEXT NOT NULL DEFAULT '',
    created  REAL NOT NULL,
    data     TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (driver, key)
) WITHOUT ROWID;
CREATE INDEX snapshots_parent ON snapshots (driver, parent);

CREATE TABLE leases (
    id       INTEGER PRIMARY KEY,
    pid      INTEGER NOT NULL,
    started  INTEGER NOT NULL,        -- clock ticks since boot (proc_pid_stat(5), field 22): a pid alone lies
    boot     TEXT NOT NULL,           -- /proc/sys/kernel/random/boot_id
    purpose  TEXT NOT NULL
);
CREATE TABLE leased (
    lease    INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    content  TEXT NOT NULL,           -- a digest
    PRIMARY KEY (lease, content)
) WITHOUT ROWID;
"""


class LockTimeout(Unavailable):
    pass


def _is_crowded(directory: Path) -> bool:
    """Not much room left, by what everybody may use: what ext4 keeps back, nobody can count on."""
    return reserve.free_bytes(directory) < _ROOM


def _insist_room(directory: Path) -> None:
    """SQLite writes a byte into each 4 KiB of the file that it maps for its log, so that they are there.

    Where blocks are smaller (ext4 on a small disk: 1 KiB) the rest comes to be when it is touched, and where
    the disk is full then, the kernel kills the process (SIGBUS).
    """
    if os.statvfs(directory).f_frsize < 4096 and _is_crowded(directory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


class State:
    """One connection, shared by the threads of a process: statements are serialised by a lock.

    Where nothing can be written, what is there can be read (``is_read_only``).
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._is_on_reserve = False
        self._turn = -1
        self._is_durable = True
        self._reader = None if is_writable(path) else Reader(path, SCHEMA_VERSION)
        if self._reader is None:
            self._open()

    @property
    def is_read_only(self) -> bool:
        return self._reader is not None

    @property
    def connection(self) -> sqlite3.Connection:
        """Opened anew if it was released."""
        return self._connection if self._connection is not None else self._open()

    def release(self) -> None:
        """Closes the file until it is used again: before a fork whose child will open it too.

        SQLite keeps what a process has open in tables of the process; a child that inherits them and opens
        the same file takes locks on descriptors that are not there any more (sqlite.org/howtocorrupt.html,
        2.6).
        """
        with self._lock:
            assert not self._depth, "a transaction is open"
            if self._reader is not None:
                self._reader.close()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._end_turn()  # a child would have it as long as it lives

    def _open(self) -> sqlite3.Connection:
        directory = self._path.parent
        if _is_crowded(directory):
            self._live_on_reserve(directory)
        connection = sqlite3.connect(
            self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._connection = connection
            self._is_durable = True
            self._migrate(self._path)
        except BaseException:
            self._connection = None
            connection.close()
            self._end_turn()
            raise
        if not self._is_on_reserve:
            reserve.keep(directory)
        return connection

    def _live_on_reserve(self, directory: Path) -> None:
        if self._turn < 0:
            self._turn = reserve.take_turn(directory)
        if _is_crowded(directory) and reserve.give_up(directory):
            self._is_on_reserve = True
            return
        if not self._is_on_reserve:
            self._end_turn()
        _insist_room(directory)

    def _end_turn(self) -> None:
        if self._turn >= 0:
            os.close(self._turn)
            self._turn = -1

    @contextmanager
    def transaction(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing, with the write lock from the start; nests (the outermost one commits).

        One that is not durable may be lost in a power cut, with all after it that are not, and the file is
        whole all the same (sqlite.org/wal.html): for what means nothing then.

        Raises :class:`LockTimeout` when another process kept the file locked for too long, and
        :class:`NotWritable`.
        """
        if self.is_read_only:
            raise NotWritable(hindrance(self._path.parent))
        with self._lock:
            if self._depth == 0:
                self._begin(is_durable=is_durable)
            self._depth += 1
            try:
                yield self.connection
            except BaseException:
                self._depth -= 1
                if self._depth == 0 and self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """All rows of a query. Reads see the last commit and never wait for writers (WAL)."""
        with self._lock:
            if self._reader is not None:
                return self._reader.rows(statement, values)
            return self.connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            if self._connection is not None:
                self._connection.close()
            if self._is_on_reserve:
                reserve.take_back(self._path.parent)
            self._end_turn()

    def _begin(self, *, is_durable: bool = True) -> None:
        if is_durable != self._is_durable:
            self.connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            raise LockTimeout(
                f"state.sqlite: still locked by another process after {LOCK_SECONDS:.0f} s"
            ) from None

    def _commit(self) -> None:
        try:
            self.connection.execute("COMMIT")
        except BaseException:  # a full disk, say: what comes next must find no transaction open
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _migrate(self, path: Path) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise Unsupported(
                f"{path}: written by a newer lamina (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        if version == SCHEMA_VERSION:
            return
        with self.transaction() as connection:
            # Another process may have made the tables between the look and the lock.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            # Version 2 added containers to what version 1 had, version 3 the build cache, version 4 what
            # was dropped.
            missing = "".join((_SCHEMA, _CONTAINERS, _BUILDS, _DROPPED)[version:])
            for statement in missing.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
