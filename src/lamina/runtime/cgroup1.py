"""Control groups of version 1, one hierarchy for each controller: what files limits are, and what they tell.

The kernel's Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.runtime.limit import (
    NO_LIMIT,
    Limit,
    read_number,
    read_table,
    read_text,
    section,
    throttled,
    without_cache,
)


def limits(resources: Mapping[str, Any]) -> list[Limit]:
    """Of a ``linux.resources`` object. What is not in there stays as it is."""
    memory, cpu = section(resources, "memory"), section(resources, "cpu")
    has_no_killer = memory.get("disableOOMKiller")
    found = [
        _number("--memory", "memory", "memory.limit_in_bytes", memory.get("limit")),
        _number("--memory-swap", "memory", "memory.memsw.limit_in_bytes", memory.get("swap")),
        _number("--memory-reservation", "memory", "memory.soft_limit_in_bytes", memory.get("reservation")),
        _number("--memory-swappiness", "memory", "memory.swappiness", memory.get("swappiness"), zero=True),
        _number("--oom-kill-disable", "memory", "memory.oom_control", int(bool(has_no_killer))),
        _number("--cpu-shares", "cpu", "cpu.shares", cpu.get("shares")),
        _number("--cpu-period", "cpu", "cpu.cfs_period_us", cpu.get("period")),
        _number("--cpu-quota", "cpu", "cpu.cfs_quota_us", cpu.get("quota")),
        _text("--cpuset-cpus", "cpuset", "cpuset.cpus", cpu.get("cpus")),
        _text("--cpuset-mems", "cpuset", "cpuset.mems", cpu.get("mems")),
        _number("--blkio-weight", "blkio", "blkio.bfq.weight", section(resources, "blockIO").get("weight")),
    ]
    found += [
        Limit(option, "blkio", f"blkio.throttle.{old}", f"{device} {rate}")
        for option, old, _, device, rate in throttled(resources)
    ]
    pids = section(resources, "pids").get("limit")
    if pids:
        found.append(Limit("--pids-limit", "pids", "pids.max", str(pids) if pids > 0 else "max"))
    return [limit for limit in found if limit is not None]


def device_rules(resources: Mapping[str, Any]) -> list[Limit]:
    """In their order: a later rule changes what an earlier one said."""
    return [
        Limit(
            "--device", "devices", "devices.allow" if rule.get("allow") else "devices.deny",
            f"{rule.get('type') or 'a'} {_any(rule.get('major'))}:{_any(rule.get('minor'))} "
            f"{rule.get('access') or 'rwm'}",
        )
        for rule in resources.get("devices") or ()
    ]


def measured(paths: Mapping[str, str]) -> dict[str, int | None]:
    """By the names of ``CgroupStats``. ``paths`` are the group's directories by controller."""
    found: dict[str, int | None] = {}
    if "cpuacct" in paths:
        found["cpu_ns"] = read_number(f"{paths['cpuacct']}/cpuacct.usage") or 0
    if "memory" in paths:
        stat = read_table(f"{paths['memory']}/memory.stat")
        usage = read_number(f"{paths['memory']}/memory.usage_in_bytes") or 0
        limit = read_number(f"{paths['memory']}/memory.limit_in_bytes")
        found["memory_bytes"] = without_cache(usage, stat, ("total_inactive_file", "inactive_file"))
        found["memory_limit"] = limit if limit is not None and limit < NO_LIMIT else None
    if "pids" in paths:
        found["pids"] = read_number(f"{paths['pids']}/pids.current") or 0
        found["pids_limit"] = read_number(f"{paths['pids']}/pids.max")
    if "blkio" in paths:
        for words in map(str.split, _block_lines(paths["blkio"])):
            key = {"Read": "block_read", "Write": "block_write"}.get(words[1]) if len(words) == 3 else None
            if key is not None:
                found[key] = (found.get(key) or 0) + int(words[2])
    return found


def _block_lines(path: str) -> list[str]:
    text = read_text(f"{path}/blkio.throttle.io_service_bytes_recursive")
    return (text or read_text(f"{path}/blkio.throttle.io_service_bytes")).splitlines()


def oom_kills(paths: Mapping[str, str]) -> int:
    """Linux 4.13 and later."""
    return read_table(f"{paths['memory']}/memory.oom_control").get("oom_kill", 0) if "memory" in paths else 0


def _number(option: str, controller: str, file: str, value: Any, *, zero: bool = False) -> Limit | None:
    """Zero is docker's word for "not asked for", where it is not a value itself; -1 is no limit."""
    if value is None or (value == 0 and not zero):
        return None
    return Limit(option, controller, file, str(value))


def _text(option: str, controller: str, file: str, value: Any) -> Limit | None:
    return Limit(option, controller, file, value) if value else None


def _any(number: int | None) -> str:
    return "*" if number is None or number < 0 else str(number)
