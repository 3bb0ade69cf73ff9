"""Bounding what lies below directories: project quotas of ext4 and xfs (quotactl(2)). For root alone.

A file counts for the project that its directory had when the file was made (FS_XFLAG_PROJINHERIT), so the
directories of one snapshot get a project while they are empty. Which one, is written nowhere but on them: its
number is chosen where the kernel knows of no use of it, and its limit goes before they do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamina.errors import InvalidInput
from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import line_of
from lamina.snapshot.snapshotter import DriverUnavailable

# linux/fs.h
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=5I8x")
_INHERIT = 0x200
# linux/quota.h and linux/dqblk_xfs.h. Limits are in blocks of 1 KiB; xfs takes and gives the same as ext4.
_PROJECT = 2
_FORMAT, _GET, _SET, _STATE = (code << 8 | _PROJECT for code in (0x800004, 0x800007, 0x800008, 0x5808))
_USAGE = struct.Struct("=8QI4x")
_BLOCK = 1024
_LIMITS = 1
_STATE_SIZE, _STATE_VERSION = 160, 1
_ENFORCED = 1 << 5
# Above those that people and other engines number from 1 on.
_FIRST, _END = 1 << 24, 1 << 31
_OPTIONS = {"ext4": "prjquota", "xfs": "pquota"}


def reason_against(path: Path) -> str:
    """Why nothing below a directory can be bounded; the empty text if it can."""
    with _opened(path) as descriptor:
        if _is_enforced(descriptor):
            return ""
        line = line_of(descriptor)
        kind = "" if line is None else line.type
        about = "the state directory" if line is None else f"{line.target} ({kind})"
        if kind not in _OPTIONS:
            return f"{about}: has none; ext4 and xfs have"
        if not _is_in_kernel(descriptor):
            return f"{about}: this kernel is built without them"
        return f"{about}: mounted without them; mount it with the option {_OPTIONS[kind]}"


def limit(home: Path, parts: Sequence[Path], size: int) -> None:
    """``size`` is of ``parts`` together, directories below ``home``: empty ones, or bounded already.

    Raises :class:`DriverUnavailable`, and ``InvalidInput`` for less than what is there.
    """
    reason = reason_against(home)
    if reason:
        raise DriverUnavailable(f"a size limit takes project quotas: {reason}")
    with _alone(home) as descriptor:
        project = own_project(parts[0])
        if not project:
            project = _free(descriptor)
            for part in parts:
                _give(part, project)
        _bound(descriptor, project, size)


def own_project(part: Path) -> int:
    """The one that :func:`limit` gave it; 0 for none, also where it only inherited one from above."""
    try:
        project = _project(part)
        return project if project and project != _project(part.parent) else 0
    except OSError:  # a filesystem that has no such thing, or a directory that is not there
        return 0


def is_bounded(descriptor: int) -> bool:
    """Whether what is made in an open directory counts for a project; seen through an overlay as well."""
    try:
        flags, _extent, _extents, project, _cow = _attributes(descriptor)
    except OSError:
        return False
    return bool(project and flags & _INHERIT)


def release(part: Path) -> None:
    """Its project has no limit any more, and so is anybody's as soon as nothing is left of it."""
    project = own_project(part)
    if project:
        with contextlib.suppress(OSError), _opened(part) as descriptor:
            _set(descriptor, project, 0)


# -- projects of directories


def _project(directory: Path) -> int:
    with _opened(directory) as descriptor:
        return _attributes(descriptor)[3]


def _attributes(descriptor: int) -> tuple[int, ...]:
    answer = bytearray(_ATTRIBUTES.size)
    fcntl.ioctl(descriptor, _GET_ATTRIBUTES, answer)
    return _ATTRIBUTES.unpack(answer)


def _give(directory: Path, project: int) -> None:
    with _opened(directory) as descriptor:
        flags, extent, extents, _old, cow = _attributes(descriptor)
        wanted = _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, cow)
        fcntl.ioctl(descriptor, _SET_ATTRIBUTES, wanted)


# -- limits of projects


def _free(descriptor: int) -> int:
    while True:
        number = _FIRST + int.from_bytes(os.urandom(8), "little") % (_END - _FIRST)
        if not any(_usage(descriptor, number)):
            return number


def _bound(descriptor: int, project: int, size: int) -> None:
    used = _usage(descriptor, project)[2]
    if size <= used:
        raise InvalidInput(f"a size limit of {size} bytes: {used} are in use already")
    try:
        _set(descriptor, project, size)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        raise InvalidInput(f"a size limit of {size} bytes: more than this filesystem can count") from None


def _usage(descriptor: int, project: int) -> tuple[int, ...]:
    """Limit and soft limit in blocks, bytes, and the same of inodes."""
    answer = bytearray(_USAGE.size)
    try:
        syscalls.quotactl(descriptor, _GET, project, answer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):  # nobody ever had that number
            return (0,) * 6
        raise
    return _USAGE.unpack(answer)[:6]


def _set(descriptor: int, project: int, size: int) -> None:
    blocks = -(-size // _BLOCK)
    syscalls.quotactl(
        descriptor, _SET, project, bytearray(_USAGE.pack(blocks, 0, 0, 0, 0, 0, 0, 0, _LIMITS))
    )


def _is_enforced(descriptor: int) -> bool:
    answer = bytearray(_STATE_SIZE)
    answer[0] = _STATE_VERSION
    try:
        syscalls.quotactl(descriptor, _STATE, 0, answer)
    except OSError:
        return False
    return bool(struct.unpack_from("=H", answer, 2)[0] & _ENFORCED)


def _is_in_kernel(descriptor: int) -> bool:
    """ENOSYS means both: that there is no such thing, and that none is switched on; but not of this one."""
    try:
        syscalls.quotactl(descriptor, _FORMAT, 0, bytearray(4))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


# -- where


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[int]:
    """A number is chosen by one process at a time."""
    with _opened(home) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
