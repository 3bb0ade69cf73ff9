"""Frames of the attach socket: however the bytes come, the frames are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.runtime.frames import MAX_PAYLOAD, BrokenFrame, FrameReader, Kind, frame, read_resize, resize

FRAMES = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=60)), max_size=12)


@given(FRAMES, st.lists(st.integers(0, 600), max_size=20))
def test_any_split_of_the_bytes_gives_the_same_frames(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in frames)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    reader, found, start = FrameReader(), [], 0
    for end in ends:
        found += reader.feed(data[start:end])
        start = end
    assert found == frames


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    try:
        found = list(FrameReader().feed(data))
    except BrokenFrame:
        return
    rest = b"".join(frame(kind, payload) for kind, payload in found)
    assert data.startswith(rest)


def test_a_frame_that_is_too_long_is_refused_before_it_is_there() -> None:
    reader = FrameReader()
    head = bytes([Kind.INPUT]) + (MAX_PAYLOAD + 1).to_bytes(4, "big")
    with pytest.raises(BrokenFrame, match="longer than"):
        list(reader.feed(head))
    assert list(FrameReader().feed(frame(Kind.INPUT, bytes(MAX_PAYLOAD)))) == [(Kind.INPUT, bytes(MAX_PAYLOAD))]


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BrokenFrame, match="kind 99 are unknown"):
        list(FrameReader().feed(bytes([99, 0, 0, 0, 0])))


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_sizes(rows: int, columns: int) -> None:
    ((kind, payload),) = FrameReader().feed(resize(rows, columns))
    assert kind is Kind.RESIZE
    assert read_resize(payload) == (rows, columns)


@pytest.mark.parametrize("payload", [b"", b"abc", b"abcde"])
def test_sizes_that_cannot_be_read(payload: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_resize(payload)
