"""A freshly made ext4 filesystem in a file, one for every timed run, and the state of caches before it.

The same extraction takes several times longer on a long-used filesystem than on a new one, so runs on
one shared filesystem measure who came first.  Everything happens in a mount namespace and a process
namespace of our own: whatever a killed run leaves mounted or running goes away with them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.meter import Account

_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 22
_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_namespaces(*, with_network: bool = False) -> None:
    """Returns in a child that is the first process of new namespaces; the parent waits and exits with it.

    With a network of its own, which has loopback alone, bridges that engines make go away as well,
    and what they note down below ``/run``.
    """
    if os.geteuid():
        raise SystemExit("root is needed, for loop filesystems and for daemons")
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID | (_CLONE_NEWNET if with_network else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    child = os.fork()
    if child:
        sys.exit(_outlast(child))
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # As the first process of its namespace it would ignore the signal that asks it to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    if with_network:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        # Where engines note down which addresses are taken, and which containers they have.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)


def _outlast(child: int) -> int:
    """Passes on what asks it to stop, and gives the child's exit code when it has cleaned up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextmanager
def fresh_filesystem(directory: Path, size: int, owner: Account | None = None) -> Iterator[Path]:
    """Mounts a new ext4 of `size` bytes (sparse) on a new directory below `directory`."""
    image, target = directory / "disk.img", directory / "disk"
    target.mkdir(exist_ok=True)  # a run that was killed leaves both, and nothing mounted
    try:
        with image.open("wb") as file:
            file.truncate(size)
        # A lazy inode table would be written by a kernel thread during the run.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", lazy, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, target], check=True)
        try:
            (target / "lost+found").rmdir()
            if owner is not None:
                os.chown(target, owner.uid, owner.gid)
            yield target
        finally:
            _unmount(target)
    finally:
        image.unlink(missing_ok=True)
        target.rmdir()


def _unmount(target: Path) -> None:
    for _ in range(20):
        if subprocess.run(["umount", "-R", target], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.25)  # a daemon that was just killed may still hold it
    subprocess.run(["umount", "-R", "-l", target], check=True)


def level_caches(warm: Iterable[Path], *, drop: bool = True) -> None:
    """The same start for every run: nothing waiting to be written, nothing cached, the registry's blobs read.

    Without the last step the run would measure the disk below the registry; a network would be there instead.
    """
    os.sync()
    if drop:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    for path in warm:
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK):
                pass


def settle(directory: Path) -> float:
    """Seconds until all that was written to the filesystem of `directory` is on it."""
    start = time.monotonic()
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(descriptor)
    return time.monotonic() - start


def disk_used(directory: Path) -> int:
    """Bytes allocated below `directory`, each inode once, without what is mounted there."""
    run = subprocess.run(["du", "-sx", "-B1", directory], check=True, capture_output=True, text=True)
    return int(run.stdout.split()[0])


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """A short path on a tmpfs, for sockets, logs and what engines mount while they run."""
    path = Path(tempfile.mkdtemp(prefix="lb-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", "-R", "-l", path], check=True)
    finally:
        path.rmdir()
