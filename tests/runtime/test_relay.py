"""The relay over real pipes and sockets: nothing is lost, nothing is heaped up, and nobody's end stops the others."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lamina.runtime.frames import FrameReader, Kind, frame, resize
from lamina.runtime.logs import LogPolicy, LogWriter, read_log
from lamina.runtime.relay import Client, Relay

PATIENCE = 20.0


@dataclass
class Bench:
    """A relay whose container is this test: ``ours`` are the container's ends."""

    relay: Relay
    log: Path
    address: Path
    ours: dict[str, int] = field(default_factory=dict)
    sockets: list[socket.socket] = field(default_factory=list)

    def connect(self, *, has_terminal: bool = False) -> None:
        if has_terminal:
            master, slave = pty.openpty()
            self.ours = {"terminal": slave}
            self.relay.connect({master: "stdout"}, master, master)
            return
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = os.pipe(), os.pipe(), os.pipe()
        self.ours = {"stdin": theirs_in, "stdout": theirs_out, "stderr": theirs_err}
        self.relay.connect({ours_out: "stdout", ours_err: "stderr"}, ours_in, -1)

    def first(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.relay.clients.append(Client(theirs, is_first=True))
        self.sockets.append(ours)
        return ours

    def attach(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.address))
        self.sockets.append(connection)
        before = len(self.relay.clients)
        self.until(lambda: len(self.relay.clients) > before)
        return connection

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.relay.wait(0.05, {})

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.relay.wait(0.0, {})

    def close(self, *names: str) -> None:
        for name in names:
            os.close(self.ours.pop(name))

    def drain(self) -> None:
        self.until(lambda: self.relay.is_drained)


@pytest.fixture(params=[True])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from made(tmp_path, keeps_input=request.param)


def made(tmp_path: Path, *, keeps_input: bool) -> Iterator[Bench]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "attach"))
        listener.listen(16)
        writer = LogWriter(tmp_path / "log", LogPolicy())
        bench = Bench(Relay(writer, listener, keeps_input=keeps_input), tmp_path / "log", tmp_path / "attach")
        yield bench
        for connection in bench.sockets:
            connection.close()
        for descriptor in bench.ours.values():
            os.close(descriptor)
        bench.relay.finish(b"")
        bench.relay.close_streams()
        writer.end()


def received(connection: socket.socket) -> list[tuple[Kind, bytes]]:
    """Until the other side closes."""
    connection.settimeout(PATIENCE)
    reader, found = FrameReader(), []
    while data := connection.recv(1 << 16):
        found += reader.feed(data)
    return found


def joined(frames: list[tuple[Kind, bytes]], kind: Kind) -> bytes:
    return b"".join(payload for each, payload in frames if each is kind)


class Reader(threading.Thread):
    """Somebody who takes everything, as fast as ``pause`` lets it."""

    def __init__(self, connection: socket.socket, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.connection, self.pause, self.frames = connection, pause, list[tuple[Kind, bytes]]()
        self.start()

    def run(self) -> None:
        reader = FrameReader()
        while data := self.connection.recv(1 << 16):
            self.frames += reader.feed(data)
            time.sleep(self.pause)

    def result(self) -> list[tuple[Kind, bytes]]:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.frames


# -- output


def test_output_goes_to_the_log_and_to_everybody(bench: Bench) -> None:
    bench.connect()
    first, second = bench.first(), bench.attach()
    os.write(bench.ours["stdout"], b"out\n")
    os.write(bench.ours["stderr"], b"err\n")
    bench.close("stdout", "stderr")
    bench.drain()
    bench.relay.finish(frame(Kind.EXIT, json.dumps({"code": 3}).encode()))
    for connection in (first, second):
        frames = received(connection)
        assert joined(frames, Kind.OUTPUT) == b"out\n"
        assert joined(frames, Kind.ERROR_OUTPUT) == b"err\n"
        assert frames[-1] == (Kind.EXIT, b'{"code": 3}')
    assert {(line.stream, line.text) for line in read_log(bench.log)} == {("stdout", "out\n"), ("stderr", "err\n")}


def test_without_anybody_the_log_has_it_all(bench: Bench) -> None:
    bench.connect()
    os.write(bench.ours["stdout"], b"alone\n")
    bench.close("stdout", "stderr")
    bench.drain()
    assert [line.text for line in read_log(bench.log)] == ["alone\n"]


def test_who_attaches_late_gets_what_comes_then(bench: Bench) -> None:
    bench.connect()
    os.write(bench.ours["stdout"], b"early\n")
    bench.until(lambda: list(read_log(bench.log)))
    late = bench.attach()
    os.write(bench.ours["stdout"], b"late\n")
    bench.close("stdout", "stderr")
    bench.drain()
    bench.relay.finish(b"")
    assert joined(received(late), Kind.OUTPUT) == b"late\n"


def test_a_slow_reader_loses_nothing(bench: Bench) -> None:
    bench.connect()
    slow, fast = Reader(bench.first(), pause=0.002), Reader(bench.attach())
    data = b"".join(b"%07d\n" % number for number in range(200_000))

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(bench.ours["stdout"], view[: 1 << 16]) :]
        bench.close("stdout", "stderr")

    writer = threading.Thread(target=write)
    writer.start()
    bench.drain()
    writer.join()
    bench.relay.finish(b"")
    assert joined(slow.result(), Kind.OUTPUT) == data
    assert joined(fast.result(), Kind.OUTPUT) == data


def test_a_reader_that_stops_stops_the_container(bench: Bench) -> None:
    """Backpressure: the container's writing blocks, and what waits in here has a limit."""
    bench.connect()
    bench.first()
    os.set_blocking(bench.ours["stdout"], False)
    written, quiet = 0, 0
    while quiet < 20:
        try:
            written += os.write(bench.ours["stdout"], bytes(1 << 16))
            quiet = 0
        except BlockingIOError:
            quiet += 1
        bench.rounds(2)
        assert written < 8 << 20
    assert written > 256 << 10


def test_a_reader_that_goes_is_no_loss_for_the_others(bench: Bench) -> None:
    bench.connect()
    going, staying = bench.attach(), Reader(bench.attach())
    going.close()
    for number in range(100):
        os.write(bench.ours["stdout"], b"%d\n" % number)
        bench.rounds(1)
    bench.close("stdout", "stderr")
    bench.drain()
    bench.relay.finish(b"")
    assert joined(staying.result(), Kind.OUTPUT) == b"".join(b"%d\n" % number for number in range(100))


@pytest.mark.parametrize("garbage", [b"\xff" * 64, bytes([Kind.INPUT]) + b"\xff\xff\xff\xff", bytes([99, 0, 0, 0, 0])])
def test_who_speaks_nonsense_is_left(bench: Bench, garbage: bytes) -> None:
    bench.connect()
    stranger = bench.attach()
    stranger.sendall(garbage)
    bench.until(lambda: not bench.relay.clients)
    assert received(stranger) == []


# -- input


def read_input(bench: Bench, count: int) -> bytes:
    found = b""
    os.set_blocking(bench.ours["stdin"], False)

    def is_enough() -> bool:
        nonlocal found
        try:
            found += os.read(bench.ours["stdin"], 1 << 16)
        except BlockingIOError:
            return False
        return len(found) >= count

    bench.until(is_enough)
    return found


def test_input_arrives_in_order_and_ends(bench: Bench) -> None:
    bench.connect()
    first = bench.first()
    first.sendall(frame(Kind.INPUT, b"one ") + frame(Kind.INPUT, b"two") + frame(Kind.INPUT_END))
    assert read_input(bench, 7) == b"one two"
    bench.rounds(3)
    assert os.read(bench.ours["stdin"], 1) == b"", "its end is the input's end"


def test_input_that_nobody_reads_yet_is_not_lost(bench: Bench) -> None:
    bench.connect()
    data = bytes(range(256)) * 4096
    first = bench.first()

    def send() -> None:
        for start in range(0, len(data), 1 << 15):
            first.sendall(frame(Kind.INPUT, data[start : start + (1 << 15)]))
        first.sendall(frame(Kind.INPUT_END))

    sender = threading.Thread(target=send)
    sender.start()
    bench.rounds(50)
    assert read_input(bench, len(data)) == data
    sender.join()


def test_input_that_nobody_reads_is_not_heaped_up(bench: Bench) -> None:
    bench.connect()
    first = bench.first()
    first.setblocking(False)
    message, sent, quiet = frame(Kind.INPUT, bytes(1 << 15)), 0, 0
    while quiet < 20:
        try:
            sent += first.send(message)
            quiet = 0
        except BlockingIOError:
            quiet += 1
        bench.rounds(2)
        assert sent < 8 << 20


def test_the_first_ones_going_ends_the_input(bench: Bench) -> None:
    bench.connect()
    bench.first().close()
    bench.until(lambda: not bench.relay.clients)
    assert os.read(bench.ours["stdin"], 1) == b""


def test_others_going_ends_nothing(bench: Bench) -> None:
    bench.connect()
    first = bench.first()
    other = bench.attach()
    other.sendall(frame(Kind.INPUT, b"b") + frame(Kind.INPUT_END))
    other.close()
    bench.until(lambda: len(bench.relay.clients) == 1)
    first.sendall(frame(Kind.INPUT, b"a"))
    assert read_input(bench, 2) == b"ba"


def test_a_container_that_closed_its_input_goes_on(bench: Bench) -> None:
    bench.connect()
    first = bench.first()
    bench.close("stdin")
    first.sendall(frame(Kind.INPUT, b"x" * 1000))
    bench.rounds(5)
    os.write(bench.ours["stdout"], b"still here\n")
    bench.close("stdout", "stderr")
    bench.drain()
    bench.relay.finish(b"")
    assert joined(received(first), Kind.OUTPUT) == b"still here\n"


@pytest.mark.parametrize("bench", [False], indirect=True)
def test_without_interactive_there_is_no_input(bench: Bench) -> None:
    bench.connect()
    assert os.read(bench.ours["stdin"], 1) == b""
    first = bench.first()
    first.sendall(frame(Kind.INPUT, b"x"))
    bench.rounds(5)
    assert bench.relay.clients


# -- terminals


def size(descriptor: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


def test_a_terminal_is_input_output_and_a_size(bench: Bench) -> None:
    bench.connect(has_terminal=True)
    first = bench.first()
    first.sendall(resize(33, 77))
    bench.until(lambda: size(bench.ours["terminal"]) == (33, 77))
    first.sendall(frame(Kind.INPUT, b"typed\n"))
    bench.until(lambda: os.get_blocking(bench.ours["terminal"]) and "typed" in "".join(line.text for line in read_log(bench.log)))
    assert os.read(bench.ours["terminal"], 100) == b"typed\n"
    bench.close("terminal")
    bench.drain()


def test_a_terminal_outlives_who_sits_at_it(bench: Bench) -> None:
    bench.connect(has_terminal=True)
    first = bench.first()
    first.sendall(frame(Kind.INPUT_END))
    bench.rounds(3)
    first.close()
    bench.until(lambda: not bench.relay.clients)
    assert not bench.relay.is_drained
    os.write(bench.ours["terminal"], b"on\n")
    bench.until(lambda: list(read_log(bench.log)))


def test_the_size_is_kept_for_the_next_run(bench: Bench) -> None:
    bench.connect(has_terminal=True)
    bench.first().sendall(resize(10, 20))
    bench.until(lambda: size(bench.ours["terminal"]) == (10, 20))
    bench.close("terminal")
    bench.drain()
    bench.relay.close_streams()
    bench.connect(has_terminal=True)
    assert size(bench.ours["terminal"]) == (10, 20)


# -- the loop


def test_others_are_told_what_became_readable(bench: Bench) -> None:
    bench.connect()
    heard, tell = os.pipe()
    told = []
    os.write(tell, b"x")
    bench.relay.wait(PATIENCE, {heard: lambda: told.append(os.read(heard, 1))})
    os.close(heard)
    os.close(tell)
    assert told == [b"x"]


def test_a_round_without_news_takes_its_time_and_no_more(bench: Bench) -> None:
    bench.connect()
    before = time.monotonic()
    bench.relay.wait(0.05, {})
    assert 0.04 < time.monotonic() - before < 5.0
