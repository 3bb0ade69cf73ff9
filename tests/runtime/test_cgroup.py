"""Control groups without a kernel: limits as files, and where groups can be made."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime import cgroup1, cgroup2
from lamina.runtime.cgroup import Cgroups, Hierarchy
from lamina.runtime.devicefilter import compile_rules, reduced
from lamina.runtime.limit import Limit

RESOURCES: dict[str, Any] = {
    "memory": {"limit": 1 << 28, "swap": 1 << 29, "reservation": 1 << 27, "swappiness": 0, "disableOOMKiller": True},
    "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 100},
    "blockIO": {"weight": 300, "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1_000_000}]},
}


def files(limits: list[Limit]) -> dict[str, str]:
    return {limit.file: limit.value for limit in limits}


def test_version_1_files() -> None:
    assert files(cgroup1.limits(RESOURCES)) == {
        "memory.limit_in_bytes": "268435456",
        "memory.memsw.limit_in_bytes": "536870912",
        "memory.soft_limit_in_bytes": "134217728",
        "memory.swappiness": "0",
        "memory.oom_control": "1",
        "cpu.shares": "512",
        "cpu.cfs_quota_us": "50000",
        "cpu.cfs_period_us": "200000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "100",
        "blkio.bfq.weight": "300",
        "blkio.throttle.read_bps_device": "8:16 1000000",
    }


def test_version_2_files() -> None:
    assert files(cgroup2.limits(RESOURCES)) == {
        "memory.max": "268435456",
        "memory.swap.max": "268435456",  # swap alone
        "memory.low": "134217728",
        "cpu.weight": "59",
        "cpu.max": "50000 200000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "100",
        "io.weight": "2930",
        "io.max": "8:16 rbps=1000000",
    }
    assert [str(item).partition(":")[0] for item in cgroup2.meaningless(RESOURCES)] == [
        "--memory-swappiness", "--oom-kill-disable",
    ]


def test_what_is_not_asked_for_is_not_touched() -> None:
    for nothing in ({}, {"memory": {}, "cpu": {"shares": 0}, "pids": {"limit": 0}, "blockIO": None}):
        assert cgroup1.limits(nothing) == []
        assert cgroup2.limits(nothing) == []
        assert cgroup2.meaningless(nothing) == []


def test_minus_one_is_no_limit() -> None:
    unlimited = {"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}
    assert files(cgroup1.limits(unlimited)) == {
        "memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1", "pids.max": "max", "cpu.cfs_quota_us": "-1",
    }
    assert files(cgroup2.limits(unlimited)) == {
        "memory.max": "max", "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 100000",
    }


def test_swap_that_contradicts_memory_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--memory-swap"):
        cgroup2.limits({"memory": {"swap": 1 << 20}})
    with pytest.raises(InvalidInput, match="--memory-swap"):
        cgroup2.limits({"memory": {"limit": 1 << 21, "swap": 1 << 20}})
    assert files(cgroup2.limits({"memory": {"limit": 5, "swap": 5}}))["memory.swap.max"] == "0"


def test_shares_become_weights_with_the_defaults_at_the_same_place() -> None:
    assert [cgroup2.weight_of(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    weights = [cgroup2.weight_of(shares) for shares in range(2, 4096)]
    assert weights == sorted(weights)


def test_device_rules_of_version_1() -> None:
    rules = [
        {"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    assert [(limit.file, limit.value) for limit in cgroup1.device_rules({"devices": rules})] == [
        ("devices.deny", "a *:* rwm"), ("devices.allow", "c 1:3 rw"), ("devices.allow", "b *:* m"),
    ]


def test_device_rules_are_taken_one_after_the_other() -> None:
    null = {"type": "c", "major": 1, "minor": 3}
    rules = [{"allow": True}, {"allow": False}, {"allow": True, **null}, {"allow": False, **null, "access": "w"}]
    allows, exceptions = reduced(rules)
    assert not allows
    assert [(item.type, item.major, item.minor, item.access) for item in exceptions] == [(2, 1, 3, 1 | 2)]
    assert reduced([*rules, {"allow": True, "access": "rwm"}]) == (True, [])
    assert compile_rules([{"allow": True, "access": "rwm"}]) == b""


def test_counters_of_version_1(tmp_path: Path) -> None:
    for name, text in {
        "cpuacct.usage": "123456789\n", "memory.usage_in_bytes": "1000\n", "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.stat": "cache 5\ninactive_file 7\ntotal_inactive_file 300\n", "pids.current": "4\n", "pids.max": "max\n",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:16 Read 5\n8:0 Total 35\nTotal 35\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    }.items():
        (tmp_path / name).write_text(text)
    paths = dict.fromkeys(("cpuacct", "memory", "pids", "blkio"), str(tmp_path))
    assert cgroup1.measured(paths) == {
        "cpu_ns": 123456789, "memory_bytes": 700, "memory_limit": None, "pids": 4, "pids_limit": None,
        "block_read": 15, "block_write": 20,
    }
    assert cgroup1.oom_kills(paths) == 3


def test_counters_of_version_2(tmp_path: Path) -> None:
    for name, text in {
        "cpu.stat": "usage_usec 123\nuser_usec 100\n", "memory.current": "1000\n", "memory.max": "4096\n",
        "memory.stat": "inactive_file 300\n", "memory.events": "oom 2\noom_kill 1\n",
        "pids.current": "4\n", "pids.max": "10\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=0 rios=1\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert cgroup2.measured(str(tmp_path)) == {
        "cpu_ns": 123000, "memory_bytes": 700, "memory_limit": 4096, "pids": 4, "pids_limit": 10,
        "block_read": 15, "block_write": 20,
    }
    assert cgroup2.oom_kills(str(tmp_path)) == 1
    assert cgroup2.measured(str(tmp_path / "none")) == {}


def machine(directory: Path, *lines: str, own: str) -> str:
    (directory / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    (directory / "cgroup").write_text(own)
    return str(directory)


def v2_tree(directory: Path, *writable: str) -> Path:
    """A mounted hierarchy as an ordinary user sees it: what is not writable has mode 0555."""
    top = directory / "mounted"
    groups = ("", "user.slice", "user.slice/user@1.service", "user.slice/user@1.service/app.slice")
    for group in groups:
        (top / group).mkdir(parents=True)
        (top / group / "cgroup.procs").touch()
        (top / group / "cgroup.controllers").write_text("memory pids\n")
    for group in reversed(groups):
        if group not in writable:
            (top / group / "cgroup.procs").chmod(0o444)
            (top / group).chmod(0o555)
    return top


def detected(proc: str) -> Cgroups:
    """As an ordinary user, for whom file modes count."""
    if os.geteuid() != 0:
        return Cgroups.detect(proc)
    os.seteuid(65534)
    try:
        return Cgroups.detect(proc)
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory of the user that ``detected`` becomes."""
    directory = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
    yield directory
    for below, _, _ in os.walk(directory):
        os.chmod(below, 0o755)
    shutil.rmtree(directory)


def give_away(top: Path) -> None:
    if os.geteuid() == 0:
        for directory, _, names in os.walk(top):
            for name in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(name, 65534, 65534)


def test_groups_go_to_the_highest_delegated_directory(public: Path) -> None:
    service = "user.slice/user@1.service"
    top = v2_tree(public, service, f"{service}/app.slice")
    give_away(top)
    proc = machine(public, f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw", own=f"0::/{service}/app.slice\n")
    found = detected(proc)
    assert found.hierarchies == (
        Hierarchy(2, frozenset({"memory", "pids"}), str(top), f"{top}/{service}"),
    )
    assert found.version == 2
    assert found.spec_path("lamina/abc") == f"/{service}/lamina/abc"
    assert found.at(f"/{service}/lamina/abc").name == "lamina/abc"


def test_a_gap_in_what_is_writable_is_not_jumped_over(public: Path) -> None:
    top = v2_tree(public, "", "user.slice/user@1.service")
    give_away(top)
    own = "0::/user.slice/user@1.service\n"
    proc = machine(public, f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw", own=own)
    assert [item.base for item in detected(proc).hierarchies] == [f"{top}/user.slice/user@1.service"]


def test_nothing_delegated_means_no_place_and_limits_that_are_reported(public: Path) -> None:
    top = v2_tree(public)
    give_away(top)
    proc = machine(public, f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw", own="0::/user.slice/user@1.service\n")
    found = detected(proc)
    assert (found.hierarchies, found.version) == ((), 0)
    group = found.create("lamina/abc", RESOURCES)
    assert {item.option for item in group.unapplied} >= {"--memory", "--pids-limit", "--cpu-quota"}
    assert "delegated" in next(item.reason for item in group.unapplied if item.option == "--memory")
    group.add(0)
    assert (group.pids(), group.oom_kills(), group.is_frozen) == ([], 0, False)
    group.kill()
    group.remove()
    with pytest.raises(Unsupported, match="cannot be paused"):
        group.freeze()
    with pytest.raises(Unsupported, match="no statistics"):
        group.stats()
    with pytest.raises(Unsupported, match="--memory: nothing of"):
        found.create("lamina/abc", RESOURCES, strict=True)


def test_version_1_for_something_else_does_not_take_limits_from_version_2(public: Path) -> None:
    top = v2_tree(public, "")
    give_away(top)
    (public / "net_cls").mkdir(mode=0o777)
    version_2 = f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw"
    proc = machine(public, f"31 1 0:27 / {public}/net_cls rw - cgroup cgroup rw,net_cls", version_2, own="0::/\n")
    give_away(public / "net_cls")
    found = detected(proc)
    assert [item.version for item in found.hierarchies] == [1, 2]
    assert found.version == 2
    (public / "pids").mkdir(mode=0o777)
    give_away(public / "pids")
    version_1 = f"31 1 0:27 / {public}/pids rw - cgroup cgroup rw,pids"
    (public / "mountinfo").unlink()
    assert detected(machine(public, version_1, version_2, own="0::/\n")).version == 1


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    found = Cgroups.detect(machine(tmp_path, "21 1 8:1 / / rw - ext4 /dev/sda1 rw", own=""))
    assert found.hierarchies == ()
    assert "no memory controller" in str(found.create("lamina/x", {"memory": {"limit": 1 << 30}}).unapplied[0])


@pytest.mark.parametrize("name", ["", "/", "..", "lamina/../x", "lamina//x", "lamina/", ".hidden", "a b", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a control group's name"):
        Cgroups((), {}).at(name)
