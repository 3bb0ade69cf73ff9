"""Signals by name or number, and sending them to processes that are still who they were."""

from __future__ import annotations

import os
import signal

from lamina.content.lease import process_start
from lamina.errors import InvalidInput

_MOST = 64


def parse_signal(text: str) -> int:
    """``KILL``, ``SIGKILL``, ``9``, ``RTMIN+3``. Raises ``InvalidInput``."""
    spelled = text.strip().upper()
    if spelled.isascii() and spelled.isdigit():
        number = int(spelled) if len(spelled) < 5 else 0
        if 1 <= number <= _MOST:
            return number
        raise InvalidInput(f"signal {text}: expected a number from 1 to {_MOST}")
    name = spelled.removeprefix("SIG")
    base, plus, offset = name.partition("+") if "+" in name else name.partition("-")
    if base in ("RTMIN", "RTMAX") and offset.isdigit():
        number = int(getattr(signal, f"SIG{base}")) + (int(offset[:3]) if plus == "+" else -int(offset[:3]))
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if isinstance(found, signal.Signals):
        return int(found)
    raise InvalidInput(f"signal {text!r}: unknown; give a name such as SIGTERM, or a number")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def send(pid: int, started: int, number: int) -> bool:
    """False if the process is gone. Never reaches another one that has its number now (pidfd_open(2))."""
    if pid <= 0:  # a state's word for none
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # Looked at after the descriptor was taken: if it is the same process now, it is so for good.
        if process_start(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_for_end(pid: int, started: int, seconds: float | None) -> bool:
    """Whether the process ended in time; ``None`` waits for ever. It need not be a child."""
    import select  # noqa: PLC0415 - only who waits

    if pid <= 0:
        return True
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if process_start(pid) != started:
            return True
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(None if seconds is None else max(0.0, seconds) * 1000))
    finally:
        os.close(descriptor)
