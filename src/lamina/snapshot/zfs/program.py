"""The command ``zfs``: what is asked of it, and what its complaints mean.

OpenZFS and zfs-fuse are asked in words that both know: no ``list -p``, no ``written``, no ``diff``. What is
taken for a complaint's meaning are its last words, which have been the same since Solaris.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lamina.errors import Conflict, InvalidInput, LaminaError, NotFound, Unavailable, Unsupported
from lamina.snapshot.snapshotter import DriverUnavailable

if TYPE_CHECKING:
    from subprocess import Popen

# What calls get from a mount whose daemon is gone, and those that were on the way when it died.
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)

_PROGRAM = "zfs"
# A suspended pool answers never, and a busy one slowly.
_SECONDS = 120
PATIENCE = 4.0
# Of zfs-fuse: its socket is in there.
_DAEMON = "/run/zfs"
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.4


class ZfsFailed(Unsupported):
    """A complaint that has no name of its own here: the message holds it."""


class ZfsUnreachable(Unavailable):
    """No daemon, no kernel module, or no answer."""


class PoolFull(Unavailable):
    pass


class DatasetNotFound(NotFound):
    pass


class DatasetExists(Conflict):
    pass


class DatasetBusy(Conflict):
    """Mounted somewhere, or was a moment ago."""


class DatasetInUse(Conflict):
    """Others are made from it, or lie in it."""


class DatasetFuller(InvalidInput):
    """It has more in it than it shall have room for."""


# The first that is found in a complaint; a quota counts as the pool does, where a clone has no room to begin.
_MEANINGS: tuple[tuple[str, type[LaminaError]], ...] = (
    ("zfs-fuse daemon is running", ZfsUnreachable),
    ("/dev/zfs", ZfsUnreachable),
    ("modules are not loaded", ZfsUnreachable),
    ("modules cannot be auto-loaded", ZfsUnreachable),
    ("does not exist", DatasetNotFound),
    ("already exists", DatasetExists),
    ("is busy", DatasetBusy),
    ("already mounted", DatasetBusy),
    ("has children", DatasetInUse),
    ("has dependent clones", DatasetInUse),
    ("less than current used", DatasetFuller),
    ("out of space", PoolFull),
)
_ADVICE = {
    ZfsUnreachable: "zfs does not answer: start zfs-fuse or load the module zfs, import the pool "
                    "(`zpool import -a`), and start containers again that were running",
    PoolFull: "the pool has no space left: `lamina prune` frees what is not needed, and `zpool add` makes it "
              "larger",
    DatasetFuller: "there is more in it than that already",
}


# -- datasets


def create(dataset: str, properties: Mapping[str, str]) -> None:
    _zfs("create", *_options(properties), dataset)


def clone(snapshot: str, dataset: str, properties: Mapping[str, str]) -> None:
    with _alone() as held:
        _zfs("clone", *_options(properties), snapshot, dataset, held=held)


def take_snapshot(snapshot: str) -> None:
    """All that was written before is durable when this returns. One of that name goes first."""
    try:
        _zfs("snapshot", snapshot)
    except DatasetExists:
        destroy(snapshot)
        _zfs("snapshot", snapshot)


@contextlib.contextmanager
def sending(origin: str, snapshot: str) -> Iterator[IO[bytes]]:
    """The stream that makes one snapshot of another, while zfs writes it."""
    with _started("send", "-i", origin, snapshot, is_text=False) as process, _watched(process):
        assert process.stdout is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        _insist(process, "send", snapshot, process.communicate()[1].decode(errors="replace"))


def snapshots(below: str) -> list[str]:
    """With their datasets' names; none, if ``below`` is not there."""
    try:
        return _zfs("list", "-H", "-r", "-t", "snapshot", "-o", "name", below).splitlines()
    except DatasetNotFound:
        return []


def destroy(dataset: str, *, patience: float = PATIENCE) -> None:
    """With its snapshots, whoever took them; what is not there is fine.

    Raises :class:`DatasetBusy` after ``patience`` seconds, and :class:`DatasetInUse` where clones were made
    of it, or datasets in it: those are not ours to destroy.
    """
    for _attempt in patiently(patience):
        try:
            _destroy(dataset)
        except DatasetBusy as error:
            busy = error
        else:
            return
    raise busy


def _destroy(dataset: str) -> None:
    try:
        _zfs("destroy", dataset)
    except DatasetNotFound:
        return
    except DatasetInUse:
        if "@" in dataset or list(_inside(dataset)):
            raise
        _zfs("destroy", "-r", dataset)


def _inside(dataset: str) -> Iterator[str]:
    names = _zfs("list", "-H", "-r", "-t", "filesystem,volume", "-o", "name", dataset).splitlines()
    return (name for name in names if name != dataset)


def mount(dataset: str) -> None:
    """Where its property says. By zfs-fuse, in the mount namespace of its daemon."""
    for _attempt in patiently(PATIENCE):
        try:
            with _alone() as held:
                _zfs("mount", dataset, held=held)
        except DatasetBusy as error:
            if "already mounted" in str(error):
                return
            busy = error
        else:
            return
    raise busy


# -- properties


def set_property(dataset: str, name: str, value: str) -> None:
    """A transaction of the pool: what was counted before is right after this."""
    _zfs("set", f"{name}={value}", dataset)


def number(dataset: str, name: str) -> int:
    return int(_zfs("get", "-H", "-p", "-o", "value", name, dataset))


def is_plain(dataset: str) -> bool:
    """Whether what is written into it is neither compressed nor shared."""
    return _zfs("get", "-H", "-o", "value", "compression,dedup", dataset).split() == ["off", "off"]


def exists(dataset: str) -> bool:
    try:
        return _zfs("get", "-H", "-o", "value", "type", dataset).strip() == "filesystem"
    except DatasetNotFound:
        return False


def marked(below: str, name: str, value: str) -> list[str]:
    """Datasets that have a property of their own with this value; none, if ``below`` is not there."""
    try:
        text = _zfs("get", "-H", "-r", "-s", "local", "-o", "name,value", name, below)
    except DatasetNotFound:
        return []
    pairs = (line.split("\t") for line in text.splitlines())
    return [pair[0] for pair in pairs if pair[1:] == [value] and "@" not in pair[0]]


# -- asking


@contextlib.contextmanager
def _alone() -> Iterator[tuple[int, ...]]:
    """For what mounts: zfs-fuse mixes up two mounts at a time, and then answers nobody any more.

    It hands them to its listener in several writes to one pipe. The command holds the lock as well, which is
    the descriptor that this gives: it may outlive who began it.
    """
    try:
        descriptor = os.open(_DAEMON, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield ()
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _options(properties: Mapping[str, str]) -> list[str]:
    return [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]


def patiently(seconds: float) -> Iterator[None]:
    """Attempts, with pauses that grow. A mount that is gone is known to a daemon a moment later."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    yield
    while time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
        yield


def _zfs(verb: str, *words: str, held: Sequence[int] = ()) -> str:
    """What it prints. Raises one of the errors above."""
    with _started(verb, *words, held=held) as process:
        with _watched(process):
            out, complaint = process.communicate()
        _insist(process, verb, words[-1], complaint)
    return str(out)


def _started(verb: str, *words: str, held: Sequence[int] = (), is_text: bool = True) -> Popen[Any]:
    import subprocess  # noqa: PLC0415 - for what is really done with datasets

    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        return subprocess.Popen(
            [_PROGRAM, verb, *words], text=is_text, errors="replace" if is_text else None, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=held,
        )
    except FileNotFoundError:
        raise DriverUnavailable(
            "storage driver zfs: the program zfs is missing (Debian: zfsutils-linux, or zfs-fuse)"
        ) from None


@contextlib.contextmanager
def _watched(process: Popen[Any]) -> Iterator[None]:
    """A time-out of ``subprocess`` looks at the process now and then: 3 ms later than this on average."""
    watch = threading.Timer(_SECONDS, process.kill)
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _insist(process: Popen[Any], verb: str, subject: str, complaint: str) -> None:
    if process.returncode == -signal.SIGKILL:
        raise ZfsUnreachable(
            f"{subject}: zfs {verb} was killed, or has not ended after {_SECONDS} s; `zpool status` says "
            "whether the pool is suspended"
        )
    if process.returncode != 0:
        raise explained(verb, subject, complaint)


def explained(verb: str, subject: str, complaint: str) -> LaminaError:
    """The error that a complaint stands for."""
    for words, kind in _MEANINGS:
        if words in complaint:
            said = _ADVICE.get(kind) or f"zfs {verb}: {_short(complaint)}"
            return kind(f"{subject}: {said}")
    return ZfsFailed(f"{subject}: zfs {verb}: {_short(complaint) or 'failed, and does not say why'}")


def unreachable(subject: str) -> ZfsUnreachable:
    """What to say of a mounted dataset that answers with one of :data:`DEAD`."""
    return ZfsUnreachable(f"{subject}: {_ADVICE[ZfsUnreachable]}")


def _short(complaint: str) -> str:
    """Its first line, without the name that it begins with: ``cannot destroy 'tank/a': dataset is busy``."""
    line = next(iter(complaint.strip().splitlines()), "")
    head, colon, rest = line.partition("': ")
    return rest if colon and head.startswith("cannot ") else line


def dataset_at(directory: Path) -> str:
    """The dataset that a directory lies on; the empty text if on none."""
    from lamina.snapshot.mountinfo import mounts  # noqa: PLC0415 - where nobody named a dataset

    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in mounts():
        if line.device == wanted and is_zfs(line.type):
            found = line.source
    return found


def is_in_kernel() -> bool:
    """OpenZFS, whose module is loaded; else zfs-fuse is all that could answer."""
    words = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return "zfs" in words


def is_zfs(kind: str) -> bool:
    """A filesystem's type, as mountinfo has it: of the kernel's, and of zfs-fuse's."""
    return kind in ("zfs", "fuse.zfs")
