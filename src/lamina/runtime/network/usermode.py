"""Networks without privilege: pasta or slirp4netns, one process beside each container."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lamina.content.lease import process_start
from lamina.runtime import socketfile
from lamina.runtime.network import programs
from lamina.runtime.network.claims import PortInUse
from lamina.runtime.network.hostfiles import host_resolv, parse_resolv, usable
from lamina.runtime.network.ports import PortMapping
from lamina.runtime.network.programs import NetworkFailed
from lamina.runtime.network.values import Endpoint, NetworkPlan
from lamina.snapshot import syscalls

# slirp4netns's own defaults, and given to pasta too: with an address of its own the container can reach the
# host by the host's. (pasta left alone gives it the host's address, behind which the host is hidden.)
ADDRESS, PREFIX, GATEWAY = "10.0.2.100", 24, "10.0.2.2"
_SLIRP_RESOLVER = "10.0.2.3"
_PASTA_RESOLVER = "169.254.1.1"
_SOCKET = "slirp.sock"
_PID_FILE = "pasta.pid"
_NAMESPACE_FILE = "netns"
_MTU = "65520"
_START_SECONDS = 10.0
_END_SECONDS = 2.0


def endpoint(plan: NetworkPlan) -> Endpoint:
    return Endpoint(network=plan.engine, ip=ADDRESS, prefix=PREFIX, gateway=GATEWAY)


def start(
    plan: NetworkPlan, ports: Sequence[PortMapping], namespace: int, directory: Path
) -> tuple[tuple[str, ...], int, int]:
    """(resolvers, pid, descriptor to hold or -1). Raises :class:`NetworkFailed`, :class:`PortInUse`."""
    (directory / _NAMESPACE_FILE).touch(mode=0o600)
    if plan.engine == "pasta":
        return _start_pasta(plan, ports, namespace, directory)
    return _start_slirp(plan, ports, namespace, directory)


def stop(directory: Path, pid: int, started: int) -> None:
    """Ends what :func:`start` began: known by its pid and start, or by what its command line says."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        if not pid:
            pid = int((directory / _PID_FILE).read_text(encoding="ascii"))
            started = (process_start(pid) or 0) if _names(pid, directory / _PID_FILE) else 0
    if pid and started and process_start(pid) == started:
        _end(pid, started)
    for name in (_PID_FILE, _NAMESPACE_FILE, _SOCKET):
        (directory / name).unlink(missing_ok=True)


def host_address() -> str:
    """The one of the host's addresses that it speaks to the world from, or ``""``. Nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.254", 9))  # TEST-NET-1: RFC 5737
        return str(probe.getsockname()[0])
    return ""


# -- pasta


def _start_pasta(
    plan: NetworkPlan, ports: Sequence[PortMapping], namespace: int, directory: Path
) -> tuple[tuple[str, ...], int, int]:
    """It goes to the background when all is ready, after it has written its pid."""
    pid_file = directory / _PID_FILE
    pid_file.unlink(missing_ok=True)
    mac = plan.attachments[0].mac if plan.attachments else ""
    command = [
        plan.program, "--quiet", "--config-net", "--ns-ifname", "eth0", "--no-map-gw",
        "--address", ADDRESS, "--netmask", "255.255.255.0", "--gateway", GATEWAY,
        "--tcp-ports", _forwards(ports, "tcp"), "--udp-ports", _forwards(ports, "udp"),
        "--tcp-ns", "none", "--udp-ns", "none", "--dns-forward", _PASTA_RESOLVER,
        *(["--ns-mac-addr", mac] if mac else []),
        "--pid", str(pid_file), "--netns", str(directory / _NAMESPACE_FILE),
    ]
    outcome = programs.run(
        command, environ={"PATH": plan.path}, prepare=_bound_namespace(namespace, directory)
    )
    if outcome.code != 0 or not pid_file.exists():
        raise _failure(plan, outcome.errors or f"exit code {outcome.code}")
    return _resolvers(plan, _PASTA_RESOLVER), int(pid_file.read_text(encoding="ascii")), -1


def _forwards(ports: Sequence[PortMapping], protocol: str) -> str:
    # A text of pasta's: [ADDRESS/]PORT:PORT, separated by commas.
    texts = [
        f"{port.host_ip}/{port.host_port}:{port.container_port}" if port.host_ip
        else f"{port.host_port}:{port.container_port}"
        for port in ports if port.protocol == protocol
    ]
    return ",".join(texts) or "none"


# -- slirp4netns


def _start_slirp(
    plan: NetworkPlan, ports: Sequence[PortMapping], namespace: int, directory: Path
) -> tuple[tuple[str, ...], int, int]:
    """It ends when the descriptor is closed, so with the monitor at the latest."""
    ready, tell = os.pipe()
    watched, held = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    errors = os.memfd_create("stderr")
    mac = plan.attachments[0].mac if plan.attachments else ""
    bind = _bound_namespace(namespace, directory)

    def prepare() -> None:
        bind()
        os.chdir(directory)  # a socket's path has no more than 107 bytes: unix(7)

    command = [
        plan.program, "--configure", "--mtu", _MTU, "--disable-host-loopback", "--enable-sandbox",
        "--enable-seccomp", f"--ready-fd={tell}", f"--exit-fd={watched}", f"--api-socket={_SOCKET}",
        *([f"--macaddress={mac}"] if mac else []),
        "--netns-type=path", str(directory / _NAMESPACE_FILE), "eth0",
    ]
    try:
        (directory / _SOCKET).unlink(missing_ok=True)
        pid = programs.spawn(
            command, environ={"PATH": plan.path}, streams=(null, null, errors), keep=(tell, watched),
            prepare=prepare,
        )
        os.close(tell)
        tell = -1
        if not _is_ready(ready):
            os.close(held)
            held = -1
            os.waitpid(pid, 0)
            raise _failure(plan, os.pread(errors, 4096, 0).decode("utf-8", "replace").strip())
    finally:
        for descriptor in (ready, tell, watched, null, errors):
            if descriptor >= 0:
                os.close(descriptor)
    try:
        for port in ports:
            _add_forward(port, directory)
    except BaseException:
        os.close(held)
        os.waitpid(pid, 0)
        raise
    return _resolvers(plan, _SLIRP_RESOLVER), pid, held


def _is_ready(descriptor: int) -> bool:
    import select  # noqa: PLC0415 - beside its only use

    readable, _, _ = select.select([descriptor], [], [], _START_SECONDS)
    return bool(readable) and os.read(descriptor, 1) == b"1"


def _add_forward(port: PortMapping, directory: Path) -> None:
    if port.protocol == "sctp" or port.is_ipv6:
        raise NetworkFailed(f"port {port}: slirp4netns forwards TCP and UDP of IPv4 only; pasta does more")
    request = {"execute": "add_hostfwd", "arguments": {
        "proto": port.protocol, "host_addr": port.host_ip or "0.0.0.0",  # noqa: S104 - what was asked for
        "host_port": port.host_port, "guest_addr": ADDRESS, "guest_port": port.container_port,
    }}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        socketfile.connect(control, directory, _SOCKET)
        control.sendall(json.dumps(request).encode())
        control.shutdown(socket.SHUT_WR)
        answer = json.loads(control.recv(4096) or b"{}")
    if "return" not in answer:
        reason = answer.get("error", {}).get("desc", "")
        raise PortInUse(f"port {port}: slirp4netns could not have it: {reason}")


# -- both


def _bound_namespace(namespace: int, directory: Path) -> Callable[[], None]:
    """Makes the namespace a path that the program can open, in a mount namespace of the program's own.

    It may not open /proc/PID/ns/net of a process with more capabilities than it keeps (ptrace(2), "access
    mode"), and newer ones close the descriptors that they inherit.
    """

    def act() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        target = str(directory / _NAMESPACE_FILE)
        syscalls.mount(f"/proc/self/fd/{namespace}", target, None, syscalls.MS_BIND)

    return act


def _resolvers(plan: NetworkPlan, own: str) -> tuple[str, ...]:
    """The program's own, where the host's are on its loopback alone and so out of reach."""
    return () if plan.dns or usable(parse_resolv(host_resolv())[0], has_ipv6=True) else (own,)


def _failure(plan: NetworkPlan, text: str) -> NetworkFailed:
    name = plan.name or plan.container[:12]
    return NetworkFailed(f"network of {name}: {plan.engine}: {' '.join(text.split())}")


def _names(pid: int, path: Path) -> bool:
    try:
        return os.fsencode(path) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _end(pid: int, started: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        limit = time.monotonic() + _END_SECONDS
        while process_start(pid) == started:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.002)
