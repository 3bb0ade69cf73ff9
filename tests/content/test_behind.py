"""Writing behind: all bytes in order, and errors that reach the one who writes."""

from __future__ import annotations

import io
import threading

import pytest

from lamina.content.behind import WriteBehind


class Failing:
    def __init__(self, after: int) -> None:
        self.left = after

    def write(self, chunk: bytes | memoryview) -> None:
        self.left -= len(chunk)
        if self.left < 0:
            raise OSError(28, "No space left on device")


def test_everything_arrives_in_order() -> None:
    out = io.BytesIO()
    chunks = [bytes([number % 256]) * number for number in range(500)]
    with WriteBehind(out) as behind:
        for chunk in chunks:
            behind.write(chunk)
        behind.finish()
        assert out.getvalue() == b"".join(chunks)


def test_an_error_is_raised_to_who_writes() -> None:
    with pytest.raises(OSError, match="No space"), WriteBehind(Failing(100)) as behind:
        for _ in range(1000):
            behind.write(bytes(10))
    with pytest.raises(OSError, match="No space"), WriteBehind(Failing(5)) as behind:
        behind.write(bytes(10))
        behind.finish()


def test_giving_up_drops_what_waits_and_ends_the_thread() -> None:
    gate, entered, out = threading.Event(), threading.Event(), io.BytesIO()

    class Slow:
        def write(self, chunk: bytes | memoryview) -> None:
            entered.set()
            gate.wait()
            out.write(chunk)

    before = threading.active_count()
    with pytest.raises(KeyError), WriteBehind(Slow()) as behind:
        behind.write(b"1")
        behind.write(b"2")
        entered.wait()
        threading.Timer(0.05, gate.set).start()
        raise KeyError
    assert out.getvalue() == b"1"
    assert threading.active_count() <= before + 1
