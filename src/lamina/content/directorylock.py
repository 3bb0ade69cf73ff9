"""A lock on a directory itself: nothing has to be made for it, and it ends with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(
    directory: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB, *, if_gone: bool = False
) -> Iterator[bool]:
    """Whether we have it until the block ends; nobody waits, unless ``how`` says so.

    ``if_gone`` is the answer where there is no such directory.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield if_gone
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
