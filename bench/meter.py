"""Counts what a group of processes uses: CPU seconds and peak memory of a command and of its daemon.

CPU time is read from a control group that every measured process is started in and that its children
inherit, so that daemons, re-executed helpers and processes that nobody waited for are all counted, and
the registry, which runs outside, is not.  The kernel's own threads (write-back, the loop device) belong
to no group and are in nobody's figures; wall time has them.

Memory is sampled: the resident set of all processes of the group added up, and the part of it that is
theirs alone (resident without file-backed and shared pages).  The first counts a library once for every
process that maps it; the second leaves program text out.
"""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_INTERVAL = 0.04  # seconds between two samples of memory
_TAIL = 2_000  # bytes of a failed command's output that its error repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One timed act: seconds and bytes."""

    wall: float
    cpu: float
    peak_resident: int
    peak_private: int


class CommandFailed(Exception):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a process runs as."""

    name: str
    uid: int
    gid: int


def _own_group(controller: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise SystemExit(f"/proc/self/cgroup: no group of the {controller or 'unified'} hierarchy")


@dataclass(frozen=True, slots=True)
class Group:
    """A control group; version 2, or the cpuacct hierarchy of version 1."""

    path: Path

    @classmethod
    def _parent(cls) -> Path:
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():
            return top / _own_group("").lstrip("/")
        return top / "cpuacct" / _own_group("cpuacct").lstrip("/")

    @classmethod
    @contextmanager
    def fresh(cls) -> Iterator[Group]:
        """A new group, removed at the end together with whatever still runs in it."""
        path = cls._parent() / f"lamina-bench-{secrets.token_hex(4)}"
        path.mkdir()
        group = cls(path)
        try:
            yield group
        finally:
            group._empty()
            path.rmdir()

    def _empty(self) -> None:
        for _ in range(100):
            left = self.processes()
            if not left:
                return
            for pid in left:
                with _gone_is_fine():
                    os.kill(pid, 9)
            time.sleep(0.05)

    def processes(self) -> list[int]:
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def cpu(self) -> float:
        """CPU seconds, user and system, of all that ever ran in the group."""
        old = self.path / "cpuacct.usage"
        if old.exists():
            return int(old.read_text()) / 1e9
        pairs = (line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(dict(pairs)["usage_usec"]) / 1e6

    def memory(self) -> tuple[int, int]:
        """Bytes resident, and of those private, right now."""
        resident = private = 0
        for pid in self.processes():
            with _gone_is_fine():
                _, pages, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                resident += int(pages) * _PAGE
                private += (int(pages) - int(shared)) * _PAGE
        return resident, private

    def start(
        self, command: Sequence[str], *, output: Path, env: Mapping[str, str], account: Account | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts `command` inside the group; its output is appended to `output`."""
        enter = ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', str(self.path / "cgroup.procs")]
        with output.open("ab") as log:
            return subprocess.Popen(
                [*enter, *as_account(account), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd="/",
            )

    def measure(
        self,
        commands: Sequence[Sequence[str]],
        *,
        output: Path,
        env: Mapping[str, str],
        account: Account | None = None,
        limit: float = 900,
    ) -> Sample:
        """Runs the commands one after the other as one act; raises CommandFailed with their output."""
        sampler = _Sampler(self)
        before, start = self.cpu(), time.monotonic()
        with sampler:
            for command in commands:
                self._complete(command, output, env, account, limit)
        wall, cpu = time.monotonic() - start, self.cpu() - before
        return Sample(wall=wall, cpu=cpu, peak_resident=sampler.resident, peak_private=sampler.private)

    def _complete(
        self,
        command: Sequence[str],
        output: Path,
        env: Mapping[str, str],
        account: Account | None,
        limit: float,
    ) -> None:
        process = self.start(command, output=output, env=env, account=account)
        if not _ends(process, limit):
            process.kill()
            process.wait()
            raise CommandFailed(f"{' '.join(command)}: no end after {limit:.0f} s")
        if status := process.wait():
            raise CommandFailed(f"{' '.join(command)}: exit status {status}\n{tail(output)}")


def _ends(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether it ends within `limit` seconds; Popen.wait with a limit looks only every 50 ms."""
    descriptor = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], limit)
    finally:
        os.close(descriptor)
    return bool(ready)


def as_account(account: Account | None) -> list[str]:
    """What to put before a command. setpriv's own exec still has root's capabilities, the shell's has not."""
    if account is None:
        return []
    become = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--"]
    return [*become, "/bin/sh", "-c", 'exec "$@"', "sh"]


def tail(output: Path) -> str:
    try:
        return output.read_bytes()[-_TAIL:].decode(errors="replace")
    except FileNotFoundError:
        return ""


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """A process may end between being listed and being looked at."""
    with suppress(FileNotFoundError, ProcessLookupError):
        yield


class _Sampler:
    """Keeps the highest memory figures seen while the block runs."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.resident = self.private = 0

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            resident, private = self._group.memory()
            self.resident, self.private = max(self.resident, resident), max(self.private, private)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
