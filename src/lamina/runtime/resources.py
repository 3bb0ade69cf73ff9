"""Limits: docker's numbers as the runtime-spec's ``linux.resources`` and ``process.rlimits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina.errors import InvalidInput
from lamina.runtime.options import ContainerOptions

_PERIOD = 100_000  # microseconds; the kernel's default, which docker takes for --cpus
_LEAST_MEMORY = 6 << 20  # docker's: less does not even start a shell
_RLIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "rttime", "sigpending", "stack",
)
UNLIMITED = 2**64 - 1  # RLIM_INFINITY

# Docker's: null, zero, full, random, urandom, tty, console, ptmx and the ptys; others may be made, not used.
_DEVICES = (("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1),
            ("c", 5, 2), ("c", 136, None))


def resources(options: ContainerOptions, devices: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """``devices`` are further rules. Raises ``InvalidInput`` for limits that contradict one another."""
    found = {
        "devices": _device_rules(options, devices), "memory": _memory(options), "cpu": _cpu(options),
        "pids": _pids(options),
    }
    return {name: value for name, value in found.items() if value}


def limits_of(options: ContainerOptions) -> dict[str, Any]:
    """Those that somebody asked for: without the rules for devices."""
    return {name: value for name, value in resources(options).items() if name != "devices"}


def _memory(options: ContainerOptions) -> dict[str, Any]:
    memory, swap = options.memory, options.memory_swap
    if memory is not None and 0 < memory < _LEAST_MEMORY:
        raise InvalidInput(f"--memory: {memory} bytes are too few; the least is 6MB")
    if swap is not None and swap > 0 and not memory:
        raise InvalidInput("--memory-swap: the sum of memory and swap needs --memory as well")
    if swap is not None and memory and 0 < swap < memory:
        raise InvalidInput(
            "--memory-swap: it is memory and swap together, and must not be less than --memory"
        )
    if options.memory_reservation and memory and options.memory_reservation > memory:
        raise InvalidInput("--memory-reservation: must not be more than --memory")
    found: dict[str, Any] = {}
    if memory:
        # Without a word about swap, docker allows as much of it again.
        found = {"limit": memory, "swap": swap or 2 * memory}
    if options.memory_reservation:
        found["reservation"] = options.memory_reservation
    if not options.has_oom_kill:
        found["disableOOMKiller"] = True
    return found


def _cpu(options: ContainerOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.cpus is not None:
        if options.cpus < 0.01:
            raise InvalidInput(f"--cpus: {options.cpus:g}: expected at least 0.01")
        if options.cpu_period is not None or options.cpu_quota is not None:
            raise InvalidInput("--cpus: it sets what --cpu-period and --cpu-quota set; use one or the others")
        found = {"quota": int(options.cpus * _PERIOD), "period": _PERIOD}
    for name, value in (("shares", options.cpu_shares), ("period", options.cpu_period),
                        ("quota", options.cpu_quota), ("cpus", options.cpuset_cpus),
                        ("mems", options.cpuset_mems)):
        if value:
            found[name] = value
    return found


def _pids(options: ContainerOptions) -> dict[str, Any]:
    return {"limit": options.pids_limit} if options.pids_limit and options.pids_limit > 0 else {}


def _device_rules(options: ContainerOptions, more: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if options.is_privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    for kind, major, minor in _DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    return [*rules, *more]


def rlimits(ulimits: Sequence[str]) -> list[dict[str, Any]]:
    """``nofile=1024:2048``; one number is both, -1 is no limit."""
    found: dict[str, dict[str, Any]] = {}
    for text in ulimits:
        name, equals, numbers = text.partition("=")
        if name not in _RLIMITS or not equals:
            raise InvalidInput(
                f"--ulimit: expected NAME=SOFT[:HARD] with one of {', '.join(_RLIMITS)}, got {text!r}"
            )
        soft, colon, hard = numbers.partition(":")
        first, second = _limit(soft, text), _limit(hard if colon else soft, text)
        if first > second:
            raise InvalidInput(f"--ulimit: {text!r}: the soft limit is above the hard one")
        found[name] = {"type": f"RLIMIT_{name.upper()}", "soft": first, "hard": second}
    return list(found.values())


def _limit(text: str, whole: str) -> int:
    if text == "-1":
        return UNLIMITED
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > UNLIMITED:
        raise InvalidInput(f"--ulimit: {whole!r}: expected whole numbers, or -1 for no limit")
    return int(text)
