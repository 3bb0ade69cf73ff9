"""Bind mounts by descriptor: what is mounted, and where, was looked up once and is looked up no more.

Between the look and the mount a path may have become a symlink (CVE-2021-30465, CVE-2026-42306).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lamina.errors import Denied, NotFound, Unsupported
from lamina.runtime.targets import StubKind, make_stub, resolve_target
from lamina.snapshot import syscalls


class SubpathNotFound(NotFound):
    pass


class SubpathEscapes(Denied):
    """A container that had the volume before put a symlink there."""


def bind(source: int, target: int, *, is_read_only: bool = False, is_recursive: bool = True) -> None:
    """Mounts what the descriptor ``source`` is on what ``target`` is; private, for this namespace alone."""
    detached = syscalls.open_tree(f"/proc/self/fd/{source}", is_recursive=is_recursive)
    try:
        attributes = syscalls.MOUNT_ATTR_RDONLY if is_read_only else 0
        syscalls.mount_setattr(
            detached, attributes, is_recursive=is_recursive, propagation=syscalls.MS_PRIVATE
        )
        syscalls.move_mount(detached, target)
    finally:
        os.close(detached)


def bind_inside(rootfs: int, target: str, source: int, *, is_read_only: bool = False) -> list[str]:
    """On ``target`` in a root filesystem, where something is made if need be; the answer is what was."""
    is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
    made = make_stub(rootfs, target, StubKind.DIRECTORY if is_directory else StubKind.FILE)
    place = resolve_target(rootfs, target)
    try:
        bind(source, place, is_read_only=is_read_only)
    except OSError as error:
        raise Unsupported(f"{target}: cannot be mounted ({(error.strerror or '').lower()})") from None
    finally:
        os.close(place)
    return made


def bind_subpath(data: Path, subpath: str, place: Path) -> None:
    """Mounts a directory or file inside a volume on ``place``, which is made: a path that nobody can swap.

    A container that has the volume may change it at any time, and a runtime looks up paths only later.
    """
    source = open_source(str(data), subpath)
    try:
        if stat.S_ISDIR(os.fstat(source).st_mode):
            place.mkdir(mode=0o700, exist_ok=True)
        else:
            place.touch(mode=0o600)
        target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            bind(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def open_source(source: str, subpath: str) -> int:
    """An O_PATH descriptor of a host path, or of what is below it: there, nobody's symlink is followed."""
    top = os.open(source, os.O_PATH | os.O_CLOEXEC)
    if not subpath:
        return top
    try:
        return syscalls.open_beneath(top, subpath, os.O_PATH)
    except FileNotFoundError:
        raise SubpathNotFound(f"{subpath}: no such file or directory in the volume") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise
        raise SubpathEscapes(
            f"{subpath}: leads through a symlink in the volume; give the path that it stands for"
        ) from None
    finally:
        os.close(top)
