"""The filesystem on a thin device: made once, measured, grown by the kernel itself, and mended.

All devices of a state directory are snapshots of one that was formatted, so all have its UUID.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lamina.errors import Unavailable
from lamina.snapshot.devicemapper.superblock import Superblock, mark_for_recovery, read_superblock
from lamina.snapshot.reaching import reached
from lamina.snapshot.snapshotter import Mount
from lamina.values import dataclass

# ext4(5), xfs(5). Tables of inodes that were never written read as zeros in a thin device that zeroes its
# blocks: nobody has to write them. A view's journal is at rest, and its device takes no writes.
_OPTIONS = {"ext4": ("noinit_itable", "errors=remount-ro"), "xfs": ("nouuid",)}
_READ_ONLY = {"ext4": ("ro", "noload"), "xfs": ("ro", "nouuid")}

_EXT4_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64), in the filesystem's blocks
_XFS_GEOMETRY = 0x80705864  # XFS_IOC_FSGEOMETRY_V1: 112 bytes, of which the eighth number is imaxpct
_XFS_GROW = 0x4010586E  # XFS_IOC_FSGROWFSDATA: blocks, and imaxpct
_MENDED = (0, 1)  # e2fsck(8)


class FilesystemFailed(Unavailable):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in a filesystem by its own account: bytes, and inodes."""

    used: int
    inodes: int


def make(kind: str, node: Path, uuid: str, arguments: Sequence[str], *, reads_zeros: bool) -> None:
    """``reads_zeros``: what is new in the pool is zeroed before anybody sees it."""
    lazy = int(reads_zeros)
    given = {
        "ext4": ("-q", "-F", "-U", uuid, "-E", f"nodiscard,lazy_itable_init={lazy},lazy_journal_init={lazy}"),
        "xfs": ("-q", "-f", "-K", "-m", f"uuid={uuid}"),
    }[kind]
    done = subprocess.run(
        [program(kind), *given, *arguments, node], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise FilesystemFailed(f"{program(kind)}: {said}")


def program(kind: str) -> str:
    return f"mkfs.{kind}"


def mount_of(kind: str, node: Path, options: Sequence[str], *, is_read_only: bool) -> Mount:
    given = _READ_ONLY[kind] if is_read_only else (*_OPTIONS[kind], *options)
    return Mount(type=kind, source=str(node), options=given)


@contextmanager
def opened(mount: Mount) -> Iterator[int]:
    """Its root directory, mounted where nobody comes by, for the time of the block."""
    with reached([mount]) as path:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)


def empty(mount: Mount) -> None:
    """Made ready to be a root: it looks the same whenever it is made.

    fsck makes lost+found again if it ever needs one, so no container has to see it.
    """
    with opened(mount) as directory:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir("lost+found", dir_fd=directory)
        os.fchmod(directory, 0o755)
        os.utime(directory, ns=(0, 0))


def grow(mount: Mount, size: int) -> None:
    """To ``size`` bytes, which its device has. The kernel does it to a filesystem that is mounted."""
    with opened(mount) as directory:
        blocks = size // os.fstatvfs(directory).f_frsize
        if mount.type == "ext4":
            fcntl.ioctl(directory, _EXT4_RESIZE, struct.pack("=Q", blocks))
            return
        geometry = bytearray(112)
        fcntl.ioctl(directory, _XFS_GEOMETRY, geometry)
        most_inodes = struct.unpack_from("=8I", geometry)[7]
        fcntl.ioctl(directory, _XFS_GROW, struct.pack("=QI4x", blocks, most_inodes))


def measure(mount: Mount, *, is_open: bool) -> Contents:
    """``is_open``: somebody has it mounted, and what the device says of it is old."""
    node = Path(mount.source)
    found = _superblock(node)
    if found.is_at_rest and not is_open:
        return Contents(used=found.size - found.free, inodes=found.inodes)
    with opened(mount) as directory:
        status = os.fstatvfs(directory)
    return Contents(
        used=found.size - status.f_bfree * status.f_frsize, inodes=status.f_files - status.f_ffree
    )


def _superblock(node: Path) -> Superblock:
    found = read_superblock(node)
    if found is None:
        raise FilesystemFailed(f"{node}: there is no filesystem on it")
    return found


def insist_whole(mount: Mount) -> None:
    """Brings it to rest after it was unmounted: a journal that holds something is read."""
    node = Path(mount.source)
    if not _superblock(node).is_at_rest:
        with opened(mount):
            pass
    if _superblock(node).has_errors:
        raise FilesystemFailed(
            f"{node}: the filesystem has errors, as when the thin pool had no room or a disk failed: not all "
            "that was written is there"
        )


def mend(mount: Mount) -> None:
    """After errors: what was synced is in the journal still, and is written where it belongs.

    Linux 6.1 unmounts such a filesystem and takes back the mark that says so, and the next mount would throw
    the journal away.
    """
    node = Path(mount.source)
    found = _superblock(node)
    if not found.has_errors:
        return
    mark_for_recovery(node)
    with opened(mount):
        pass
    done = subprocess.run(
        ["e2fsck", "-p", node], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode not in _MENDED:
        raise FilesystemFailed(
            f"{node}: the filesystem has errors that `e2fsck -p` leaves to you: "
            f"{' '.join((done.stdout + done.stderr).split())[-300:]}"
        )
