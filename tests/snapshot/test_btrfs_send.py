"""Send streams, as bytes: what they say was touched, and what is none."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.snapshot.btrfs.send import Command, Delta, SendStreamInvalid, read_delta
from lamina.snapshot.touched import Touched

HEAD = b"btrfs-stream\0" + struct.pack("<I", 1)
PATH, TO, LINK, SIZE, XATTR = 15, 16, 17, 4, 14


def command(number: int, **values: bytes) -> bytes:
    kinds = {"path": PATH, "to": TO, "link": LINK, "size": SIZE, "xattr": XATTR}
    body = b"".join(struct.pack("<HH", kinds[name], len(value)) + value for name, value in values.items())
    return struct.pack("<IHI", len(body), number, 0) + body


END = command(Command.END)
STREAM = HEAD + b"".join((
    command(Command.SNAPSHOT, path=b"name of the snapshot"),
    command(Command.MAKE_FILE, path=b"o257-8-0"),
    command(Command.RENAME, path=b"o257-8-0", to=b"d/new"),
    command(Command.UPDATE_EXTENT, path=b"d/new", size=struct.pack("<Q", 5000)),
    command(Command.LINK, path=b"again", link=b"d/old"),
    command(Command.SYMLINK, path=b"sym", link=b"target"),
    command(13, path=b"\xff", xattr=b"value"),
    command(20, path=b""),
)) + END


class Dripping(io.BytesIO):
    """A pipe that gives a byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1 if size else 0)


@pytest.mark.parametrize("kind", [io.BytesIO, Dripping])
def test_what_was_touched(kind: type[io.BytesIO]) -> None:
    touched = Touched(paths=("", "again", "d/new", "d/old", "o257-8-0", "sym", "\udcff"), trees=("d/new", "o257-8-0"))
    assert read_delta(kind(STREAM)) == Delta(touched, 5000, 2)


@given(st.integers(0, len(STREAM) - 1))
def test_a_stream_that_ends_early(size: int) -> None:
    with pytest.raises(SendStreamInvalid):
        read_delta(io.BytesIO(STREAM[:size]))


@pytest.mark.parametrize("stream", [
    b"another magic" + STREAM[13:],
    STREAM[:13] + struct.pack("<I", 2) + STREAM[17:],
    HEAD + struct.pack("<IHI", 1 << 30, 3, 0),
    HEAD + struct.pack("<IHI", 3, 3, 0) + b"abc" + END,
    HEAD + struct.pack("<IHI", 6, 3, 0) + struct.pack("<HH", PATH, 3) + b"ab" + END,
    HEAD + command(Command.MAKE_FILE, path=b"d/" * 300 + b"f") + END,
])
def test_what_is_none(stream: bytes) -> None:
    with pytest.raises(SendStreamInvalid):
        read_delta(io.BytesIO(stream))
