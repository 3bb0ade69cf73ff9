"""Room kept for a full disk: without it, what would free some could not even open the state.

SQLite needs a few blocks of its own before it reads or deletes anything (its log and the log's index). So a
file of zeros lies beside it as long as that takes little of what is free, and gives its blocks up when there
is nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

# For the log of removing a few things; a long log is brought back into the file before it is this long.
_SIZE = 2 << 20
_LEAST = 128 << 10
# Of what is free when it is made, and of the whole disk when it is made again.
_SHARE, _LARGEST_SHARE = 32, 16
_NAME = "reserve"
# Seconds to wait for who lives on it, and between looking.
_PATIENCE, _PAUSE = 3.0, 0.02


def free_bytes(directory: Path) -> int:
    """What ext4 keeps for root and for its own metadata is not among it."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def keep(directory: Path) -> None:
    """Makes it, or makes it larger where there is more room now. Where it cannot be had, nothing happens."""
    with contextlib.suppress(OSError):
        known = _size(directory / _NAME)
        if known < _SIZE and (size := _step(free_bytes(directory) // _SHARE)) > known:
            _make(directory / _NAME, size) if not known else _extend(directory / _NAME, size)


def take_back(directory: Path) -> None:
    """For the next command: what this one has freed or not used, if others have left some of it."""
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        size = _step(status.f_blocks * status.f_frsize // _LARGEST_SHARE)
        while size >= _LEAST:
            with contextlib.suppress(OSError):
                _make(directory / _NAME, size)
                _commit(directory)
                return
            size //= 2


def _step(bound: int) -> int:
    """The largest size that is used and not over a bound; 0 where even the least is."""
    size = _SIZE
    while size > bound:
        size //= 2
    return size if size >= _LEAST else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _extend(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _make(path: Path, size: int) -> None:
    """Who is first has made it for all."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def take_turn(directory: Path) -> int:
    """A lock for who is about to give it up, until that process has taken it back: closing it ends the turn.

    Without, the next one finds neither the reserve nor what the first has yet to free. Nobody waits for ever:
    a command may wait for a process that waits here.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(_PAUSE)
    return descriptor


def give_up(directory: Path) -> bool:
    """Whether there was any."""
    try:
        (directory / _NAME).unlink()
    except FileNotFoundError:
        return False
    _commit(directory)
    return True


def _commit(directory: Path) -> None:
    """btrfs lets nobody have the blocks of a removed file before its transaction is on the disk.

    Until then it counts them as free: the next command would believe that there is room.
    """
    import ctypes  # noqa: PLC0415 - for a full disk alone

    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)
        finally:
            os.close(descriptor)
