"""Restart policies, as docker has them: no, always, unless-stopped, on-failure[:max]."""

from __future__ import annotations

from enum import StrEnum

from lamina.errors import InvalidInput
from lamina.values import dataclass

_LONG_ENOUGH = 10.0  # seconds: a run of this length was no failed start
_LONGEST_PAUSE = 60.0


class RestartKind(StrEnum):
    NO = "no"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"
    ON_FAILURE = "on-failure"


@dataclass(slots=True)
class RestartPolicy:
    """Keeps count of the pauses, which double. ``most`` is 0 for no limit."""

    kind: RestartKind = RestartKind.NO
    most: int = 0
    pause: float = 0.1

    def applies(self, code: int, restarts: int) -> bool:
        """Somebody's stopping it is another matter: then no policy is asked."""
        if self.kind is RestartKind.NO:
            return False
        if self.kind is RestartKind.ON_FAILURE:
            return code != 0 and (not self.most or restarts < self.most)
        return True

    def delay(self, ran: float) -> float:
        """Seconds until the next start, after a run of ``ran`` seconds."""
        if ran >= _LONG_ENOUGH:
            self.pause = 0.1
        now = self.pause
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)
        return now


def parse_restart(text: str) -> RestartPolicy:
    name, colon, number = (text or "no").partition(":")
    try:
        kind = RestartKind(name)
    except ValueError:
        raise InvalidInput(
            f"--restart: expected no, always, unless-stopped or on-failure[:N], got {text!r}"
        ) from None
    if not colon:
        return RestartPolicy(kind)
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    if kind is not RestartKind.ON_FAILURE or not is_number:
        raise InvalidInput(f"--restart: only on-failure takes a whole number of attempts, got {text!r}")
    return RestartPolicy(kind, most=int(number))
