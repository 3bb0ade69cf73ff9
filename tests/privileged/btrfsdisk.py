"""A btrfs filesystem in a file, in memory: as fast as tests like it, and gone with them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.privileged.loopdisk import wait_until_forgotten
from tests.privileged.places import owned_directory

from lamina.snapshot.btrfs import ioctl
from lamina.snapshot.btrfs.subvolumes import opened

_ROOT_BACKREF = 144


@contextmanager
def btrfs(size: int = 2 << 30, *options: str) -> Iterator[Path]:
    """Mounted where everybody may make files."""
    with owned_directory(None) as place:
        place.chmod(0o755)
        yield from _mounted(place, size, *options)


def _mounted(place: Path, size: int, *options: str) -> Iterator[Path]:
    memory, mounted = place / "memory", place / "mounted"
    for path in (memory, mounted):
        path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + (8 << 20)}", "tmpfs", memory], check=True)
    image = memory / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.btrfs", "-q", "-m", "single", *options, image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop,nodev", image, mounted], check=True)
    mounted.chmod(0o1777)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)
        wait_until_forgotten(image)
        subprocess.run(["umount", "-l", memory], check=True)


def subvolumes(disk: Path) -> set[int]:
    """The numbers of all that are somewhere: one that was destroyed is nowhere, long before it is freed."""
    with opened(disk) as descriptor:
        everything = ioctl._FIRST_SUBVOLUME, ioctl._LAST_SUBVOLUME
        return {number for number, _parent in ioctl._search(descriptor, everything, _ROOT_BACKREF)}


def wait_until_freed(disk: Path) -> None:
    """Until only those are left that are somewhere: the kernel takes its time."""
    until = time.monotonic() + 60
    with opened(disk) as descriptor:
        while ioctl.all_subvolumes(descriptor) != subvolumes(disk):
            assert time.monotonic() < until, f"{ioctl.all_subvolumes(descriptor) - subvolumes(disk)} are not freed"
            ioctl.sync(descriptor)
            time.sleep(0.05)
