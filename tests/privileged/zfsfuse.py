"""A zfs-fuse of our own, with a pool in a file: everything it mounts is in this mount namespace.

As a program (``python -m tests.privileged.zfsfuse DIRECTORY``, in a mount namespace of its own) it passes the
driver all conformance cases, one line of JSON each: what other tests start meanwhile would keep copies of what
the cases mount.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.privileged.places import owned_directory

from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.snapshotter import Snapshotter
from lamina.snapshot.trees import remove_tree
from lamina.snapshot.zfs.driver import ZfsSnapshotter
from lamina.snapshot.zfs.pending import wait_until_told
from lamina.testing.bench import CASES, Bench, Layer
from lamina.testing.conformance import MODULES
from lamina.values import replace

POOL = "lamina-test"
# Where the daemon listens, and where it notes that it runs: each of a namespace's own.
_OWN = (Path("/run/zfs"), Path("/run/lock/zfs"))
_SOCKET = _OWN[0] / "zfs_socket"
# -x: extended attributes; the rest as lamina's documentation has it.
# It ends with who started it, however that ends.
_DAEMON = ("setpriv", "--pdeathsig", "KILL", "zfs-fuse", "-n", "--no-kstat-mount", "-a", "3600", "-e", "3600", "-x")


class ZfsFuse:
    """``directory`` is for the pool's file alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, has_attributes: bool = True) -> None:
        _SOCKET.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            _DAEMON if has_attributes else _DAEMON[:-1], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while subprocess.run(["zfs", "list"], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, "zfs-fuse does not begin to listen"
            time.sleep(0.01)

    def make_pool(self, size: int = 2 << 30) -> None:
        file = self._directory / "pool"
        with open(file, "wb") as out:
            out.truncate(size)
        run("zpool", "create", "-o", "version=23", "-o", "cachefile=none", "-m", "none", POOL, str(file))

    def import_pool(self) -> None:
        run("zpool", "import", "-d", str(self._directory), "-o", "cachefile=none", POOL)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        unmount_below(Path("/"), only_zfs=True)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        unmount_below(Path("/"), only_zfs=True)

    def parent(self, name: str) -> str:
        """A new dataset, for a state directory."""
        dataset = f"{POOL}/{name}"
        run("zfs", "create", dataset)
        return dataset


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return done.stdout


def datasets(below: str, kinds: str = "filesystem,snapshot") -> list[str]:
    """Without the one itself."""
    names = run("zfs", "list", "-H", "-r", "-t", kinds, "-o", "name", below).splitlines()
    return [name for name in names if name != below]


@contextlib.contextmanager
def serving(directory: Path, size: int = 2 << 30) -> Iterator[ZfsFuse]:
    """Only one at a time in a mount namespace."""
    for place in _OWN:
        place.mkdir(parents=True, exist_ok=True)
        syscalls.mount("tmpfs", str(place), "tmpfs", 0, "mode=755")
    daemon = ZfsFuse(directory)
    try:
        daemon.start()
        daemon.make_pool(size)
        yield daemon
    finally:
        daemon.stop()
        for place in _OWN:
            syscalls.umount(str(place), syscalls.MNT_DETACH)


def unmount_below(path: Path, *, only_zfs: bool = False) -> None:
    """In this namespace, last mounted first."""
    top = os.path.realpath(path)
    for line in reversed(list(mounts())):
        is_below = line.target.startswith(f"{top.rstrip('/')}/")
        if is_below and (not only_zfs or (line.type == "fuse.zfs" and line.source.startswith(f"{POOL}/"))):
            if line.type == "fuse.zfs":
                wait_until_told(line.device)
            with contextlib.suppress(OSError):
                syscalls.umount(line.target, syscalls.MNT_DETACH)


def remove_all(driver: Snapshotter) -> None:
    """Children first."""
    infos = {info.key: info for info in driver.walk()}
    while infos:
        parents = {info.parent for info in infos.values()}
        for key in [key for key in infos if key not in parents]:
            driver.remove(key)
            del infos[key]


# -- all cases

# Snapshots whose removal is waited for; more go with the pool.
_FEW = 40


class BenchOfSeconds(Bench):
    """zfs-fuse sets times to whole seconds: so the layers of its cases have no others."""

    height = 60  # of 60 ms each

    def check(self, *stack: Layer, has_links: bool = True) -> str:
        whole = [[replace(entry, mtime=entry.mtime // 10**9 * 10**9) for entry in layer] for layer in stack]
        return super().check(*whole, has_links=has_links)


def run_case(name: str, directory: Path, parent: str) -> str:
    """The empty text, or what went wrong: also, whether anything is left when all snapshots are removed."""
    root = Path(tempfile.mkdtemp(prefix=f"{name[:40]}-", dir=directory)) / "state"
    bench = None
    try:
        bench = BenchOfSeconds("zfs", root, options=[f"zfs.fsname={parent}"])
        CASES[name](bench)
        if len(list(bench.driver.walk())) > _FEW:
            return ""
        remove_all(bench.driver)
        left = (datasets(parent), bench.driver.sweep(), [path.name for path in (root / "snapshots/zfs").iterdir()])
        assert left == ([], 0, ["root-id"])
    except BaseException:
        return traceback.format_exc()
    finally:
        if bench is not None:
            bench.close()
        unmount_below(root)
        remove_tree(root.parent)
    return ""


def main(arguments: Sequence[str]) -> None:
    assert MODULES  # they have put their cases there
    directory = Path(arguments[0])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place, serving(Path(place)) as daemon:
        for number, name in enumerate(arguments[1:] or CASES):
            started = time.monotonic()
            problem = run_case(name, directory, daemon.parent(f"case-{number}"))
            line = {"case": name, "problem": problem, "seconds": round(time.monotonic() - started, 2)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def bench_in(parent: str) -> Iterator[Bench]:
    """On a state directory of its own, whose datasets are in that one."""
    with owned_directory(None) as path:
        made = Bench("zfs", path / "state", options=[f"zfs.fsname={parent}"])
        try:
            yield made
        finally:
            made.close()
            unmount_below(path)


def driver_of(bench: Bench) -> ZfsSnapshotter:
    assert isinstance(bench.driver, ZfsSnapshotter)
    return bench.driver


def insist_empty(bench: Bench, parent: str) -> None:
    """All snapshots removed, nothing of them is left."""
    remove_all(bench.driver)
    assert datasets(parent) == []
    assert [path.name for path in (bench.root / "snapshots" / "zfs").iterdir()] == ["root-id"]
    assert bench.driver.sweep() == 0



if __name__ == "__main__":
    main(sys.argv[1:])
