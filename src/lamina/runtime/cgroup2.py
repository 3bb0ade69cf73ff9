"""Control groups of version 2, one hierarchy for all controllers: what files limits are, and what they tell.

The kernel's Documentation/admin-guide/cgroup-v2. Limits arrive in the specification's words, which are v1's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lamina.errors import InvalidInput
from lamina.runtime.limit import (
    Limit,
    Unapplied,
    read_number,
    read_table,
    read_text,
    section,
    throttled,
    without_cache,
)

# In the order in which we want them; others are of no use to a container's limits.
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
_DEFAULT_PERIOD = 100_000


def limits(resources: Mapping[str, Any]) -> list[Limit]:
    """Of a ``linux.resources`` object. What is not in there stays as it is."""
    found = [*_memory(section(resources, "memory")), *_cpu(section(resources, "cpu"))]
    weight = section(resources, "blockIO").get("weight")
    if weight:
        # 10 to 1000 there, 1 to 10000 here.
        found.append(Limit("--blkio-weight", "io", "io.weight", str(1 + (weight - 10) * 9999 // 990)))
    found += [
        Limit(option, "io", "io.max", f"{device} {new}={rate or 'max'}")
        for option, _, new, device, rate in throttled(resources)
    ]
    pids = section(resources, "pids").get("limit")
    if pids:
        found.append(Limit("--pids-limit", "pids", "pids.max", str(pids) if pids > 0 else "max"))
    found += [
        Limit(f"unified {file}", file.partition(".")[0], file, str(value))
        for file, value in section(resources, "unified").items()
    ]
    return found


def meaningless(resources: Mapping[str, Any]) -> list[Unapplied]:
    """What only version 1 has."""
    memory = section(resources, "memory")
    found = []
    if memory.get("swappiness") is not None:
        found.append(Unapplied("--memory-swappiness", "cgroup version 2 has no swappiness for a group"))
    if memory.get("disableOOMKiller"):
        found.append(Unapplied("--oom-kill-disable", "cgroup version 2 cannot switch the OOM killer off"))
    return found


def weight_of(shares: int) -> int:
    """Shares (2 to 262144) as a weight (1 to 10000), with both defaults, 1024 and 100, at the same place.

    The runtimes of 2025 do so; older ones drew a straight line between the ends, which gives 39 for 1024.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    doublings = math.log2(shares)
    return math.ceil(10 ** ((doublings * doublings + 125 * doublings) / 612 - 7 / 34))


def measured(path: str) -> dict[str, int | None]:
    """By the names of ``CgroupStats``; what a controller that is not enabled would say is left out."""
    found: dict[str, int | None] = {}
    cpu = read_table(f"{path}/cpu.stat")
    if "usage_usec" in cpu:
        found["cpu_ns"] = cpu["usage_usec"] * 1000
    usage = read_number(f"{path}/memory.current")
    if usage is not None:
        stat = read_table(f"{path}/memory.stat")
        found["memory_bytes"] = without_cache(usage, stat, ("inactive_file",))
        found["memory_limit"] = read_number(f"{path}/memory.max")
    pids = read_number(f"{path}/pids.current")
    if pids is not None:
        found["pids"], found["pids_limit"] = pids, read_number(f"{path}/pids.max")
    fields = [field.partition("=") for field in read_text(f"{path}/io.stat").split() if "=" in field]
    for key, name in (("rbytes", "block_read"), ("wbytes", "block_write")):
        if fields:
            found[name] = sum(int(value) for field, _, value in fields if field == key)
    return found


def oom_kills(path: str) -> int:
    return read_table(f"{path}/memory.events").get("oom_kill", 0)


def _memory(memory: Mapping[str, Any]) -> list[Limit]:
    limit, swap, reservation = memory.get("limit"), memory.get("swap"), memory.get("reservation")
    found = []
    if limit:
        found.append(Limit("--memory", "memory", "memory.max", _bytes(limit)))
    if swap:
        # There it is memory and swap together, here swap alone.
        if swap > 0 and (not limit or limit < 0 or limit > swap):
            raise InvalidInput(f"--memory-swap: {swap} bytes, memory included, need a --memory of no more")
        alone = swap if swap < 0 else swap - limit
        found.append(Limit("--memory-swap", "memory", "memory.swap.max", _bytes(alone)))
    if reservation:
        found.append(Limit("--memory-reservation", "memory", "memory.low", _bytes(reservation)))
    return found


def _cpu(cpu: Mapping[str, Any]) -> list[Limit]:
    found = []
    if cpu.get("shares"):
        found.append(Limit("--cpu-shares", "cpu", "cpu.weight", str(weight_of(cpu["shares"]))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        share = str(quota) if quota and quota > 0 else "max"
        option = "--cpu-quota" if quota else "--cpu-period"
        found.append(Limit(option, "cpu", "cpu.max", f"{share} {period or _DEFAULT_PERIOD}"))
    for option, key in (("--cpuset-cpus", "cpus"), ("--cpuset-mems", "mems")):
        if cpu.get(key):
            found.append(Limit(option, "cpuset", f"cpuset.{key}", cpu[key]))
    return found


def _bytes(value: int) -> str:
    return "max" if value < 0 else str(value)
