"""docker's flags for a new container, and the value that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from lamina.cli.arguments import UsageError
from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.runtime.options import ContainerOptions

_PROCESSORS = r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}"
_BYTES = r"(?i)(-?[0-9]{1,15}(?:\.[0-9]+)?)\s*([bkmgt]?)(?:i?b)?"


def add_run_arguments(parser: VerbParser) -> None:
    _add_process(parser)
    _add_identity(parser)
    _add_files(parser)
    _add_network(parser)
    _add_rights(parser)
    add_limits(parser)
    _add_health(parser)


def add_command(parser: VerbParser) -> None:
    """How a command runs, as its container's first or one more."""
    parser.flag("-i", "--interactive", about="keep the command's input open, and pass input on")
    parser.flag("-t", "--tty", about="give the command a terminal")
    parser.values("-e", "--env", metavar="NAME=VALUE", about="a variable; NAME alone takes yours")
    parser.values("--env-file", metavar="FILE", about="environment variables, one a line")
    parser.value("-w", "--workdir", metavar="DIR", default="", about="where the command works")
    parser.value("-u", "--user", metavar="USER[:GROUP]", default="", about="names or numbers")


def _add_process(parser: VerbParser) -> None:
    add_command(parser)
    parser.values("--group-add", metavar="GROUP", about="one more group")
    parser.value("--entrypoint", metavar="COMMAND", default=None,
                 about="instead of the image's; empty for none")
    parser.flag("--init", about="a first process that reaps children and passes signals on")
    parser.value("--stop-signal", metavar="SIGNAL", default="", about="what `stop` sends (SIGTERM)")
    parser.value("--stop-timeout", metavar="SECONDS", type=int, default=None,
                 about="how long `stop` waits before SIGKILL (10)")


def _add_identity(parser: VerbParser) -> None:
    parser.value("--name", metavar="NAME", default="", about="a name for the container")
    parser.value("-h", "--hostname", metavar="NAME", default="", about="its host name (the ID's beginning)")
    parser.value("--domainname", metavar="NAME", default="", about="its domain")
    parser.values("-l", "--label", metavar="KEY=VALUE", about="a label")
    parser.values("--label-file", metavar="FILE", about="labels, one a line")
    parser.flag("--rm", about="remove the container when it ends")
    parser.value("--restart", metavar="POLICY", default="no",
                 about="no, always, unless-stopped, on-failure[:N]: start it again when it ends")
    parser.value("--runtime", metavar="NAME", default="", about="runc, crun, embedded, or a path")
    parser.value("--log-driver", metavar="NAME", default="json-file", about="json-file or none")
    parser.values("--log-opt", metavar="KEY=VALUE", about="max-size=10m, max-file=3")
    parser.value("--cidfile", metavar="FILE", default="", about="write the container's ID there")
    parser.value("--pull", metavar="WHEN", default="missing", choices=("missing", "always", "never"),
                 about="missing, always, never")
    parser.value("--platform", metavar="OS/ARCH", default="", about="instead of this machine's")


def _add_files(parser: VerbParser) -> None:
    parser.values("-v", "--volume", metavar="[SOURCE:]TARGET[:OPTIONS]",
                  about="a volume, or a host directory")
    parser.values("--volumes-from", metavar="CONTAINER", about="the volumes of another container")
    parser.values("--mount", metavar="KEY=VALUE,...", about="type=bind|volume|tmpfs,source=...,target=...")
    parser.values("--tmpfs", metavar="TARGET[:OPTIONS]", about="a directory in memory")
    parser.values("--device", metavar="HOST[:CONTAINER][:RWM]", about="a device of the host's")
    parser.flag("--read-only", about="the image's files cannot be written to")
    parser.value("--shm-size", metavar="SIZE", default=None, about="of /dev/shm (64m)")
    parser.add_argument("--storage-opt", dest="storage", metavar="KEY=VALUE", action="append", default=[],
                        help="size=10G: at most this much of what it writes to the image's files")


def _add_network(parser: VerbParser) -> None:
    parser.values("--network", "--net", metavar="NETWORK",
                  about="none, host, bridge, container:NAME, or a network's name")
    parser.values("--network-alias", metavar="NAME", about="one more name in its networks")
    parser.values("-p", "--publish", metavar="[IP:][HOST:]PORT[/PROTOCOL]",
                  about="make a port reachable from the host")
    parser.flag("-P", "--publish-all", about="publish every port that the image exposes")
    parser.values("--expose", metavar="PORT", about="a port that the container listens on")
    parser.values("--add-host", metavar="NAME:IP", about="a line of /etc/hosts")
    parser.values("--dns", metavar="IP", about="a name server")
    parser.values("--dns-search", metavar="DOMAIN", about="a domain to search")
    parser.values("--dns-option", metavar="OPTION", about="an option of resolv.conf(5)")
    parser.value("--ip", metavar="IP", default="", about="an address in the network")
    parser.value("--mac-address", metavar="MAC", default="", about="a hardware address")


def _add_rights(parser: VerbParser) -> None:
    parser.values("--cap-add", metavar="NAME", about="one more capability, or ALL")
    parser.values("--cap-drop", metavar="NAME", about="one capability less, or ALL")
    parser.values("--security-opt", metavar="OPTION",
                  about="no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined")
    parser.flag("--privileged", about="all capabilities and devices, and nothing is hidden: no protection")
    parser.value("--pid", metavar="MODE", default="", about="host, or container:NAME")
    parser.value("--ipc", metavar="MODE", default="", about="host, private, or container:NAME")
    parser.value("--uts", metavar="MODE", default="", about="host")
    parser.value("--cgroupns", metavar="MODE", default="", about="host, private")
    parser.values("--sysctl", metavar="NAME=VALUE", about="a kernel setting of its namespaces")


def add_limits(parser: VerbParser) -> None:
    """Those that ``update`` can change too, and a few more."""
    parser.value("-m", "--memory", metavar="SIZE", default=None, about="at most this much memory")
    parser.value("--memory-swap", metavar="SIZE", default=None,
                 about="memory and swap together; -1 for no limit")
    parser.value("--memory-reservation", metavar="SIZE", default=None, about="a soft limit")
    parser.value("--cpus", metavar="NUMBER", default=None, about="at most this many CPUs")
    parser.value("-c", "--cpu-shares", metavar="NUMBER", type=int, default=None, about="a weight (1024)")
    parser.value("--cpu-period", metavar="MICROSECONDS", type=int, default=None, about="of the CPU's quota")
    parser.value("--cpu-quota", metavar="MICROSECONDS", type=int, default=None, about="in each period")
    parser.value("--cpuset-cpus", metavar="LIST", default="", about="such as 0-2,4")
    parser.value("--cpuset-mems", metavar="LIST", default="", about="memory nodes")
    parser.value("--pids-limit", metavar="NUMBER", type=int, default=None,
                 about="at most this many processes")
    parser.values("--ulimit", metavar="NAME=SOFT[:HARD]", about="such as nofile=1024:2048")
    parser.value("--oom-score-adj", metavar="NUMBER", type=int, default=None, about="-1000 to 1000")
    parser.flag("--oom-kill-disable", about="do not kill its processes for want of memory")


def _add_health(parser: VerbParser) -> None:
    parser.value("--health-cmd", metavar="COMMAND", default="",
                 about="a command that says whether it is well")
    parser.value("--health-interval", metavar="TIME", default=None, about="between two checks (30s)")
    parser.value("--health-timeout", metavar="TIME", default=None, about="for one check (30s)")
    parser.value("--health-start-period", metavar="TIME", default=None,
                 about="in which failures do not count")
    parser.value("--health-start-interval", metavar="TIME", default=None,
                 about="between checks meanwhile (5s)")
    parser.value("--health-retries", metavar="NUMBER", type=int, default=None,
                 about="failures until unhealthy (3)")
    parser.flag("--no-healthcheck", about="do not run the image's check")


def _settled_volumes(texts: Sequence[str], here: str) -> tuple[str, ...]:
    if not texts:
        return ()
    from lamina.runtime.volume import settle_volume

    return tuple(settle_volume(text, here) for text in texts)


def _settled_mounts(texts: Sequence[str], here: str) -> tuple[str, ...]:
    if not texts:
        return ()
    from lamina.runtime.mountflag import settle_mount

    return tuple(settle_mount(text, here) for text in texts)


def read_options(arguments: Arguments, environ: Mapping[str, str]) -> ContainerOptions:
    from lamina.runtime.options import ContainerOptions

    here = os.getcwd()
    environment = [line for file in arguments.env_file for line in read_lines(file, "--env-file", environ)]
    environment += [line for text in arguments.env for line in read_variable(text, environ)]
    labels = [line for file in arguments.label_file for line in read_lines(file, "--label-file", {})]
    return ContainerOptions(
        command=tuple(arguments.command),
        entrypoint=None if arguments.entrypoint is None else (arguments.entrypoint,),
        environment=tuple(environment), user=arguments.user, groups=tuple(arguments.group_add),
        working_directory=arguments.workdir, is_interactive=arguments.interactive,
        has_terminal=arguments.tty, has_init=arguments.init, stop_signal=arguments.stop_signal,
        stop_timeout=arguments.stop_timeout, hostname=arguments.hostname, domainname=arguments.domainname,
        labels=(*labels, *arguments.label), is_removed_at_exit=arguments.rm, restart=arguments.restart,
        runtime=arguments.runtime, log_driver=arguments.log_driver, log_options=tuple(arguments.log_opt),
        volumes=_settled_volumes(arguments.volume, here),
        volumes_from=tuple(arguments.volumes_from),
        mounts=_settled_mounts(arguments.mount, here),
        tmpfs=tuple(arguments.tmpfs), devices=tuple(arguments.device), is_read_only=arguments.read_only,
        shm_size=read_bytes(arguments.shm_size, "--shm-size"), storage=tuple(arguments.storage),
        networks=tuple(arguments.network), network_aliases=tuple(arguments.network_alias),
        publish=tuple(arguments.publish),
        publishes_all=arguments.publish_all, expose=tuple(arguments.expose), hosts=tuple(arguments.add_host),
        dns=tuple(arguments.dns), dns_search=tuple(arguments.dns_search),
        dns_options=tuple(arguments.dns_option), ip=arguments.ip, mac_address=arguments.mac_address,
        cap_add=tuple(arguments.cap_add), cap_drop=tuple(arguments.cap_drop),
        security=tuple(_absolute_profile(text) for text in arguments.security_opt),
        is_privileged=arguments.privileged, pid_mode=arguments.pid, ipc_mode=arguments.ipc,
        uts_mode=arguments.uts, cgroupns_mode=arguments.cgroupns, sysctls=tuple(arguments.sysctl),
        has_health_check=not arguments.no_healthcheck, health_command=arguments.health_cmd,
        health_interval=read_time(arguments.health_interval, "--health-interval"),
        health_timeout=read_time(arguments.health_timeout, "--health-timeout"),
        health_start_period=read_time(arguments.health_start_period, "--health-start-period"),
        health_start_interval=read_time(arguments.health_start_interval, "--health-start-interval"),
        health_retries=arguments.health_retries, **read_limits(arguments),
    )


def read_limits(arguments: Arguments) -> dict[str, Any]:
    """By the names of ``ContainerOptions``."""
    return {
        "memory": read_bytes(arguments.memory, "--memory"),
        "memory_swap": read_bytes(arguments.memory_swap, "--memory-swap"),
        "memory_reservation": read_bytes(arguments.memory_reservation, "--memory-reservation"),
        "cpus": read_processors(arguments.cpus, "--cpus"), "cpu_shares": arguments.cpu_shares,
        "cpu_period": arguments.cpu_period, "cpu_quota": arguments.cpu_quota,
        "cpuset_cpus": arguments.cpuset_cpus, "cpuset_mems": arguments.cpuset_mems,
        "pids_limit": arguments.pids_limit,
        "ulimits": tuple(arguments.ulimit), "oom_score_adj": arguments.oom_score_adj,
        "has_oom_kill": not arguments.oom_kill_disable,
    }


def read_bytes(text: str | None, option: str) -> int | None:
    """``512m``, ``1.5g``, ``1048576``: docker counts memory in 1,024s."""
    if text is None:
        return None
    found = re.fullmatch(_BYTES, text.strip())
    if found is None or (found[1].startswith("-") and text.strip() != "-1"):
        raise UsageError(f"{option}: expected a size such as 512m or 1g, got {text!r}")
    return int(float(found[1]) * 1024 ** "bkmgt".index(found[2].lower() or "b"))


def read_processors(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    if re.fullmatch(_PROCESSORS, text.strip()) is None:
        raise UsageError(f"{option}: expected a number of processors such as 1.5, got {text!r}")
    return float(text)


def read_time(text: str | None, option: str) -> float | None:
    """``1m30s``, ``500ms``, as Go spells a duration; a plain number is seconds."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 16:
        return float(text)
    from lamina.engine.durations import parse_duration

    try:
        return parse_duration(text)
    except InvalidInput:
        raise UsageError(f"{option}: expected a time such as 30s or 1m30s, got {text!r}") from None


def read_lines(path: str, option: str, environ: Mapping[str, str]) -> Iterable[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UsageError(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    for number, line in enumerate(lines, 1):
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name = text.partition("=")[0]
        if not name or any(letter.isspace() for letter in name):
            raise UsageError(f"{option} {path}, line {number}: expected NAME=VALUE, got {text[:40]!r}")
        if option != "--env-file" or "=" in text:
            yield text
        elif text in environ:  # a name alone that is not set here says nothing, unlike with --env
            yield f"{text}={environ[text]}"


def read_variable(text: str, environ: Mapping[str, str]) -> Iterable[str]:
    name, equals, _ = text.partition("=")
    if not name:
        raise UsageError(f"--env: expected NAME=VALUE or NAME, got {text!r}")
    if equals:
        return (text,)
    # A name that is not set here takes the image's variable away, as with docker.
    return (f"{name}={environ[name]}" if name in environ else name,)


def _absolute_profile(text: str) -> str:
    name, equals, value = text.partition("=")
    if name == "seccomp" and equals and value not in ("unconfined", "default", "builtin", ""):
        return f"{name}={os.path.abspath(value)}"
    return text
