"""logs: which lines, where they go, and following until the end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest
from tests.cli.fakes import Command, Result, value

from lamina.cli import logs
from lamina.errors import Unsupported
from lamina.runtime.container import ContainerState, Status
from lamina.runtime.logs import LogLine
from lamina.runtime.options import ContainerOptions


def line(second: int, text: str, stream: str = "stdout") -> LogLine:
    return LogLine(stream=stream, text=text, time=f"2024-07-03T09:46:{second:02}.500000000Z")


LINES = (line(10, "one\n"), line(20, "two\n", "stderr"), line(30, "three\n"), line(40, "four"))


class Log:
    """``later`` is what comes while somebody follows: one list for each time that is looked."""

    def __init__(self, lines: tuple[LogLine, ...] = LINES, later: tuple[list[LogLine], ...] = ()) -> None:
        self.lines = lines
        self.later = list(later)

    def read(self) -> Iterator[LogLine]:
        return iter(self.lines)

    def more(self) -> list[LogLine]:
        return self.later.pop(0) if self.later else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def seen(*, is_live: bool = False, has_terminal: bool = False) -> SimpleNamespace:
    state = ContainerState(status=Status.RUNNING if is_live else Status.EXITED)
    return value(container=value(options=ContainerOptions(has_terminal=has_terminal)), state=state)


def show(command: Command, *words: str, **answers: Any) -> Result:
    return command("logs", *words, "web", **{"container": seen(), "log": Log(), **answers})


def test_each_stream_goes_to_its_own(command: Command) -> None:
    result = show(command)
    assert (result.code, result.out, result.err) == (0, "one\nthree\nfour", "two\n")


def test_a_terminal_has_one_stream(command: Command) -> None:
    result = show(command, container=seen(has_terminal=True))
    assert (result.out, result.err) == ("one\ntwo\nthree\nfour", "")


def test_bytes_are_those_of_the_container(command: Command) -> None:
    assert show(command, log=Log((line(1, "\x1b[31mred\x1b[0m\r\n"),))).out == "\x1b[31mred\x1b[0m\r\n"


@pytest.mark.parametrize(("words", "out", "err"), [
    (["--tail", "2"], "three\nfour", ""),
    (["-n1"], "four", ""),
    (["--tail", "0"], "", ""),
    (["--tail", "all"], "one\nthree\nfour", "two\n"),
    (["--tail=-1"], "one\nthree\nfour", "two\n"),
    (["--tail", "99999999999999999999"], "one\nthree\nfour", "two\n"),
    (["--since", "2024-07-03T09:46:25Z"], "three\nfour", ""),
    (["--since", "10s"], "three\nfour", ""),
    (["--since", "1719999985"], "three\nfour", ""),
    (["--until", "2024-07-03T09:46:25Z"], "one\n", "two\n"),
    (["--since", "15s", "--until", "5s"], "three\n", ""),
    (["--since", "20s", "--tail", "1", "--until", "8s"], "three\n", ""),
    (["--since", "10000000h"], "one\nthree\nfour", "two\n"),
])
def test_which_lines(command: Command, words: list[str], out: str, err: str) -> None:
    """Now is 09:46:40."""
    result = show(command, *words)
    assert (result.code, result.out, result.err) == (0, out, err)


def test_timestamps(command: Command) -> None:
    assert show(command, "-t", "--tail", "1").out == "2024-07-03T09:46:40.500000000Z four"


@pytest.mark.parametrize(("words", "complaint"), [
    (["--tail", "some"], "--tail: expected a number or 'all', got 'some'"),
    (["--tail", "-5"], "--tail: expected a number"),
    (["--since", "yesterday"], "--since and --until: expected a time such as 2026-11-25T10:00:00Z or 10m, got 'yesterday'"),
    (["--until", "²"], "--since and --until: expected a time"),
    (["--until", "9" * 400], "--since and --until: expected a time"),
])
def test_words_that_cannot_be_read(command: Command, words: list[str], complaint: str) -> None:
    result = show(command, *words)
    assert (result.code, result.err.startswith(f"lamina: {complaint}")) == (125, True)


def test_nothing_kept_is_an_error(command: Command) -> None:
    result = show(command, log=Unsupported("web: made with --log-driver none, so nothing was kept"))
    assert (result.code, result.out) == (1, "")


def test_following_ends_with_the_container(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lines that were written just before the end was noted are shown."""
    monkeypatch.setattr(logs, "_PAUSE", 0.0)
    answers = iter([seen(is_live=True), seen(is_live=True), seen(is_live=True), seen()])
    log = Log((line(1, "a\n"),), ([line(2, "b\n")], [], [line(3, "c\n")], [], [], [line(4, "last\n")]))
    result = show(command, "-f", container=lambda _name: next(answers), log=log)
    assert (result.code, result.out) == (0, "a\nb\nc\nlast\n")


def test_following_shows_only_what_is_wanted(command: Command) -> None:
    log = Log((), ([line(50, "late\n"), line(59, "later\n")],))
    assert show(command, "-f", "--until", "2024-07-03T09:46:55Z", log=log).out == "late\n"
