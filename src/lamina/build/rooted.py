"""Files inside an open directory: symlinks are followed in it and never lead out, and only files are read."""

from __future__ import annotations

import os
import stat
from typing import NoReturn

from lamina.errors import Conflict, Denied, InvalidInput, NotFound
from lamina.runtime.copying import retried
from lamina.snapshot import syscalls

# O_NONBLOCK: opening a FIFO would wait for its other end.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotThere(NotFound):
    pass


class Unreadable(Denied):
    """The rights of this process do not suffice, or it is nothing that can be read."""


class Changing(Conflict):
    """Somebody else changes the files while they are read."""


def open_file(directory: int, path: str) -> int:
    """As after a ``chroot`` into the directory. The caller closes it.

    Raises :class:`NotThere`, :class:`Unreadable`.
    """

    def opener(where: str, flags: int) -> int:
        return syscalls.open_in_root(directory, where, flags)

    try:
        descriptor = retried(opener)(path, READ)
    except (FileNotFoundError, NotADirectoryError):
        raise NotThere(f"{path}: no such file") from None
    except OSError as error:
        explain(error, path)
    return insist_regular(descriptor, path)


def read_file(directory: int, path: str, limit: int) -> bytes:
    """Raises what :func:`open_file` does, and ``InvalidInput`` for more than ``limit`` bytes."""
    with open(open_file(directory, path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInput(f"{path}: longer than {limit} bytes")
    return data


def insist_regular(descriptor: int, path: str) -> int:
    """The descriptor itself, or it is closed."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise Unreadable(f"{path}: expected a regular file")


def explain(error: OSError, path: str) -> NoReturn:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise Changing(f"{path}: went away while it was read") from None
    raise Unreadable(f"{path or '.'}: cannot be read: {reason}") from None
