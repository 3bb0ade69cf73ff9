"""Room kept for a full disk: without it, what would free some could not even open the state.

SQLite needs a few blocks of its own before it reads or deletes anything (its log and the log's index). So a
file of zeros lies beside it as long as there is plenty, and gives its blocks up when there is nothing else.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# For the log of removing a few things; a long log is brought back into the file before it is this long.
_SIZE = 2 << 20
_LEAST = 128 << 10
_PLENTY = 64 << 20
_NAME = "reserve"


def free_bytes(directory: Path) -> int:
    """What ext4 keeps for root and for its own metadata is not among it."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def keep(directory: Path, *, least: int = _PLENTY) -> None:
    """Makes it if it is not there and ``least`` bytes are free. Where it cannot be had, nothing happens."""
    with contextlib.suppress(OSError):
        if not (directory / _NAME).exists() and free_bytes(directory) >= least:
            _make(directory / _NAME, _SIZE)


def take_back(directory: Path) -> None:
    """For the next command: what this one has freed or not used, if others have left some of it."""
    size = _SIZE
    while size >= _LEAST:
        with contextlib.suppress(OSError):
            _make(directory / _NAME, size)
            _commit(directory)
            return
        size //= 2


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
