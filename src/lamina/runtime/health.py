"""Health checks: a command that is run in the container every so often, and what its answers add up to.

Docker's rules: ``starting`` until the first success; a failure within the start period counts for nothing;
``unhealthy`` after as many failures in a row as ``Retries`` says; one success makes it ``healthy``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from lamina.values import dataclass, replace

_SECOND = 1_000_000_000
_KEPT_RESULTS = 5
MAX_OUTPUT = 4096


class Health(StrEnum):
    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Durations are seconds."""

    argv: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    start_interval: float = 5.0
    retries: int = 3

    @classmethod
    def from_config(cls, document: Mapping[str, Any] | None, shell: Sequence[str]) -> HealthCheck | None:
        """From the image's ``Healthcheck``, whose durations are nanoseconds; ``None`` if none is to run."""
        test = (document or {}).get("Test")
        if document is None or not isinstance(test, list) or not all(isinstance(each, str) for each in test):
            return None  # an image may hold anything
        if len(test) < 2 or test[0] == "NONE":
            return None
        retries = document.get("Retries")
        argv = (*shell, test[1]) if test[0] == "CMD-SHELL" else tuple(test[1:])

        def seconds(name: str, default: float) -> float:
            value = document.get(name) or 0
            return value / _SECOND if isinstance(value, int) and value > 0 else default

        return cls(
            argv=argv, interval=seconds("Interval", 30.0), timeout=seconds("Timeout", 30.0),
            start_period=seconds("StartPeriod", 0.0), start_interval=seconds("StartInterval", 5.0),
            retries=retries if isinstance(retries, int) and retries > 0 else 3,
        )

    def delay(self, elapsed: float, record: HealthRecord) -> float:
        """Seconds until the next probe, ``elapsed`` seconds after the start."""
        is_starting = record.status is Health.STARTING and elapsed < self.start_period
        return min(self.start_interval, self.interval) if is_starting else self.interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Times are seconds since the epoch."""

    start: float
    end: float
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecord:
    status: Health = Health.STARTING
    failing_streak: int = 0
    probes: tuple[Probe, ...] = ()

    def after(self, probe: Probe, check: HealthCheck, started: float) -> HealthRecord:
        probes = (*self.probes, probe)[-_KEPT_RESULTS:]
        if probe.exit_code == 0:
            return HealthRecord(status=Health.HEALTHY, probes=probes)
        is_forgiven = self.status is Health.STARTING and probe.start - started < check.start_period
        if is_forgiven:
            return replace(self, probes=probes)
        streak = self.failing_streak + 1
        status = Health.UNHEALTHY if streak >= check.retries else self.status
        return HealthRecord(status=status, failing_streak=streak, probes=probes)

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value, "failing_streak": self.failing_streak,
            "probes": [
                {"start": each.start, "end": each.end, "exit_code": each.exit_code, "output": each.output}
                for each in self.probes
            ],
        }
