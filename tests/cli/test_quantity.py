"""Sizes and times as docker spells them."""

from __future__ import annotations

import pytest

from lamina.cli.quantity import human_duration, human_size, minute_of, moment, parse_time, since

DAY = 86400


@pytest.mark.parametrize(("size", "digits", "expected"), [
    (0, 3, "0B"), (1, 3, "1B"), (999, 3, "999B"), (1000, 3, "1kB"), (13256, 3, "13.3kB"),
    (13256, 4, "13.26kB"), (133_000_000, 3, "133MB"), (4_430_000, 3, "4.43MB"), (1_234_567_890, 4, "1.235GB"),
    (999_499, 3, "999kB"), (999_950, 3, "1MB"), (999_999, 4, "1MB"), (10**18, 3, "1EB"), (5 * 10**12, 3, "5TB"),
])
def test_size(size: int, digits: int, expected: str) -> None:
    assert human_size(size, digits) == expected


@pytest.mark.parametrize(("seconds", "expected"), [
    (-5, "Less than a second"), (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"),
    (60, "About a minute"), (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"),
    (3600, "About an hour"), (5399, "About an hour"), (5400, "2 hours"), (47 * 3600, "47 hours"),
    (2 * DAY, "2 days"), (13 * DAY, "13 days"), (14 * DAY, "2 weeks"), (59 * DAY, "8 weeks"),
    (60 * DAY, "2 months"), (729 * DAY, "24 months"), (730 * DAY, "2 years"), (3700 * DAY, "10 years"),
])
def test_duration(seconds: float, expected: str) -> None:
    assert human_duration(seconds) == expected


def test_time_with_nanoseconds_and_zone() -> None:
    assert parse_time("2024-05-01T12:00:00.123456789Z") == pytest.approx(1714564800.123456)
    assert parse_time("2024-05-01T14:00:00+02:00") == 1714564800
    assert parse_time("1970-01-01T00:00:00Z") == 0


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00Z", "2024-13-01T00:00:00Z"])
def test_no_time_is_not_available(text: str) -> None:
    assert parse_time(text) is None
    assert since(text, 0) == "N/A"
    assert moment(text) == "N/A"


def test_since_and_moment() -> None:
    assert since("2024-05-01T12:00:00Z", 1714564800 + 15 * DAY) == "2 weeks ago"
    assert moment("2024-05-01T12:00:00Z") == "2024-05-01 12:00:00 +0000 UTC"


def test_minute_of_a_file() -> None:
    assert minute_of(1714564800 * 10**9 + 5) == "2024-05-01 12:00"
    assert minute_of(10**30) == str(10**21)
