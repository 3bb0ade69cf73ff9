"""One limit of a control group, between the runtime specification's words and a file of the kernel's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lamina.values import dataclass

# Unlimited, as v1 has it in bytes: the highest multiple of a page in 63 bits. What is near is no limit.
NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Limit:
    """``option`` is docker's flag for it; ``controller`` may be empty for the core's files."""

    option: str
    controller: str
    file: str
    value: str


@dataclass(frozen=True, slots=True)
class Unapplied:
    """A limit that somebody asked for and does not get."""

    option: str
    reason: str

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStats:
    """What ``docker stats`` shows. Memory is without the cache that the kernel can take back at once.

    ``system_cpu_ns`` is what all processors did together since the machine started, as docker counts it.
    """

    cpu_ns: int = 0
    system_cpu_ns: int = 0
    online_cpus: int = 1
    memory_bytes: int = 0
    memory_limit: int | None = None
    pids: int = 0
    pids_limit: int | None = None
    block_read: int = 0
    block_write: int = 0


THROTTLES = (
    ("--device-read-bps", "throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("--device-write-bps", "throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("--device-read-iops", "throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("--device-write-iops", "throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)


def throttled(resources: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, int]]:
    """Flag, v1's file, v2's key, device and rate of each limit on one device."""
    block = section(resources, "blockIO")
    for option, key, old, new in THROTTLES:
        for item in block.get(key) or ():
            yield option, old, new, f"{item['major']}:{item['minor']}", item["rate"]


def section(resources: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = resources.get(name) or {}
    assert isinstance(found, Mapping)
    return found


def read_text(path: str) -> str:
    """Empty when the file, its group or its controller is not there."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_number(path: str) -> int | None:
    """``None`` for ``max`` and for what is not there."""
    text = read_text(path)
    return int(text) if text.isdigit() else None


def read_table(path: str) -> dict[str, int]:
    """Lines of a name and a number, such as ``memory.stat``."""
    pairs = [line.split() for line in read_text(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def without_cache(usage: int, stat: Mapping[str, int], names: Sequence[str]) -> int:
    """Docker's way: minus the file pages that nobody used lately."""
    inactive = next((stat[name] for name in names if name in stat), 0)
    return usage - inactive if inactive < usage else usage
