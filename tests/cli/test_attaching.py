"""Between a person and a container: keys, signals, and bytes in both directions."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli import attaching
from lamina.cli.arguments import UsageError
from lamina.cli.attaching import (
    DEFAULT_KEYS,
    Detached,
    DetachKeys,
    proxied_signals,
    read_detach_keys,
    relay_attached,
    relay_terminal,
    write_all,
)
from lamina.runtime.frames import FrameReader, Kind, frame

KEYS = read_detach_keys(DEFAULT_KEYS)


@pytest.mark.parametrize(("text", "keys"), [
    ("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-a", b"\x01"), ("ctrl-A", b"\x01"), ("ctrl-@", b"\x00"), ("ctrl-[", b"\x1b"),
    ("ctrl-_", b"\x1f"), ("a,b", b"ab"), ("~,.", b"~."),
])
def test_keys(text: str, keys: bytes) -> None:
    assert read_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "ctrl-pq", "shift-p", "ab", "é", "ctrl-p,", "ctrl-é"])
def test_keys_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--detach-keys"):
        read_detach_keys(text)


def typed(keys: bytes, chunks: list[bytes]) -> tuple[bytes, bool]:
    """What went on, and whether the keys were pressed."""
    detach, passed = DetachKeys(keys), b""
    try:
        for chunk in chunks:
            passed += detach.feed(chunk)
    except Detached:
        return passed, True
    return passed, False


TYPED = st.lists(st.sampled_from([0x10, 0x11, 0x61]), max_size=12).map(bytes)


@given(TYPED, st.lists(st.integers(0, 12), max_size=5))
def test_keys_are_found_however_the_bytes_come(data: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    passed, is_pressed = typed(KEYS, chunks)
    place = data.find(KEYS)
    assert is_pressed is (place >= 0)
    if not is_pressed:
        held = KEYS[:1] if data.endswith(KEYS[:1]) else b""
        assert passed + held == data
    else:
        assert data.startswith(passed)


def test_keys_that_only_began_like_them_go_on() -> None:
    assert typed(KEYS, [b"\x10", b"x"]) == (b"\x10x", False)
    assert typed(KEYS, [b"\x10\x10", b"\x11"])[1]
    assert typed(b"", [b"\x10\x11"]) == (b"\x10\x11", False)


# -- streams


class Pipes:
    """This process' own three descriptors, replaced for one test; ``feed`` is what somebody types."""

    def __init__(self) -> None:
        self.saved = [os.dup(number) for number in range(3)]
        theirs, self.feed = os.pipe()
        self.outputs = {}
        os.dup2(theirs, 0)
        os.close(theirs)
        for number in (1, 2):
            heard, tell = os.pipe()
            os.dup2(tell, number)
            os.close(tell)
            self.outputs[number] = heard

    def restore(self) -> None:
        for number, saved in enumerate(self.saved):
            os.dup2(saved, number)
            os.close(saved)

    def read(self, number: int) -> bytes:
        """What was written until now."""
        os.set_blocking(self.outputs[number], False)
        try:
            return os.read(self.outputs[number], 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for descriptor in self.outputs.values():
            os.close(descriptor)
        if self.feed >= 0:
            os.close(self.feed)


@contextmanager
def own_streams() -> Iterator[Pipes]:
    """Not a fixture: pytest takes the descriptors back between a fixture and its test."""
    pipes = Pipes()
    try:
        yield pipes
    finally:
        pipes.restore()
        pipes.close()


def ended(code: int, error: str = "") -> bytes:
    return frame(Kind.EXIT, json.dumps({"code": code, "error": error}).encode())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_output_goes_where_it_belongs(ends: tuple[socket.socket, socket.socket]) -> None:
    with own_streams() as pipes:
        ours, theirs = ends
        theirs.sendall(frame(Kind.OUTPUT, b"out\x1b[0m\n") + frame(Kind.ERROR_OUTPUT, b"err\n") + ended(5, "why"))
        assert relay_attached(ours, sends_input=False, is_terminal=False, keys=b"") == (5, "why")
        assert (pipes.read(1), pipes.read(2)) == (b"out\x1b[0m\n", b"err\n")


def test_only_what_was_asked_for_is_shown(ends: tuple[socket.socket, socket.socket]) -> None:
    with own_streams() as pipes:
        ours, theirs = ends
        theirs.sendall(frame(Kind.OUTPUT, b"out\n") + frame(Kind.ERROR_OUTPUT, b"err\n") + ended(0))
        relay_attached(ours, sends_input=False, is_terminal=False, keys=b"", shows=("stderr",))
        assert (pipes.read(1), pipes.read(2)) == (b"", b"err\n")


def test_input_goes_to_the_container_and_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    with own_streams() as pipes:
        ours, theirs = ends
        os.write(pipes.feed, b"typed\n")
        os.close(pipes.feed)
        pipes.feed = -1
        frames: list[tuple[Kind, bytes]] = []

        def container() -> None:
            reader = FrameReader()
            while (Kind.INPUT_END, b"") not in frames:
                frames.extend(reader.feed(theirs.recv(1 << 16)))
            theirs.sendall(ended(0))

        thread = threading.Thread(target=container)
        thread.start()
        assert relay_attached(ours, sends_input=True, is_terminal=False, keys=KEYS) == (0, "")
        thread.join()
        assert frames == [(Kind.INPUT, b"typed\n"), (Kind.INPUT_END, b"")]


def test_detach_keys_are_for_terminals(ends: tuple[socket.socket, socket.socket]) -> None:
    with own_streams() as pipes:
        ours, theirs = ends
        os.write(pipes.feed, b"a" + KEYS)
        with pytest.raises(Detached):
            relay_attached(ours, sends_input=True, is_terminal=True, keys=KEYS)
        os.write(pipes.feed, KEYS)
        os.close(pipes.feed)
        pipes.feed = -1
        theirs.setblocking(False)
        threading.Timer(0.2, theirs.sendall, [ended(0)]).start()
        assert relay_attached(ours, sends_input=True, is_terminal=False, keys=KEYS) == (0, "")
        payloads = [payload for kind, payload in FrameReader().feed(theirs.recv(1 << 16)) if kind is Kind.INPUT]
        assert KEYS in payloads


def test_a_monitor_that_dies_leaves_no_exit_code(ends: tuple[socket.socket, socket.socket]) -> None:
    with own_streams() as pipes:
        ours, theirs = ends
        theirs.sendall(frame(Kind.OUTPUT, b"last\n"))
        theirs.close()
        assert relay_attached(ours, sends_input=False, is_terminal=False, keys=b"") is None
        assert pipes.read(1) == b"last\n"


def test_a_terminal_that_nobody_has_open_any_more_is_over() -> None:
    with own_streams() as pipes:
        master, slave = pty.openpty()
        os.write(slave, b"bye")
        os.close(slave)
        relay_terminal(master, lambda: True, sends_input=False, keys=KEYS)
        os.close(master)
        assert pipes.read(1) == b"bye"


def test_the_size_is_told_at_once(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_streams():
        monkeypatch.setattr(attaching, "terminal_size", lambda: (24, 80))
        ours, theirs = ends
        theirs.sendall(ended(0))
        relay_attached(ours, sends_input=False, is_terminal=True, keys=KEYS)
        assert list(FrameReader().feed(theirs.recv(100))) == [(Kind.RESIZE, struct.pack("!HH", 24, 80))]


def test_a_reader_that_went_is_no_failure() -> None:
    heard, tell = os.pipe()
    os.close(heard)
    write_all(tell, b"x")
    os.close(tell)


def test_a_full_pipe_is_waited_for() -> None:
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    data = bytes(1 << 20)
    found = bytearray()

    def read() -> None:
        while len(found) < len(data):
            found.extend(os.read(heard, 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    write_all(tell, data)
    reader.join()
    os.close(heard)
    os.close(tell)
    assert bytes(found) == data


def test_signals_are_passed_on_and_handlers_restored() -> None:
    before, got = signal.getsignal(signal.SIGUSR1), []
    with proxied_signals(got.append):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)
    assert got == [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    assert signal.getsignal(signal.SIGUSR1) is before
