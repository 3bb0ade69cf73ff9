"""Spans of time as Go writes them: ``24h``, ``10m``, ``1h30m``, ``500ms``."""

from __future__ import annotations

import re

from lamina.errors import InvalidInput

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?)([mnuµ]s|[dhms])")


def parse_duration(text: str) -> float:
    """Seconds. Days are ours: Go stops at hours."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"{text!r}: not a duration (expected something like 24h or 1h30m)")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
