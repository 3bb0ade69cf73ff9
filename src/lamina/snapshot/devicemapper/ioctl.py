"""The kernel's interface to device-mapper, as functions that raise ``OSError`` (linux/dm-ioctl.h).

Devices go by their names. A node /dev/mapper/NAME appears whether udev runs or not; where it does, it is told
to look into none of ours: what containers write is nobody's business, and a scan keeps a device busy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from lamina.values import dataclass

MAPPER = Path("/dev/mapper")
_CONTROL = MAPPER / "control"

# struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr, dev, name, uuid
_HEADER = struct.Struct("=3I3IiII4xQ128s129s7x")
_TARGET = struct.Struct("=QQiI16s")  # struct dm_target_spec; its parameters follow
_SECTOR = struct.Struct("=Q")  # struct dm_target_msg; its text follows
_ANSWER = 16 * 1024

_CREATE, _REMOVE, _SUSPEND, _STATUS = 3, 4, 6, 7
_LOAD, _TABLE, _MESSAGE, _TARGET_VERSION = 9, 12, 14, 17

_READ_ONLY, _SUSPENDED, _TABLE_WANTED, _ACTIVE = 1 << 0, 1 << 1, 1 << 4, 1 << 5
_NO_FLUSH, _DEFERRED = 1 << 11, 1 << 17

# What DM_COOKIE carries to udev's rules (libdevmapper.h): ours is the event that counts, and no rule of
# subsystems, no scan of the disk and no rule of others shall act on it.
_UDEV = (0x0002 | 0x0004 | 0x0008 | 0x0040) << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """``number`` is what ``st_rdev`` of its node is. Without a table it is not ``is_active``."""

    name: str
    number: int
    open_count: int
    is_active: bool
    is_suspended: bool
    is_read_only: bool
    is_going: bool

    @property
    def numbers(self) -> str:
        """As tables and mountinfo have it."""
        return f"{os.major(self.number)}:{os.minor(self.number)}"


def find(name: str) -> Device | None:
    return _found(name=name)


def find_numbered(number: int) -> Device | None:
    """By the ``st_rdev`` of its node."""
    return _found(number=number)


def _found(*, name: str = "", number: int = 0) -> Device | None:
    try:
        answer = _ask(_STATUS, name, number=number)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    return _device(answer)


def create(name: str, uuid: str) -> Device:
    """A device without a table. EBUSY if there is one of that name."""
    return _device(_ask(_CREATE, name, uuid=uuid, event=_UDEV))


def load(name: str, kind: str, sectors: int, parameters: str, *, is_read_only: bool = False) -> None:
    """The table that the next :func:`resume` makes the device's own: one target, from its beginning."""
    text = parameters.encode() + b"\0"
    target = _TARGET.pack(0, sectors, 0, 0, kind.encode()) + text
    _ask(_LOAD, name, target, flags=_READ_ONLY if is_read_only else 0, targets=1)


def resume(name: str) -> Device:
    """It works, and has a node."""
    device = _device(_ask(_SUSPEND, name, event=_UDEV))
    _make_node(device)
    return device


def suspend(name: str) -> None:
    """Returns when all that was written is in the device, with the filesystem on it at rest."""
    _ask(_SUSPEND, name, flags=_SUSPENDED)


def remove(name: str, *, is_deferred: bool = False) -> None:
    """EBUSY while somebody has it open; deferred, it goes by itself with the last of them (Linux 3.13)."""
    try:
        _ask(_REMOVE, name, flags=_DEFERRED if is_deferred else 0, event=_UDEV)
    finally:
        if find(name) is None:  # now, or when it was closed
            (MAPPER / name).unlink(missing_ok=True)


def table(name: str) -> tuple[str, str]:
    """The kind of its one target, and the parameters as they were loaded."""
    return _told(_ask(_TABLE, name, flags=_TABLE_WANTED))


def status(name: str) -> tuple[str, str]:
    """The kind of its one target, and what that has to say."""
    return _told(_ask(_TABLE, name, flags=_NO_FLUSH))


def message(name: str, text: str) -> None:
    """To the target at its beginning."""
    _ask(_MESSAGE, name, _SECTOR.pack(0) + text.encode() + b"\0")


def knows_target(kind: str) -> bool:
    """Whether the kernel has such a target, perhaps in a module that it loads now (Linux 5.3)."""
    try:
        _ask(_TARGET_VERSION, kind)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
        return error.errno == errno.ENOTTY  # an older kernel knows only what is loaded already
    return True


def _told(answer: bytes) -> tuple[str, str]:
    header = _HEADER.unpack_from(answer)
    start, count = header[4], header[5]
    if count == 0:
        return "", ""
    kind = _TARGET.unpack_from(answer, start)[4]
    text = answer[start + _TARGET.size :].split(b"\0", 1)[0]
    return kind.rstrip(b"\0").decode(), text.decode()


def _device(answer: bytes) -> Device:
    opened, flags, _event, number, name, _uuid = _HEADER.unpack_from(answer)[6:]
    return Device(
        name=name.split(b"\0", 1)[0].decode(), number=number, open_count=opened,
        is_active=bool(flags & _ACTIVE), is_suspended=bool(flags & _SUSPENDED),
        is_read_only=bool(flags & _READ_ONLY), is_going=bool(flags & _DEFERRED),
    )


def _ask(
    command: int, name: str, data: bytes = b"", *, uuid: str = "", number: int = 0, flags: int = 0,
    event: int = 0, targets: int = 0,
) -> bytes:
    data += b"\0" * (-len(data) % 8)
    size = _HEADER.size + max(len(data), _ANSWER)
    header = _HEADER.pack(
        4, 0, 0, size, _HEADER.size, targets, 0, flags, event, number, name.encode(), uuid.encode()
    )
    buffer = bytearray(header + data + bytes(size - _HEADER.size - len(data)))
    descriptor = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | command, buffer)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), name) from None
    finally:
        os.close(descriptor)
    return bytes(buffer)


def _make_node(device: Device) -> None:
    """The link that udev would make. Where /dev is not the kernel's own, a node of ours."""
    node, kernels = MAPPER / device.name, f"../dm-{os.minor(device.number)}"
    if _leads_to(node, device.number):
        return
    temporary = MAPPER / f".{device.name}.{os.urandom(4).hex()}"
    if (MAPPER / kernels).exists():
        os.symlink(kernels, temporary)
    else:
        os.mknod(temporary, 0o600 | stat.S_IFBLK, device.number)
    with contextlib.suppress(FileNotFoundError):
        os.replace(temporary, node)


def _leads_to(node: Path, number: int) -> bool:
    try:
        return os.stat(node).st_rdev == number
    except FileNotFoundError:
        return False
