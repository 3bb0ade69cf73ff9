"""Looking at containers: ps, top, stats, port."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.images import FORMAT_HELP, filters_of
from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_duration, human_size
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.describing import ContainerSummary, ContainerUsage, Process

_PS_HEADINGS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Status": "STATUS", "State": "STATE", "Ports": "PORTS", "Names": "NAMES",
    "Labels": "LABELS", "Mounts": "MOUNTS", "Networks": "NETWORKS", "Size": "SIZE",
    "LocalVolumes": "LOCAL VOLUMES",
}
_PS_SHOWN = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
_COMMAND_WIDTH = 20
_STATS = Listing({
    "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
})
_TOP = Listing({
    "UID": "UID", "PID": "PID", "PPID": "PPID", "C": "C", "STIME": "STIME", "TTY": "TTY", "TIME": "TIME",
    "CMD": "CMD",
})


# -- ps


def _ps_arguments(parser: VerbParser) -> None:
    parser.flag("-a", "--all", about="also those that do not run")
    parser.values(
        "-f", "--filter", metavar="KEY=VALUE",
        about="ancestor, before, exited, health, id, label, name, network, publish, since, status, volume",
    )
    parser.value("-n", "--last", metavar="NUMBER", type=int, default=0, about="the newest, whatever they do")
    parser.flag("-l", "--latest", about="the newest one")
    parser.flag("-q", "--quiet", about="IDs alone")
    parser.flag("-s", "--size", about="bytes of each container's own layer")
    parser.flag("--no-trunc", about="whole IDs and commands")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _ps(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        found = engine.containers(
            shows_all=arguments.all, filters=filters_of(arguments.filter),
            limit=1 if arguments.latest else arguments.last,
            has_sizes=arguments.size or ".Size" in arguments.format,
        )
    now = session.clock()
    if arguments.quiet and not arguments.format:
        for each in found:
            session.print(each.id if arguments.no_trunc else each.id[:12])
        return
    shown = (*_PS_SHOWN, "Size") if arguments.size else _PS_SHOWN
    rows = [container_row(each, now, is_whole=arguments.no_trunc) for each in found]
    show(session, Listing(_PS_HEADINGS, shown), rows, arguments.format)


def container_row(each: ContainerSummary, now: float, *, is_whole: bool) -> Mapping[str, object]:
    command = each.command
    if not is_whole and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    return {
        "ID": each.id if is_whole else each.id[:12], "Image": each.image, "Command": f'"{command}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(each.created)),
        "RunningFor": f"{human_duration(now - each.created)} ago", "Status": status_text(each, now),
        "State": each.status.value, "Ports": ", ".join(each.ports), "Names": each.name,
        "Labels": ",".join(f"{key}={value}" for key, value in each.labels.items()),
        "Mounts": ",".join(each.mounts), "Networks": ",".join(each.networks),
        "LocalVolumes": str(len(each.mounts)),
        "Size": "" if each.size is None else human_size(each.size),
    }


def status_text(each: ContainerSummary, now: float) -> str:
    """Docker's sentence: ``Up 3 minutes (healthy)``, ``Exited (0) 2 hours ago``."""
    state = each.status.value
    if state == "created":
        return "Created"
    if state == "exited":
        return f"Exited ({each.exit_code}) {human_duration(now - each.finished)} ago"
    if state == "restarting":
        return f"Restarting ({each.exit_code}) {human_duration(now - each.finished)} ago"
    note = " (Paused)" if state == "paused" else ""
    if each.health:
        note += " (health: starting)" if each.health == "starting" else f" ({each.health})"
    return f"Up {human_duration(now - each.started)}{note}"


PS = Verb(
    _ps, usage="[OPTIONS]",
    about="Lists containers that run; with --all, every one.",
    arguments=_ps_arguments,
    examples=(
        "lamina ps -a", "lamina ps --filter status=exited -q",
        "lamina ps --format '{{.Names}}: {{.Status}}'",
    ),
)


# -- top


def _top_arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", "one that is running")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _top(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        processes = engine.top(arguments.name)
    now = session.clock()
    show(session, _TOP, [_top_row(each, now) for each in processes], arguments.format)


def _top_row(each: Process, now: float) -> Mapping[str, object]:
    age = now - each.started
    form = "%H:%M" if age < 86400 else "%b%d"
    hours, rest = divmod(int(each.seconds), 3600)
    usage = int(100 * each.seconds / age) if age > 1 else 0
    return {
        "UID": each.user, "PID": str(each.pid), "PPID": str(each.parent), "C": str(usage),
        "STIME": time.strftime(form, time.localtime(each.started)), "TTY": each.terminal,
        "TIME": f"{hours:02}:{rest // 60:02}:{rest % 60:02}", "CMD": each.command,
    }


TOP = Verb(
    _top, usage="[OPTIONS] CONTAINER",
    about="Lists the processes of a container, by their numbers on the host.",
    arguments=_top_arguments, examples=("lamina top web",),
)


# -- stats


def _stats_arguments(parser: VerbParser) -> None:
    parser.positional("names", "CONTAINER", "if none, all that run", nargs="*")
    parser.flag("-a", "--all", about="accepted for docker's sake: only what runs uses anything")
    parser.flag("--no-stream", about="once, and not again and again")
    parser.flag("--no-trunc", about="whole IDs")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _stats(arguments: Arguments, session: Session) -> None:
    from lamina.cli.terminal import is_terminal

    with session.engine() as engine:
        meters = engine.usage_meters(arguments.names)
        if meters:
            for meter in meters:
                meter.measure()
            time.sleep(0.5)
        while True:
            rows = [_stats_row(meter.measure(), is_whole=arguments.no_trunc) for meter in meters]
            if not arguments.no_stream and is_terminal(session.stdout) and not arguments.format:
                session.write("\x1b[H\x1b[2J")
            show(session, _STATS, rows, arguments.format)
            session.flush()
            if arguments.no_stream or not meters:
                return
            time.sleep(1.0)
            meters = [meter for meter in meters if meter.is_running]


def _stats_row(each: ContainerUsage, *, is_whole: bool) -> Mapping[str, object]:
    share = 100 * each.memory / each.memory_limit if each.memory_limit else 0.0
    return {
        "ID": each.id if is_whole else each.id[:12], "Name": each.name, "CPUPerc": f"{each.cpu:.2f}%",
        "MemUsage": f"{binary_size(each.memory)} / {binary_size(each.memory_limit)}",
        "MemPerc": f"{share:.2f}%",
        "NetIO": f"{human_size(each.network_received)} / {human_size(each.network_sent)}",
        "BlockIO": f"{human_size(each.block_read)} / {human_size(each.block_written)}",
        "PIDs": str(each.pids),
    }


def binary_size(size: float) -> str:
    """Memory in 1,024s with four digits, as docker shows it: ``1.945GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.4g}{unit}"


STATS = Verb(
    _stats, usage="[OPTIONS] [CONTAINER...]",
    about="Shows what running containers use of the machine, again every second.",
    arguments=_stats_arguments, examples=("lamina stats", "lamina stats --no-stream --format json web"),
)


# -- port


def _port_arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", "one that is running")
    parser.positional("port", "PORT[/PROTOCOL]", "only this one", nargs="?")


def _port(arguments: Arguments, session: Session) -> int:
    from lamina.engine.describing import published

    with session.engine() as engine:
        found = published(engine.container(arguments.name).state)
    wanted = arguments.port or ""
    if wanted and "/" not in wanted:
        wanted = f"{wanted}/tcp"
    chosen = [port for port in found if wanted in ("", port.key)]
    lines = [port.host if wanted else f"{port.key} -> {port.host}" for port in chosen]
    if wanted and not lines:
        session.complain(f"{arguments.name}: {wanted} is not published")
        return 1
    for line in lines:
        session.print(visible(line))
    return 0


PORT = Verb(
    _port, usage="CONTAINER [PORT[/PROTOCOL]]", about="Shows where a container's ports are published.",
    arguments=_port_arguments, examples=("lamina port web", "lamina port web 80"),
)
