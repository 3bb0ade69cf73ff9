"""How often, and how long apart, a registry is asked again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from lamina.events import Action, Event, Report, silent
from lamina.values import dataclass

# A registry that wants us gone for longer than this is reported, not waited for.
MAX_WAIT = 60.0
_FIRST_WAIT = 0.5
_LONGEST_BACKOFF = 20.0


def _by_chance() -> float:
    """From the system, without the 5 ms that importing ``random`` takes."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """``pause`` sleeps for seconds, ``chance`` gives a number in [0, 1); tests give their own.

    ``silence``: see :class:`lamina.http.message.Request`.
    """

    attempts: int = 5
    silence: float | None = None
    report: Report = silent
    pause: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = _by_chance

    def wait(self, attempt: int, subject: str, reason: object, retry_after: float | None = None) -> bool:
        """Sleeps before the next attempt; false, at once, when there should be none.

        ``attempt`` counts from 1 and is the one that failed. Backoff doubles and is jittered, so that
        clients that failed together do not come back together.
        """
        if attempt >= self.attempts or (retry_after is not None and retry_after > MAX_WAIT):
            return False
        if retry_after is None:
            seconds = min(_LONGEST_BACKOFF, _FIRST_WAIT * 2.0 ** (attempt - 1)) * (0.5 + self.chance())
        else:
            seconds = retry_after + self.chance()
        detail = f"in {seconds:.1f} s: {reason}"
        self.report(Event(action=Action.RETRYING, subject=subject, detail=detail))
        self.pause(seconds)
        return True
