"""Leases: who is using which content right now, so that the collector leaves it alone.

A lease is taken on a digest *before* looking whether the content is there; the collector decides and
removes inside one write transaction. So whoever takes a lease first keeps the content, and whoever
comes second sees that it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from lamina.content.state import State
from lamina.oci.digest import Digest


class Lease:
    """Belongs to this process; ends with ``close``, or with the process. A power cut may take it.

    Where nothing can be written it holds nothing: there nothing goes.
    """

    def __init__(self, state: State, purpose: str) -> None:
        self._state = state
        self.id: int | None = None
        if state.is_read_only:
            return
        pid = os.getpid()
        with state.transaction(is_durable=False) as connection:
            cursor = connection.execute(
                "INSERT INTO leases (pid, started, boot, purpose) VALUES (?,?,?,?)",
                (pid, process_start(pid), boot_id(), purpose),
            )
        self.id = cursor.lastrowid

    def hold(self, content: Iterable[Digest]) -> None:
        if self.id is None:
            return
        with self._state.transaction(is_durable=False) as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO leased VALUES (?, ?)", [(self.id, digest) for digest in content]
            )

    def close(self) -> None:
        if self.id is None:
            return
        with self._state.transaction(is_durable=False) as connection:
            connection.execute("DELETE FROM leases WHERE id = ?", (self.id,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def live_content(state: State, *, apart_from: Lease | None = None) -> set[Digest]:
    """What living processes hold, and the build cache. Leases of dead ones are removed on the way."""
    return cached_content(state) | leased_content(state, apart_from=apart_from)


def leased_content(state: State, *, apart_from: Lease | None = None) -> set[Digest]:
    """What living processes hold. Leases of dead ones are removed on the way."""
    if state.is_read_only:  # nor does anything go by it
        return set()
    boot = boot_id()
    held: set[Digest] = set()
    with state.transaction() as connection:
        for lease, pid, started, where in connection.execute(
            "SELECT id, pid, started, boot FROM leases"
        ).fetchall():
            if where != boot or process_start(pid) != started:
                connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
                continue
            if apart_from is not None and lease == apart_from.id:
                continue
            rows = connection.execute("SELECT content FROM leased WHERE lease = ?", (lease,))
            held.update(Digest(row[0]) for row in rows)
    return held


def live_leases(state: State) -> set[int]:
    """Those of living processes."""
    boot = boot_id()
    rows = state.rows("SELECT id, pid, started, boot FROM leases")
    return {
        int(str(lease)) for lease, pid, started, where in rows
        if where == boot and process_start(int(str(pid))) == started
    }


def cached_content(state: State) -> set[Digest]:
    """What a step of a build may be taken from: blobs, and layers by diff id."""
    rows = state.rows("SELECT blob, diff_id FROM builds WHERE blob != ''")
    return {Digest(str(digest)) for row in rows for digest in row}


def process_start(pid: int) -> int | None:
    """Clock ticks between boot and the start of a process; ``None`` when there is no such process.

    proc_pid_stat(5), field 22. The name in field 2 may hold anything, so count from its closing bracket.
    One that has ended and that nobody waits for is no process, and may stay for ever where the machine's
    first process is no init. (A first thread that has ended looks the same, but for the number of threads.)
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    return int(fields[19])


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
