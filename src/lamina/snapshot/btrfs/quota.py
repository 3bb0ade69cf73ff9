"""Bounding what a subvolume takes, by btrfs' own quotas; they are the whole filesystem's. Root's.

Simple quotas (Linux 6.7) charge what is written to the subvolume that writes it, and cost next to nothing.
The older ones, where somebody has them switched on, serve as well: both limit what is not shared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from pathlib import Path

from lamina.snapshot.btrfs import ioctl
from lamina.snapshot.snapshotter import DriverUnavailable

_SYSFS = Path("/sys/fs/btrfs")
_OF_SUBVOLUME = re.compile(r"0_(\d+)")
_REASONS = {
    errno.EPERM: "needs root: ordinary users cannot set quotas of btrfs",
    errno.EINVAL: "needs Linux 6.7, or `btrfs quota enable` on its filesystem",
    errno.ENOTTY: "needs Linux 6.7, or `btrfs quota enable` on its filesystem",
    errno.EROFS: "the filesystem is read-only",
}


def limit(directory: int, number: int, size: int) -> None:
    """Writing more than ``size`` bytes into a subvolume is EDQUOT. Switches quotas on if none are.

    Raises :class:`DriverUnavailable`.
    """
    try:
        if not _are_on(_filesystem(directory)):
            ioctl.enable_simple_quotas(directory)
        ioctl.limit_exclusive(directory, number, size)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise DriverUnavailable(f"storage driver btrfs: a limit of size: {reason}") from None


def remove_stale(directory: int) -> None:
    """Counters of subvolumes that are gone. The kernel forgets some itself (Linux 6.11), but not all.

    The ones that it still counts something for are left.
    """
    filesystem = _filesystem(directory)
    if not _are_on(filesystem):
        return
    counted = {int(found[1]) for name in _names(filesystem) if (found := _OF_SUBVOLUME.fullmatch(name))}
    for number in counted - ioctl.all_subvolumes(directory):
        if number >= ioctl.ROOT_INODE:
            with contextlib.suppress(OSError):
                ioctl.remove_qgroup(directory, number)


def _filesystem(directory: int) -> uuid.UUID:
    found = ioctl.filesystem_of(directory)
    assert found is not None
    return found


def _are_on(filesystem: uuid.UUID) -> bool:
    return "enabled" in _names(filesystem)


def _names(filesystem: uuid.UUID) -> list[str]:
    """Nothing where quotas are off, or where sysfs is not mounted."""
    try:
        return os.listdir(_SYSFS / str(filesystem) / "qgroups")
    except OSError:
        return []
