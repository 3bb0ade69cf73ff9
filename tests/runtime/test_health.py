"""Health: docker's rules as a table of probes and what they add up to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.runtime.health import Health, HealthCheck, HealthRecord, Probe

SHELL = ("/bin/sh", "-c")
STARTING, HEALTHY, UNHEALTHY = Health.STARTING, Health.HEALTHY, Health.UNHEALTHY


def after(codes: list[tuple[float, int]], **check: Any) -> HealthRecord:
    """Probes as (seconds after the start, exit code)."""
    rule, record = HealthCheck(argv=("true",), **check), HealthRecord()
    for start, code in codes:
        record = record.after(Probe(start=100 + start, end=101 + start, exit_code=code, output=""), rule, 100.0)
    return record


@pytest.mark.parametrize(("codes", "check", "status", "streak"), [
    ([], {}, STARTING, 0),
    ([(1, 0)], {}, HEALTHY, 0),
    ([(1, 1)], {}, STARTING, 1),
    ([(1, 1), (2, 1)], {}, STARTING, 2),
    ([(1, 1), (2, 1), (3, 1)], {}, UNHEALTHY, 3),
    ([(1, 1), (2, 1), (3, 0)], {}, HEALTHY, 0),
    ([(1, 1), (2, 1), (3, 0), (4, 1)], {}, HEALTHY, 1),
    ([(1, 1), (2, 1), (3, 1), (4, 0)], {}, HEALTHY, 0),
    ([(1, 1), (2, 1), (3, 1), (4, 2)], {}, UNHEALTHY, 4),
    ([(1, 1)], {"retries": 1}, UNHEALTHY, 1),
    ([(1, 1), (2, 1), (3, 1)], {"start_period": 10}, STARTING, 0),
    ([(1, 1), (2, 1), (11, 1)], {"start_period": 10, "retries": 1}, UNHEALTHY, 1),
    # one success ends the start period: what fails then, counts
    ([(1, 0), (2, 1)], {"start_period": 10}, HEALTHY, 1),
    ([(1, 0), (2, 1)], {"start_period": 10, "retries": 1}, UNHEALTHY, 1),
])
def test_probes_add_up(codes: list[tuple[float, int]], check: dict[str, Any], status: Health, streak: int) -> None:
    record = after(codes, **check)
    assert (record.status, record.failing_streak) == (status, streak)


def test_five_probes_are_kept() -> None:
    record = after([(number, number) for number in range(1, 8)])
    assert [probe.exit_code for probe in record.probes] == [3, 4, 5, 6, 7]


def test_a_record_is_json() -> None:
    document = json.loads(json.dumps(after([(1, 3)]).to_json()))
    assert document == {
        "status": "starting", "failing_streak": 1, "probes": [{"start": 101, "end": 102, "exit_code": 3, "output": ""}],
    }


@pytest.mark.parametrize(("document", "argv"), [
    ({"Test": ["CMD", "curl", "-f", "x"]}, ("curl", "-f", "x")),
    ({"Test": ["CMD-SHELL", "curl -f x || exit 1"]}, ("/bin/sh", "-c", "curl -f x || exit 1")),
])
def test_a_check_of_the_images(document: dict[str, Any], argv: tuple[str, ...]) -> None:
    found = HealthCheck.from_config(document, SHELL)
    assert found == HealthCheck(argv=argv)


@pytest.mark.parametrize("document", [
    None, {}, {"Test": None}, {"Test": []}, {"Test": ["NONE"]}, {"Test": ["CMD"]}, {"Interval": 5},
    {"Test": "CMD true"}, {"Test": 5}, {"Test": ["CMD", 5]}, {"Test": {"CMD": "x"}},
])
def test_nothing_to_check(document: Any) -> None:
    assert HealthCheck.from_config(document, SHELL) is None


def test_durations_are_nanoseconds_and_default_where_they_make_no_sense() -> None:
    given = {"Interval": 2_500_000_000, "Timeout": 0, "StartPeriod": -1, "StartInterval": "soon", "Retries": "many"}
    found = HealthCheck.from_config({"Test": ["CMD", "x"], **given}, SHELL)
    assert found == HealthCheck(argv=("x",), interval=2.5)
    found = HealthCheck.from_config({"Test": ["CMD", "x"], "Retries": 7, "Timeout": 1_000_000_000}, SHELL)
    assert found == HealthCheck(argv=("x",), retries=7, timeout=1.0)


@pytest.mark.parametrize(("elapsed", "record", "delay"), [
    (1.0, HealthRecord(), 5.0), (21.0, HealthRecord(), 30.0), (1.0, HealthRecord(status=HEALTHY), 30.0),
])
def test_probes_come_faster_while_it_starts(elapsed: float, record: HealthRecord, delay: float) -> None:
    assert HealthCheck(argv=("x",), start_period=20.0).delay(elapsed, record) == delay


def test_a_short_interval_is_not_made_longer_by_the_start() -> None:
    assert HealthCheck(argv=("x",), interval=1.0, start_period=20.0).delay(1.0, HealthRecord()) == 1.0
