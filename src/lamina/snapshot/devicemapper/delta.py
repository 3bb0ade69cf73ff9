"""Which inodes of a thin device are not as on another that it was made from.

A thin pool knows which of its blocks two devices do not share, and ``thin_delta`` reads that. A filesystem
writes an inode anew whenever its file changes, so where those blocks hold inodes, the inodes are compared,
each with itself. Both devices are at rest.
"""

from __future__ import annotations

import mmap
import os
import re
import subprocess
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from lamina.errors import IntegrityError
from lamina.snapshot.devicemapper.inodetables import Inodes, read_inodes
from lamina.snapshot.devicemapper.pool import SECTOR

# A block of a pool is a multiple of this.
_CHUNK = 64 << 10
_SECONDS = 60
_LINE = re.compile(r"\s*<(same|different|left_only|right_only) begin=\"(\d+)\" length=\"(\d+)\"/>")
_HEAD = re.compile(r"<superblock .*\bdata_block_size=\"(\d+)\"")
_AROUND = re.compile(r"\s*</?(superblock|diff)[ >].*")


class DeltaUnknown(IntegrityError):
    """What thin_delta wrote is not what we know."""


def changed_blocks(metadata: Path, lower: int, upper: int) -> list[tuple[int, int]]:
    """Begin and end of each part, in bytes, in order; of two devices in a pool whose metadata is reserved.

    Raises ``OSError`` or ``subprocess.SubprocessError`` where the program is missing, or fails.
    """
    done = subprocess.run(
        ["thin_delta", "--metadata-snap", "--snap1", str(lower), "--snap2", str(upper), metadata],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_SECONDS,
        env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )
    return read_delta(done.stdout)


def read_delta(text: str) -> list[tuple[int, int]]:
    """What thin_delta(8) writes. Raises :class:`DeltaUnknown`."""
    head = _HEAD.match(text)
    if head is None or not text.rstrip().endswith("</superblock>"):
        raise DeltaUnknown("thin_delta: its output is not a whole superblock")
    block = int(head[1]) * SECTOR
    parts = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            if line.strip() and not _AROUND.fullmatch(line):
                raise DeltaUnknown(f"thin_delta: an unknown line: {line.strip()[:80]!r}")
        elif found[1] != "same":
            begin = int(found[2]) * block
            parts.append((begin, begin + int(found[3]) * block))
    return sorted(parts)


class Delta:
    """Of two devices that are active; ``parts`` of them are not shared. Close it after use."""

    def __init__(self, lower: Path, upper: Path, parts: Iterable[tuple[int, int]]) -> None:
        """Raises ``InodesUnknown`` for a filesystem whose inodes we do not find."""
        self._parts = list(parts)
        self._begins = [begin for begin, _end in self._parts]
        # By chunk: where in it inodes differ.
        self._differing: dict[int, frozenset[int]] = {}
        with ExitStack() as stack:
            self._lower, self._upper = (_Device(node) for node in (lower, upper))
            for device in (self._lower, self._upper):
                stack.callback(device.close)
            self._inodes: Inodes = read_inodes(self._upper.read)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def is_changed(self, inode: int) -> bool:
        place = self._inodes.place(inode)
        if not self._is_shared_no_more(place):
            return False
        chunk = place // _CHUNK
        if chunk not in self._differing:
            self._differing[chunk] = self._compared(chunk)
        return place % _CHUNK in self._differing[chunk]

    def _is_shared_no_more(self, place: int) -> bool:
        number = bisect_right(self._begins, place) - 1
        return number >= 0 and place < self._parts[number][1]

    def _compared(self, chunk: int) -> frozenset[int]:
        size = self._inodes.size
        old, new = (device.read(chunk * _CHUNK, _CHUNK) for device in (self._lower, self._upper))
        parts = ((at, new[at : at + size], old[at : at + size]) for at in range(0, len(new), size))
        return frozenset(
            at for at, one, other in parts if one != other and self._steady(one) != self._steady(other)
        )

    def _steady(self, inode: bytes) -> bytes:
        """Without the time of the last access, and what changes with that."""
        found = bytearray(inode)
        for part in self._inodes.unsteady:
            found[part] = bytes(len(found[part]))
        return bytes(found)


class _Device:
    """Read past the kernel's cache, which is not the one that a mounted filesystem writes through."""

    def __init__(self, node: Path) -> None:
        self._descriptor = os.open(node, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._buffer = mmap.mmap(-1, _CHUNK)

    def read(self, place: int, size: int) -> bytes:
        """Less where the device ends."""
        parts = []
        while size > 0:
            begin = place % _CHUNK
            count = os.preadv(self._descriptor, [self._buffer], place - begin)
            found = self._buffer[begin : min(count, begin + size)]
            if not found:
                break
            parts.append(found)
            place, size = place + len(found), size - len(found)
        return b"".join(parts)

    def close(self) -> None:
        self._buffer.close()
        os.close(self._descriptor)
