"""Limits in docker's words, as the runtime-spec has them."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.options import ContainerOptions
from lamina.runtime.resources import UNLIMITED, limits_of, resources, rlimits

MB = 1 << 20


@pytest.mark.parametrize(("options", "limits"), [
    ({}, {}),
    ({"memory": 64 * MB}, {"memory": {"limit": 64 * MB, "swap": 128 * MB}}),
    ({"memory": 64 * MB, "memory_swap": 64 * MB}, {"memory": {"limit": 64 * MB, "swap": 64 * MB}}),
    ({"memory": 64 * MB, "memory_swap": -1}, {"memory": {"limit": 64 * MB, "swap": -1}}),
    ({"memory": 0}, {}),
    ({"memory": 6 * MB, "memory_reservation": 6 * MB},
     {"memory": {"limit": 6 * MB, "swap": 12 * MB, "reservation": 6 * MB}}),
    ({"has_oom_kill": False}, {"memory": {"disableOOMKiller": True}}),
    ({"cpus": 0.5}, {"cpu": {"quota": 50_000, "period": 100_000}}),
    ({"cpus": 0.01}, {"cpu": {"quota": 1_000, "period": 100_000}}),
    ({"cpu_period": 50_000, "cpu_quota": 25_000}, {"cpu": {"period": 50_000, "quota": 25_000}}),
    ({"cpu_shares": 512, "cpuset_cpus": "0-1", "cpuset_mems": "0"},
     {"cpu": {"shares": 512, "cpus": "0-1", "mems": "0"}}),
    ({"pids_limit": 10}, {"pids": {"limit": 10}}),
    ({"pids_limit": -1}, {}),
    ({"pids_limit": 0}, {}),
])
def test_limits(options: dict[str, Any], limits: dict[str, Any]) -> None:
    assert limits_of(ContainerOptions(**options)) == limits


@pytest.mark.parametrize(("options", "complaint"), [
    ({"memory": 6 * MB - 1}, "--memory: .* too few; the least is 6MB"),
    ({"memory_swap": 64 * MB}, "--memory-swap: .* needs --memory as well"),
    ({"memory": 64 * MB, "memory_swap": 63 * MB}, "must not be less than --memory"),
    ({"memory": 64 * MB, "memory_reservation": 65 * MB}, "--memory-reservation: must not be more"),
    ({"cpus": 0.001}, "--cpus: 0.001: expected at least 0.01"),
    ({"cpus": -1.0}, "--cpus: -1"),
    ({"cpus": 1.0, "cpu_quota": 1}, "use one or the others"),
    ({"cpus": 1.0, "cpu_period": 1}, "use one or the others"),
])
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        resources(ContainerOptions(**options))


def test_only_dockers_devices_can_be_used() -> None:
    first, *rest = resources(ContainerOptions())["devices"]
    assert first == {"allow": False, "access": "rwm"}
    usable = {(rule["major"], rule.get("minor")) for rule in rest if "r" in rule["access"]}
    assert usable == {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None)}
    assert {rule["type"] for rule in rest if rule["access"] == "m"} == {"b", "c"}


def test_further_rules_come_last() -> None:
    more = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert resources(ContainerOptions(), [more])["devices"][-1] == more


def test_a_privileged_container_can_use_every_device() -> None:
    assert resources(ContainerOptions(is_privileged=True))["devices"] == [{"allow": True, "access": "rwm"}]


@pytest.mark.parametrize(("texts", "found"), [
    (["nofile=1024"], [("RLIMIT_NOFILE", 1024, 1024)]),
    (["nofile=1024:2048"], [("RLIMIT_NOFILE", 1024, 2048)]),
    (["core=0", "nproc=-1"], [("RLIMIT_CORE", 0, 0), ("RLIMIT_NPROC", UNLIMITED, UNLIMITED)]),
    (["nofile=1:-1"], [("RLIMIT_NOFILE", 1, UNLIMITED)]),
    (["nofile=1", "nofile=2"], [("RLIMIT_NOFILE", 2, 2)]),
    ([f"fsize={UNLIMITED}"], [("RLIMIT_FSIZE", UNLIMITED, UNLIMITED)]),
])
def test_ulimits(texts: list[str], found: list[tuple[str, int, int]]) -> None:
    assert [(each["type"], each["soft"], each["hard"]) for each in rlimits(texts)] == found


@pytest.mark.parametrize("text", [
    "", "nofile", "=1", "files=1", "NOFILE=1", "nofile=", "nofile=x", "nofile=1:", "nofile=:1", "nofile=1:2:3", "nofile=-2",
    "nofile=2:1", "nofile=-1:1", "nofile=1.5", f"nofile={UNLIMITED + 1}", "nofile=" + "9" * 5000, "nofile=٣",
])
def test_ulimits_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--ulimit: "):
        rlimits([text])
