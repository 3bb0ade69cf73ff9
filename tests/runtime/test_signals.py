"""Signals by name or number, and only to the process that was meant."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from lamina.content.lease import process_start
from lamina.errors import InvalidInput
from lamina.runtime.signals import parse_signal, send, signal_name, wait_for_end


@pytest.mark.parametrize(("text", "number"), [
    ("KILL", 9), ("SIGKILL", 9), ("kill", 9), ("sigterm", 15), ("9", 9), ("64", 64), (" HUP ", 1), ("0009", 9),
    ("RTMIN", signal.SIGRTMIN), ("RTMIN+3", signal.SIGRTMIN + 3), ("SIGRTMIN+0", signal.SIGRTMIN),
    ("RTMAX", signal.SIGRTMAX), ("RTMAX-1", signal.SIGRTMAX - 1),
])
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", [
    "", "0", "65", "-1", "SIG", "NOSUCH", "SIG_DFL", "RTMIN+", "RTMIN+x", "RTMIN-1", "RTMAX+1", "RTMIN+99", "TERM+1",
    "SIGSIGTERM", "00099999", "9" * 5000, "٣", "DFL", "BLOCK",
])
def test_signals_that_there_are_not(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^signal "):
        parse_signal(text)


def test_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 3) == str(signal.SIGRTMIN + 3)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as child:
        yield child
        child.kill()


def test_a_signal_arrives(process: subprocess.Popen[bytes]) -> None:
    assert send(process.pid, process_start(process.pid) or 0, signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_another_process_with_the_number_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    started = process_start(process.pid) or 0
    assert not send(process.pid, started - 1, signal.SIGKILL)
    assert wait_for_end(process.pid, started - 1, None)
    assert process.poll() is None


def test_one_that_is_gone_gets_none(process: subprocess.Popen[bytes]) -> None:
    started = process_start(process.pid) or 0
    process.kill()
    process.wait()
    assert not send(process.pid, started, signal.SIGTERM)
    assert wait_for_end(process.pid, started, None)


def test_waiting_ends_with_the_process_or_in_time(process: subprocess.Popen[bytes]) -> None:
    started = process_start(process.pid) or 0
    before = time.monotonic()
    assert not wait_for_end(process.pid, started, 0.05)
    assert not wait_for_end(process.pid, started, -1.0)
    assert time.monotonic() - before < 5.0
    process.kill()
    assert wait_for_end(process.pid, started, 5.0)


@pytest.mark.parametrize("pid", [0, -1])
def test_no_process_gets_none(pid: int) -> None:
    """As a state has it between two runs; pidfd_open(2) has an error of its own for these."""
    assert not send(pid, 0, signal.SIGKILL)
    assert wait_for_end(pid, 0, None)
