"""Streams that say how far they are give the same bytes, and are silent about small ones."""

from __future__ import annotations

import io

from lamina.engine.watching import WATCHED, watched
from lamina.events import Action, Event


def test_a_large_stream_says_where_it_is() -> None:
    data = bytes(range(256)) * (WATCHED // 256) + b"end"
    said: list[Event] = []
    source = io.BytesIO(data)
    with watched(source, "subject", len(data), said.append) as stream:
        assert stream.read(1000) + stream.read() == data
    assert source.closed
    assert [event.action for event in said[:2]] == [Action.SEARCHING] * 2
    assert said[-1].action is Action.SEARCHED
    positions = [event.current or 0 for event in said]
    assert positions == sorted(positions)
    assert (positions[-1], said[-1].total) == (len(data), len(data))


def test_a_small_one_is_left_alone() -> None:
    said: list[Event] = []
    source = io.BytesIO(b"small")
    assert watched(source, "subject", 5, said.append) is source
    assert said == []
