"""Sizes and times as docker spells them: ``13.3kB``, ``2 weeks ago``."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def human_size(size: float, digits: int = 3) -> str:
    """Decimal units and so many significant digits (docker: three in lists, four in ``system df``)."""
    value, unit = float(size), 0
    while unit < len(_UNITS) - 1 and float(f"{value:.{digits}g}") >= 1000:
        value, unit = value / 1000, unit + 1
    return f"{value:.{digits}g}{_UNITS[unit]}"


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; ``None`` where it says nothing."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.year <= 1:  # Go's zero time stands for "not known"
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def since(text: str, now: float) -> str:
    """``2 weeks ago`` for an RFC 3339 time; ``N/A`` where there is none."""
    moment = parse_time(text)
    return "N/A" if moment is None else f"{human_duration(now - moment)} ago"


def moment(text: str) -> str:
    """The time itself, as docker's ``.CreatedAt`` has it, in UTC."""
    seconds = parse_time(text)
    if seconds is None:
        return "N/A"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} +0000 UTC"


def minute_of(nanoseconds: int) -> str:
    """A file's time to the minute, in UTC; one that no calendar has stays a number of seconds."""
    try:
        return f"{datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, OSError, ValueError):
        return str(nanoseconds // 1_000_000_000)


def human_duration(seconds: float) -> str:
    """docker/go-units ``HumanDuration``, whose thresholds people's eyes know."""
    if seconds < 1:
        return "Less than a second"
    whole, minutes, hours = int(seconds), int(seconds / _MINUTE), int(seconds / _HOUR + 0.5)
    if whole < 2 * _MINUTE:
        return "1 second" if whole == 1 else f"{whole} seconds" if whole < _MINUTE else "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / _DAY / 365)} years"
