"""Containers as docker describes them: the document of ``inspect``, ``ps``, ports, processes, usage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.engine import containers, removing
from lamina.engine.containers import Seen
from lamina.engine.filters import check_filters, has_label
from lamina.errors import InvalidInput
from lamina.oci.reference import InvalidReference, Reference
from lamina.runtime.container import ContainerNotRunning, ContainerState, Status
from lamina.runtime.resources import limits_of
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.runtime.network.ports import PortMapping

FILTERS = (
    "ancestor", "before", "exited", "health", "id", "is-task", "label", "name", "network", "publish", "since",
    "status", "volume",
)
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSummary:
    """A line of ``ps``. ``ports`` are docker's texts; ``size`` is bytes of its own layer, or ``None``."""

    id: str
    name: str
    image: str
    command: str
    created: float
    status: Status
    started: float
    finished: float
    exit_code: int
    health: str
    ports: tuple[str, ...]
    labels: Mapping[str, str]
    mounts: tuple[str, ...]
    networks: tuple[str, ...]
    size: int | None = None


def summaries(
    engine: Core, *, shows_all: bool = False, filters: Mapping[str, Sequence[str]] | None = None,
    limit: int = 0, has_sizes: bool = False,
) -> tuple[ContainerSummary, ...]:
    """Newest first; without ``shows_all`` those that run. ``limit`` takes the newest, whatever they do."""
    filters = filters or {}
    check_filters(filters, FILTERS, "ps")
    chosen = [seen for seen in containers.everything(engine) if _passes(engine, seen, filters)]
    if limit > 0:
        chosen = chosen[:limit]
    elif not shows_all and not {"status", "exited"} & filters.keys():
        chosen = [seen for seen in chosen if seen.state.is_live]
    return tuple(_summary(engine, seen, has_size=has_sizes) for seen in chosen)


def _summary(engine: Core, seen: Seen, *, has_size: bool) -> ContainerSummary:
    container, state = seen.container, seen.state
    return ContainerSummary(
        id=container.id, name=container.name, image=shown_image(engine, seen),
        command=_command_text(container.argv), created=container.created, status=state.status,
        started=state.started, finished=state.finished, exit_code=state.exit_code,
        health=_health_of(seen), ports=ports(seen), labels=container.labels,
        mounts=tuple(mount["source"] or mount["target"] for mount in container.mounts),
        networks=_networks(seen),
        size=removing.layer_size(engine, container) if has_size else None,
    )


def _command_text(argv: Sequence[str]) -> str:
    """As docker shows it: arguments that have spaces between quotes, and nothing escaped."""
    return " ".join([*argv[:1], *(f"'{word}'" if " " in word else word for word in argv[1:])])


def shown_image(engine: Core, seen: Seen) -> str:
    """The name that was asked for, while it still means that image; else the image's ID."""
    record = engine.store.catalog.with_digest(seen.container.image)
    try:
        asked = Reference.parse(seen.container.image_name).with_default_tag()
    except InvalidReference:
        return seen.container.image_name
    if record is not None and asked.canonical in record.names:
        return seen.container.image_name
    return seen.container.config.short


def ports(seen: Seen) -> tuple[str, ...]:
    """``0.0.0.0:8080->80/tcp`` for what is published, ``80/tcp`` for what is only exposed."""
    if not seen.state.is_live:
        return ()
    mappings = published(seen.state)
    taken = {port.key for port in mappings}
    exposed = seen.container.execution.get("ExposedPorts") or {}
    rest = (port if "/" in port else f"{port}/tcp" for port in exposed if port not in taken)
    return (*map(str, mappings), *rest)


def published(state: ContainerState) -> tuple[PortMapping, ...]:
    documents = state.network.get("ports", ()) if state.is_live else ()
    if not documents:
        return ()
    from lamina.runtime.network.ports import PortMapping

    return tuple(PortMapping(**document) for document in documents)


def _networks(seen: Seen) -> tuple[str, ...]:
    names = [point["network"] for point in seen.state.network.get("endpoints", ()) if point.get("network")]
    return tuple(names) or tuple(seen.container.options.networks) or ("default",)


def _health_of(seen: Seen) -> str:
    return str(seen.state.health.get("status", "")) if seen.state.is_live else ""


# -- filters


def _passes(engine: Core, seen: Seen, filters: Mapping[str, Sequence[str]]) -> bool:
    return all(_passes_one(engine, seen, key, values) for key, values in filters.items())


def _passes_one(engine: Core, seen: Seen, key: str, values: Sequence[str]) -> bool:
    container, state = seen.container, seen.state
    if key == "label":
        return all(has_label(container.labels, value) for value in values)
    if key in ("before", "since"):
        limit = containers.find(engine, values[-1]).container.created
        return container.created < limit if key == "before" else container.created > limit
    if key == "exited":
        return state.status is Status.EXITED and str(state.exit_code) in values
    if key == "status":
        for value in values:
            if value not in (*Status, "dead", "removing"):
                raise InvalidInput(f"--filter status={value}: expected one of {', '.join(Status)}")
        return state.status.value in values
    if key == "ancestor":
        return any(_descends(engine, seen, value) for value in values)
    found: Callable[[str], bool] = {
        "id": container.id.startswith,
        "name": lambda value: value.removeprefix("/") in container.name,
        "health": lambda value: value == (_health_of(seen) or "none"),
        "network": lambda value: value in _networks(seen),
        "volume": lambda value: any(value in (each["source"], each["target"]) for each in container.mounts),
        "publish": lambda value: any(f":{value.partition('/')[0]}->" in text for text in ports(seen)),
        "is-task": lambda value: value == "false",
    }[key]
    return any(found(value) for value in values)


def _descends(engine: Core, seen: Seen, name: str) -> bool:
    """The image itself, or one that was built on it."""
    from lamina.engine import images
    from lamina.engine.lookup import ImageNotFound, find_image

    try:
        record = find_image(engine.store.catalog, name)
    except ImageNotFound:
        return False
    if record.config == seen.container.config:
        return True
    image = images.load_sound(engine, record)
    mine = engine.store.catalog.with_digest(seen.container.image)
    own = images.load_sound(engine, mine) if mine is not None else None
    if image is None or own is None or not image.config.diff_ids:
        return False
    if own.config.diff_ids[: len(image.config.diff_ids)] != image.config.diff_ids:
        return False
    if len(own.config.diff_ids) > len(image.config.diff_ids):
        return True
    # The same layers and another config: built on it, or beside it.
    lines = len(image.config.history)
    return len(own.config.history) > lines and own.config.history[:lines] == image.config.history


# -- inspect


def inspect(engine: Core, name: str) -> dict[str, Any]:
    seen = containers.find(engine, name)
    container, state = seen.container, seen.state
    directory = containers.directory_of(engine, container).path
    argv = container.argv
    return {
        "Id": container.id, "Created": moment(container.created), "Path": argv[0], "Args": list(argv[1:]),
        "State": _state(seen), "Image": container.config,
        "ResolvConfPath": str(directory / "resolv.conf"), "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"), "LogPath": str(directory / "log"),
        "Name": f"/{container.name}", "RestartCount": state.restarts, "Driver": container.driver,
        "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": None,
        "HostConfig": _host_config(seen),
        "GraphDriver": {"Name": container.driver, "Data": {"Snapshot": container.snapshot}},
        "Mounts": [_mount(engine, mount) for mount in container.mounts],
        "Config": _config(seen), "NetworkSettings": _network_settings(seen), "Runtime": state.runtime,
    }


def moment(seconds: float) -> str:
    """RFC 3339, or docker's word for never."""
    if not seconds:
        return _NEVER
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _state(seen: Seen) -> dict[str, Any]:
    state = seen.state
    found: dict[str, Any] = {
        "Status": state.status.value, "Running": state.is_live, "Paused": state.status is Status.PAUSED,
        "Restarting": state.status is Status.RESTARTING, "OOMKilled": state.is_oom_killed, "Dead": False,
        "Pid": state.pid if state.is_live else 0, "ExitCode": state.exit_code, "Error": state.error,
        "StartedAt": moment(state.started), "FinishedAt": moment(state.finished),
    }
    if state.is_unattended:
        found["Unattended"] = True
    if state.health:
        found["Health"] = {
            "Status": state.health["status"], "FailingStreak": state.health["failing_streak"],
            "Log": [
                {"Start": moment(each["start"]), "End": moment(each["end"]), "ExitCode": each["exit_code"],
                 "Output": each["output"]} for each in state.health["probes"]
            ],
        }
    return found


def _host_config(seen: Seen) -> dict[str, Any]:
    from lamina.engine.creating import ports_of
    from lamina.runtime.resources import rlimits

    options = seen.container.options
    name, _, count = options.restart.partition(":")
    limits = limits_of(options)
    memory, cpu = limits.get("memory", {}), limits.get("cpu", {})
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports_of(options, seen.container.execution.get("ExposedPorts") or {}):
        number = str(port.host_port) if port.host_port else ""
        bindings.setdefault(port.key, []).append({"HostIp": port.host_ip, "HostPort": number})
    return {
        "Binds": list(options.volumes) or None, "LogConfig": {
            "Type": options.log_driver,
            "Config": dict(each.partition("=")[::2] for each in options.log_options),
        },
        "NetworkMode": options.networks[0] if options.networks else "default", "PortBindings": bindings,
        "RestartPolicy": {"Name": name, "MaximumRetryCount": int(count or 0)},
        "AutoRemove": options.is_removed_at_exit, "VolumesFrom": list(options.volumes_from) or None,
        "CapAdd": list(options.cap_add) or None, "CapDrop": list(options.cap_drop) or None,
        "Dns": list(options.dns), "DnsOptions": list(options.dns_options),
        "DnsSearch": list(options.dns_search),
        "ExtraHosts": list(options.hosts) or None, "GroupAdd": list(options.groups) or None,
        "IpcMode": options.ipc_mode or "private", "PidMode": options.pid_mode, "UTSMode": options.uts_mode,
        "Privileged": options.is_privileged, "PublishAllPorts": options.publishes_all,
        "ReadonlyRootfs": options.is_read_only, "SecurityOpt": list(options.security) or None,
        "StorageOpt": dict(text.partition("=")[::2] for text in options.storage) or None,
        "ShmSize": options.shm_size or 64 << 20, "Runtime": options.runtime or seen.state.runtime,
        "Init": options.has_init, "Tmpfs": dict(text.partition(":")[::2] for text in options.tmpfs) or None,
        "Memory": memory.get("limit", 0), "MemorySwap": memory.get("swap", 0),
        "MemoryReservation": memory.get("reservation", 0), "OomKillDisable": not options.has_oom_kill,
        "OomScoreAdj": options.oom_score_adj or 0, "NanoCpus": int((options.cpus or 0) * 1_000_000_000),
        "CpuShares": cpu.get("shares", 0), "CpuPeriod": options.cpu_period or 0,
        "CpuQuota": options.cpu_quota or 0, "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems, "PidsLimit": options.pids_limit,
        "Ulimits": [
            {"Name": each["type"][7:].lower(), "Soft": each["soft"], "Hard": each["hard"]}
            for each in rlimits(options.ulimits)
        ],
        "Sysctls": dict(text.partition("=")[::2] for text in options.sysctls),
    }


def _mount(engine: Core, mount: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "Type": mount["kind"], "Source": mount["source"], "Destination": mount["target"], "Mode": "",
        "RW": not mount["is_read_only"],
        "Propagation": mount["propagation"] if mount["kind"] == "bind" else "",
    }
    if mount["kind"] == "volume":
        from lamina.runtime.volumes import VolumeStore

        data = VolumeStore(engine.root).data(mount["source"])
        return {**found, "Name": mount["source"], "Driver": "local", "Source": str(data)}
    return found


def _config(seen: Seen) -> dict[str, Any]:
    options, execution = seen.container.options, seen.container.execution
    found = {
        "Hostname": options.hostname or seen.container.id[:12], "Domainname": options.domainname,
        "User": execution.get("User", ""), "AttachStdin": False, "AttachStdout": True, "AttachStderr": True,
        "Tty": options.has_terminal, "OpenStdin": options.is_interactive, "StdinOnce": options.is_interactive,
        "Env": execution.get("Env"), "Cmd": execution.get("Cmd"), "Image": seen.container.image_name,
        "Volumes": execution.get("Volumes"), "WorkingDir": execution.get("WorkingDir", ""),
        "Entrypoint": execution.get("Entrypoint"), "Labels": dict(seen.container.labels),
    }
    for name in ("ExposedPorts", "Healthcheck", "Shell", "StopSignal", "OnBuild"):
        if execution.get(name):
            found[name] = execution[name]
    if options.stop_timeout is not None:
        found["StopTimeout"] = options.stop_timeout
    return found


def _network_settings(seen: Seen) -> dict[str, Any]:
    network = seen.state.network if seen.state.is_live else {}
    bound: dict[str, Any] = {}
    for port in published(seen.state):
        bound.setdefault(port.key, []).append({"HostIp": port.address, "HostPort": str(port.host_port)})
    for exposed in seen.container.execution.get("ExposedPorts") or {} if seen.state.is_live else ():
        bound.setdefault(exposed if "/" in exposed else f"{exposed}/tcp", None)
    points = {
        point["network"]: {
            "NetworkID": point["network_id"], "IPAddress": point["ip"], "IPPrefixLen": point["prefix"],
            "Gateway": point["gateway"], "GlobalIPv6Address": point["ip6"],
            "GlobalIPv6PrefixLen": point["prefix6"], "IPv6Gateway": point["gateway6"],
            "MacAddress": point["mac"], "Aliases": list(point["aliases"]) or None,
        }
        for point in network.get("endpoints", ())
    }
    first = next(iter(points.values()), {})
    return {
        "Ports": bound, "IPAddress": first.get("IPAddress", ""), "Gateway": first.get("Gateway", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0), "MacAddress": first.get("MacAddress", ""),
        "Networks": points,
    }


# -- processes and usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One line of ``top``; ``seconds`` is CPU time. Pids are the host's."""

    user: str
    pid: int
    parent: int
    started: float
    terminal: str
    seconds: float
    command: str


def top(engine: Core, name: str) -> tuple[Process, ...]:
    seen = containers.find(engine, name)
    if not seen.state.is_live or not seen.state.pid:
        raise ContainerNotRunning(f"{name}: not running")
    return tuple(_processes(pids_of(seen)))


def pids_of(seen: Seen) -> list[int]:
    """Of the group, where there is one; else those of the first process' pid namespace."""
    import os

    group = containers.find_group(seen.state)
    if group is not None:
        return group.pids()
    wanted = os.stat(f"/proc/{seen.state.pid}/ns/pid").st_ino
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == wanted:
                    found.append(int(entry))
            except OSError:
                continue
    return sorted(found)


def _processes(pids: Sequence[int]) -> Iterator[Process]:
    import os
    import pwd
    import time

    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime", encoding="ascii") as file:
        booted = time.time() - float(file.read().split()[0])
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                text = file.read()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue
        name = text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "replace")
        fields = text[text.rindex(b")") + 2 :].split()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        yield Process(
            user=user, pid=pid, parent=int(fields[1]), started=booted + int(fields[19]) / ticks,
            terminal=_terminal_name(int(fields[4])), seconds=(int(fields[11]) + int(fields[12])) / ticks,
            command=words or f"[{name}]",
        )


def _terminal_name(number: int) -> str:
    import os

    major = os.major(number)
    return f"pts/{(major - 136) * 256 + os.minor(number)}" if 136 <= major <= 143 else "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUsage:
    """``cpu`` is per cent of one CPU since the measurement before; bytes elsewhere."""

    id: str
    name: str
    cpu: float
    memory: int
    memory_limit: int
    network_received: int
    network_sent: int
    block_read: int
    block_written: int
    pids: int


class UsageMeter:
    """Measures one container again and again; the first time says nothing of the CPU."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._group = containers.group_of(seen.state, seen.container.name)
        self._before: tuple[int, int] | None = None

    @property
    def is_running(self) -> bool:
        return self._seen.state.is_process_alive

    def measure(self) -> ContainerUsage:
        stats = self._group.stats()
        cpu = 0.0
        if self._before is not None:
            used, passed = stats.cpu_ns - self._before[0], stats.system_cpu_ns - self._before[1]
            cpu = 100.0 * stats.online_cpus * used / passed if passed > 0 else 0.0
        self._before = (stats.cpu_ns, stats.system_cpu_ns)
        received, sent = _traffic(self._seen.state.pid)
        return ContainerUsage(
            id=self._seen.container.id, name=self._seen.container.name, cpu=max(0.0, cpu),
            memory=stats.memory_bytes, memory_limit=stats.memory_limit or _all_memory(),
            network_received=received, network_sent=sent, block_read=stats.block_read,
            block_written=stats.block_write, pids=stats.pids,
        )


def usage_meters(engine: Core, names: Sequence[str]) -> list[UsageMeter]:
    """Those that run; naming one that does not is an error."""
    if not names:
        return [UsageMeter(seen) for seen in containers.everything(engine) if seen.state.is_live]
    chosen = [containers.find(engine, name) for name in names]
    for seen in chosen:
        if not seen.state.is_live:
            raise ContainerNotRunning(f"{seen.container.name}: not running, so it uses nothing")
    return [UsageMeter(seen) for seen in chosen]


def _traffic(pid: int) -> tuple[int, int]:
    """Bytes received and sent, without the loopback's (proc(5), net/dev)."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            fields = numbers.split()
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def _all_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        return int(file.readline().split()[1]) * 1024
