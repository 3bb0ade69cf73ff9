"""Finding out whether a driver works by doing a little of what it does, where its files would be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lamina.content.directorylock import locked
from lamina.content.durable import make_directory
from lamina.snapshot import trees
from lamina.snapshot.hands import Hands, empty_anyhow
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.snapshotter import Mount

_PREFIX = ".trying-"
# Seconds that one may take from its making to its lock.
_YOUNG = 60.0
LACKING = "needs CAP_SYS_ADMIN, which root lacks here, as in a container"


@contextlib.contextmanager
def scratch(root: Path, hands: Hands) -> Iterator[Path]:
    """What works on another filesystem proves nothing."""
    home = root / "snapshots"
    make_directory(home)
    path = home / f"{_PREFIX}{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        hands.empty(path)
        os.close(descriptor)


def leftovers(root: Path) -> Iterator[tuple[Path, int]]:
    """What is left of trials that were killed, and the bytes on disk of each."""
    for path in (root / "snapshots").glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_ctime >= _YOUNG and _is_nobodys(path):
                yield path, trees.measure(path).size


def sweep(root: Path) -> int:
    """Removes what :func:`leftovers` finds; the bytes freed."""
    freed = 0
    for path, size in leftovers(root):
        empty_anyhow(path)
        freed += size
    return freed


def _is_nobodys(path: Path) -> bool:
    with locked(path) as is_ours:
        return is_ours


def owners(hands: Hands) -> str:
    """The end of a promise: what a user who has one id alone must know."""
    return "; files get one owner" if hands.identity.ownership is Ownership.SINGLE else ""


def overlay_reason(root: Path, hands: Hands) -> str:
    """Why overlayfs cannot be mounted over directories here; the empty text if it can."""
    if not hands.identity.may_mount:
        if hands.identity.is_initial:
            return LACKING
        return "needs root, or user namespaces for ordinary users, which this system does not allow"
    with scratch(root, hands) as path:
        found: str = hands.run("try_overlay", path=str(path), xattrs=hands.identity.xattr_namespace)
        return found


def quota_reason(root: Path, hands: Hands) -> str:
    """Why a driver of directories cannot bound them; the empty text if it can."""
    if not hands.identity.is_initial:
        return "its option size takes project quotas, which root alone may set"
    from lamina.snapshot.projectquota import reason_against  # noqa: PLC0415 - few ask for limits

    reason = reason_against(root)
    return f"its option size takes project quotas: {reason}" if reason else ""


def try_overlay(path: Path, xattrs: str) -> str:
    """Two lower directories and an upper one, in which a lower file is then removed and replaced."""
    for name in ("low", "lower", "upper", "work"):
        (path / name).mkdir()
    mount = Mount(
        type="overlay", source="overlay",
        options=(f"upperdir={path / 'upper'}", f"workdir={path / 'work'}",
                 *(("userxattr",) if xattrs == "user" else ())),
        layers=tuple(Mount(type="bind", source=str(path / name)) for name in ("lower", "low")),
    )
    from lamina.snapshot.mounting import can_mount  # noqa: PLC0415 - ctypes, for those who mount

    return can_mount(mount)
