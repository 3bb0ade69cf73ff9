"""Starting containers: what the monitor must know is gathered here, and then the monitor is on its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.engine.creating import network_modes, ports_of
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.capabilities import chosen
from lamina.runtime.container import (
    PATIENCE,
    Container,
    ContainerDirectory,
    ContainerNotFound,
    ContainerNotRunning,
    ContainerRunning,
    insist_private,
    observe,
)
from lamina.runtime.launch import is_single_threaded, launch
from lamina.runtime.plan import Plan
from lamina.runtime.records import ContainerTable
from lamina.runtime.resources import limits_of
from lamina.runtime.security import parse_security
from lamina.snapshot.snapshotter import Mount, SnapshotNotFound, Snapshotter
from lamina.values import dataclass

if TYPE_CHECKING:
    import socket

    from lamina.engine.core import Core
    from lamina.snapshot.namespace import Identity

_INIT_PROGRAMS = ("docker-init", "catatonit", "tini-static", "tini")
_GROUP = "lamina"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """``notes`` are for the user: what was asked for and could not be had."""

    container: Container
    pid: int
    notes: tuple[str, ...] = ()


def start(
    engine: Core, container: Container, *, client: socket.socket | None = None,
    console: tuple[int, int] | None = None,
) -> Started:
    """Returns when the container's command runs. ``client`` is attached before that.

    Raises ``ContainerRunning``, ``RuntimeFailed``, ``CommandNotFound``, ``CommandNotExecutable`` and whatever
    kept its network or its volumes from being there.
    """
    insist_private(engine.root)
    directory = ContainerDirectory(engine.root, container.id)
    lock = _lock(engine, directory, container)
    try:
        container = ContainerTable(engine.store.state).find(container.id)  # moved to another driver, perhaps
        _insist_ended(directory, container)
        plan, notes = plan_of(engine, container, console)
        if is_single_threaded():
            engine.store.state.release()
        pid, more = launch(plan, lock, client)
        return Started(container=container, pid=pid, notes=(*notes, *more))
    finally:
        os.close(lock)


def _lock(engine: Core, directory: ContainerDirectory, container: Container) -> int:
    """Of a container that is there still: whoever held the lock until now may have removed it."""
    try:
        lock = directory.lock(PATIENCE)
    except FileNotFoundError:
        lock = -1
    if lock >= 0 and ContainerTable(engine.store.state).get(container.id) is not None:
        return lock
    if lock >= 0:
        os.close(lock)
        raise ContainerNotFound(f"{container.name}: removed meanwhile")
    raise ContainerNotFound(
        f"{container.name}: its directory is gone, as when `rm` was killed; "
        f"`lamina rm {container.name}` ends that"
    )


def _insist_ended(directory: ContainerDirectory, container: Container) -> None:
    """Nobody attends to it, but that may be so because its monitor was killed. For the holder of the lock."""
    state = directory.read_state()
    if state.is_live and state.is_process_alive:
        raise ContainerRunning(f"{container.name}: running, though its monitor was killed; stop it first")
    if is_begun(directory.path):
        clean_up(directory.path)


def plan_of(
    engine: Core, container: Container, console: tuple[int, int] | None
) -> tuple[Plan, tuple[str, ...]]:
    options = container.options
    driver = engine.driver_named(container.driver)
    identity = driver.identity
    if not identity.may_mount:
        raise Unsupported(no_namespaces())
    security = parse_security(options.security, is_privileged=options.is_privileged)
    network, network_notes = _network(engine, container, identity)
    plan = Plan(
        root=str(engine.root), container=container, identity=identity,
        mounts=_mounts(driver, container),
        runtime=options.runtime or engine.settings.default_runtime,
        shared=_shared(engine, container), network=network,
        volumes=[{"mount": dict(mount)} for mount in container.mounts],
        seccomp=_seccomp(container, security.seccomp), cgroup=_cgroup(container),
        init=_init_program() if options.has_init else "", console=console,
    )
    return plan, (*security.notes, *network_notes, *_limit_notes(plan))


def _mounts(driver: Snapshotter, container: Container) -> tuple[Mount, ...]:
    try:
        return tuple(driver.mounts(container.snapshot))
    except SnapshotNotFound:
        raise NotFound(
            f"{container.name}: its layer is gone, as when `rm` was killed; "
            f"`lamina rm {container.name}` ends that"
        ) from None


def _cgroup(container: Container) -> str:
    """Empty where this user may make no groups; runc then makes none either."""
    from lamina.runtime.cgroup import Cgroups

    return f"{_GROUP}/{container.id}" if Cgroups.detect().hierarchies else ""


def _limit_notes(plan: Plan) -> tuple[str, ...]:
    """As docker and podman do, a limit that this user cannot have is said, and the container runs without."""
    if plan.cgroup or not limits_of(plan.container.options):
        return ()
    from lamina.runtime.cgroup import Cgroups

    reason = next(iter(Cgroups.detect().refusals.values()), "this machine has no control groups")
    return (f"note: limits are not applied: {reason}",)


def no_namespaces() -> str:
    """Why this user cannot run containers here, and what to enable."""
    if os.geteuid() == 0:
        return (
            "containers take mounts, and root lacks CAP_SYS_ADMIN here, as in a container: start that with "
            "--privileged, or with --cap-add SYS_ADMIN and a profile that allows mount and unshare"
        )
    what = namespace_hindrance() or (
        "this system, or the container that this runs in, must allow unshare(CLONE_NEWUSER) and mount"
    )
    return f"containers of an ordinary user need user namespaces, which this system does not give: {what}"


def namespace_hindrance() -> str:
    """The setting that forbids user namespaces, and how to change it; empty if none does."""
    restriction = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    clone = Path("/proc/sys/kernel/unprivileged_userns_clone")
    most = Path("/proc/sys/user/max_user_namespaces")
    if _reads(clone, "0"):
        return "enable them with `sysctl kernel.unprivileged_userns_clone=1`"
    if _reads(restriction, "1"):
        return ("AppArmor forbids them; `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or a "
                "profile for this Python that has the rule `userns,`, allows them")
    if _reads(most, "0"):
        return "enable them with `sysctl user.max_user_namespaces=15000`"
    return ""


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="ascii").strip() == text
    except OSError:
        return False


def _seccomp(container: Container, wanted: str) -> Mapping[str, Any] | None:
    if wanted == "unconfined":
        return None
    from lamina.runtime import seccomp

    options = container.options
    names = chosen(options.cap_add, options.cap_drop, privileged=options.is_privileged)
    machine = os.uname().machine
    if wanted:
        return seccomp.read_profile(wanted, names, machine)
    return seccomp.default_profile(names, machine)


def _network(
    engine: Core, container: Container, identity: Identity
) -> tuple[dict[str, Any], tuple[str, ...]]:
    from lamina.runtime.network.hostfiles import parse_dns
    from lamina.runtime.network.planning import plan_network
    from lamina.runtime.network.programs import find_programs

    options = container.options
    environ = os.environ
    plan = plan_network(
        network_modes(options), root=engine.root, container=container.id, name=container.name,
        programs=find_programs(environ.get("PATH", ""), environ.get("CNI_PATH", "")),
        is_privileged=identity.is_initial, now=engine.clock(),
        ports=ports_of(options, container.execution.get("ExposedPorts") or {}),
        dns=parse_dns(options.dns, options.dns_search, options.dns_options),
        pid_of=lambda name: _pid_of(engine, name),
    )
    return plan.to_json(), plan.notes


def _shared(engine: Core, container: Container) -> dict[str, str]:
    """Namespaces that are the host's, or another container's."""
    options = container.options
    shared: dict[str, str] = {}
    for kind, option, mode in (
        ("pid", "--pid", options.pid_mode), ("ipc", "--ipc", options.ipc_mode),
        ("uts", "--uts", options.uts_mode), ("cgroup", "--cgroupns", options.cgroupns_mode),
    ):
        name, colon, other = mode.partition(":")
        if mode == "host":
            shared[kind] = ""
        elif name == "container" and colon and kind in ("pid", "ipc"):
            shared[kind] = f"/proc/{_pid_of(engine, other)}/ns/{kind}"
        elif mode and mode not in ("private", "shareable"):
            raise InvalidInput(f"{option}: expected host, private or container:NAME, got {mode!r}")
    return shared


def _pid_of(engine: Core, name: str) -> int:
    other = ContainerTable(engine.store.state).find(name)
    state = observe(ContainerDirectory(engine.root, other.id))
    if not state.is_live or not state.pid:
        raise ContainerNotRunning(f"{name}: not running, so it has no namespaces to share")
    return state.pid


def _init_program() -> str:
    """It must run in any image, so it must need no library."""
    import shutil

    for name in _INIT_PROGRAMS:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/libexec/podman:/usr/bin")
        if path is not None and _is_static(path):
            return path
    raise Unsupported("--init: needs a static init program (Debian: apt install catatonit)")


def _is_static(path: str) -> bool:
    """An ELF file without an interpreter (elf(5), PT_INTERP)."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return False
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
    return all(struct.unpack_from("<I", table, size * number)[0] != 3 for number in range(count))
