"""Finding out whether a driver works by doing a little of what it does, where its files would be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lamina.content.durable import make_directory
from lamina.snapshot.hands import Hands
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.snapshotter import Mount

LACKING = "needs CAP_SYS_ADMIN, which root lacks here, as in a container"


@contextlib.contextmanager
def scratch(root: Path, hands: Hands) -> Iterator[Path]:
    """What works on another filesystem proves nothing."""
    home = root / "snapshots"
    make_directory(home)
    path = home / f".trying-{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        hands.empty(path)


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
