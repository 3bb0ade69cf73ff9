"""The directories behind cache mounts, and who uses which: ``buildcaches/<hash of the id>/<number>/files``.

The numbered directory is always this user's, and is what is locked: to whom ``files`` belongs a step says.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

_FILES = "files"
_MODE = 0o755
_STEP = 0.05


def claim(home: Path, sharing: str, stack: ExitStack, insist_going: Callable[[], None]) -> Path:
    """``shared``: the one directory. ``locked``: alone. ``private``: one that nobody uses now.

    Until ``stack`` is closed. ``insist_going`` is called while it waits, and may raise.
    """
    number = 0
    while True:
        place = home / f"{number}"
        kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        if _lock(place, kind, stack):
            files = place / _FILES
            files.mkdir(mode=_MODE, exist_ok=True)
            return files
        if sharing == "private":
            number += 1
        else:
            insist_going()
            time.sleep(_STEP)


def is_empty(files: Path) -> bool:
    """Not if it belongs to somebody whom we may not look at: an ordinary user's subordinate, that is."""
    try:
        return not any(files.iterdir())
    except PermissionError:
        return False


def _lock(place: Path, kind: int, stack: ExitStack) -> bool:
    """Whether we have it now. Who removes it renames it first."""
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(place)):
            stack.callback(os.close, descriptor)
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return False
