"""What somebody asks of a container: docker's flags as one value, still in the words of the command line.

Everything is text, a number, a switch, or a sequence of texts, so that the value goes through JSON and back
unchanged. Whoever uses a text parses it; ``lamina.engine.creating`` does so for all of them before anything
is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.values import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """``None`` and empty mean: as the image says, or docker's default.

    Sizes are bytes. ``entrypoint`` of ``("",)`` takes the image's away. ``stop_timeout`` is seconds, as are
    the ``health_`` durations.
    """

    # the process
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[str, ...] = ()
    user: str = ""
    groups: tuple[str, ...] = ()
    working_directory: str = ""
    is_interactive: bool = False
    has_terminal: bool = False
    has_init: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None

    # what it is called, and what becomes of it
    hostname: str = ""
    domainname: str = ""
    labels: tuple[str, ...] = ()
    is_removed_at_exit: bool = False
    restart: str = "no"
    runtime: str = ""
    log_driver: str = "json-file"
    log_options: tuple[str, ...] = ()

    # files
    volumes: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    is_read_only: bool = False
    shm_size: int | None = None
    storage: tuple[str, ...] = ()

    # networks
    networks: tuple[str, ...] = ()
    network_aliases: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    publishes_all: bool = False
    expose: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    ip: str = ""
    mac_address: str = ""

    # rights
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    is_privileged: bool = False
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = ""
    sysctls: tuple[str, ...] = ()

    # limits
    memory: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    ulimits: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    has_oom_kill: bool = True

    # health
    has_health_check: bool = True
    health_command: str = ""
    health_interval: float | None = None
    health_timeout: float | None = None
    health_start_period: float | None = None
    health_start_interval: float | None = None
    health_retries: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the default."""
        return {
            field.name: value for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ContainerOptions:
        """Words of a newer lamina are left out: they say nothing that this one could do."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document.items() if name in known
        }
        return cls(**values)
