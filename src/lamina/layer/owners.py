"""Owners where only one id exists: kept beside the files, in xattrs that any owner of a file may set.

Whoever has a single id cannot chown. What a layer says of a file's owner, and what a container does to it, is
kept in ``user.lamina.owner`` then: ``uid:gid``, and for a device that could not be made ``uid:gid c 1:3``. No
xattr means 0:0. The kernel allows xattrs of that namespace on regular files and directories alone (xattr(7)):
owners of anything else are kept on the directory that it is in, in ``user.lamina.owners``.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib

from lamina.layer.entry import Kind
from lamina.values import dataclass

OWNER_XATTR = "user.lamina.owner"
CHILDREN_XATTR = "user.lamina.owners"
# Both, and what may follow: no layer says them, and none is told of them.
OWNER_XATTRS = (OWNER_XATTR,)

_DEVICES = {b"c": Kind.CHAR, b"b": Kind.BLOCK}
_LETTERS = {kind: letter.decode() for letter, kind in _DEVICES.items()}
# ids and the numbers of devices are 32 bits; -1 is no id (chown(2)).
_MAX_ID = 0xFFFFFFFE
_OWNER = struct.Struct("<II")
# The name's CRC-32, 16 bits of what the name stood for, and which of the owners it has: ext4 has room for
# about 500 of them.
_CHILD = struct.Struct("<IHH")
_COUNT = struct.Struct("<H")
_HAS_NO_XATTRS = (errno.ENODATA, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Kept:
    """Who a file belongs to, and which device an empty file stands for."""

    uid: int = 0
    gid: int = 0
    device: Kind | None = None
    major: int = 0
    minor: int = 0

    @property
    def is_plain(self) -> bool:
        """What a file without a note is."""
        return not self.uid and not self.gid and self.device is None

    def encode(self) -> bytes:
        text = f"{self.uid}:{self.gid}"
        if self.device is not None:
            text += f" {_LETTERS[self.device]} {self.major}:{self.minor}"
        return text.encode("ascii")


PLAIN = Kept()


def parse_kept(value: bytes) -> Kept | None:
    """``None`` for what is no such note: whoever may write the file may write anything there."""
    words = value.split(b" ")
    ids = _pair(words[0], _MAX_ID)
    if ids is None:
        return None
    if len(words) == 1:
        return Kept(*ids)
    device = _DEVICES.get(words[1])
    numbers = _pair(words[2], 0xFFFFFFFF) if len(words) == 3 else None
    return None if device is None or numbers is None else Kept(*ids, device, *numbers)


def _pair(text: bytes, limit: int) -> tuple[int, int] | None:
    left, colon, right = text.partition(b":")
    if not (colon and left.isdigit() and right.isdigit() and len(text) < 24):
        return None
    pair = int(left), int(right)
    return pair if max(pair) <= limit else None


def read_kept(where: int | str) -> Kept | None:
    """Of an open file or directory, or of one by its path; ``None`` where there is no note."""
    try:
        return parse_kept(os.getxattr(where, OWNER_XATTR))
    except OSError as error:
        if error.errno in _HAS_NO_XATTRS:
            return None
        raise


def keep(where: int | str, kept: Kept) -> None:
    """Of a regular file or a directory. What is plain needs no note, and loses the one that it had."""
    if not kept.is_plain:
        os.setxattr(where, OWNER_XATTR, kept.encode())
        return
    try:
        os.removexattr(where, OWNER_XATTR)
    except OSError as error:
        if error.errno not in _HAS_NO_XATTRS:
            raise


# -- what can have no xattr of its own


def holds_own(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def essence(status: os.stat_result, link: bytes = b"") -> bytes:
    """What tells a name's file from another that takes the name later: a symlink's text, a device's number.

    Not its inode number: overlayfs changes that when it copies a symlink up.
    """
    return b"%d %d %s" % (stat.S_IFMT(status.st_mode), status.st_rdev, link)


def read_child(directory: int | str, name: bytes, guard: bytes) -> Kept | None:
    """The owner of a symlink, a FIFO, a socket or a device in a directory."""
    owners, children = _read_children(directory)
    found = children.get(zlib.crc32(name))
    if found is None or found[0] != _short(guard) or found[1] >= len(owners):
        return None
    return Kept(*owners[found[1]])


def keep_child(directory: int | str, name: bytes, guard: bytes, kept: Kept) -> None:
    """One writer at a time: the note of a whole directory is read and written again."""
    owners, children = _read_children(directory)
    number = zlib.crc32(name)
    if kept.is_plain:
        if children.pop(number, None) is None:
            return
    else:
        owner = (kept.uid, kept.gid)
        if owner not in owners:
            owners.append(owner)
        children[number] = (_short(guard), owners.index(owner))
    if children:
        _write_children(directory, owners, children)
    else:
        os.removexattr(directory, CHILDREN_XATTR)


def _short(guard: bytes) -> int:
    return zlib.crc32(guard) & 0xFFFF


def _read_children(directory: int | str) -> tuple[list[tuple[int, int]], dict[int, tuple[int, int]]]:
    try:
        value = os.getxattr(directory, CHILDREN_XATTR)
    except OSError as error:
        if error.errno in _HAS_NO_XATTRS:
            return [], {}
        raise
    if len(value) < 2:
        return [], {}
    end = _COUNT.size + _COUNT.unpack_from(value)[0] * _OWNER.size
    if len(value) < end or (len(value) - end) % _CHILD.size:
        return [], {}
    owners = list(_OWNER.iter_unpack(value[_COUNT.size : end]))
    return owners, {name: (guard, owner) for name, guard, owner in _CHILD.iter_unpack(value[end:])}


def _write_children(
    directory: int | str, owners: list[tuple[int, int]], children: dict[int, tuple[int, int]]
) -> None:
    """Owners that no child has any more are left out."""
    used = sorted({owner for _guard, owner in children.values() if owner < len(owners)})
    places = {old: new for new, old in enumerate(used)}
    parts = [_COUNT.pack(len(used)), *(_OWNER.pack(*owners[old]) for old in used)]
    parts += [
        _CHILD.pack(name, guard, places[owner])
        for name, (guard, owner) in children.items() if owner in places
    ]
    os.setxattr(directory, CHILDREN_XATTR, b"".join(parts))
