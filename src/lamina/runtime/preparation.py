"""What a container needs before its first process: its user, its mounts, its files in /etc, its document.

Done by the monitor, in its own namespaces, with the root filesystem mounted: nothing of the container's runs
yet, and everything in it is a stranger's.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lamina.errors import InvalidInput, NotFound
from lamina.runtime import capabilities
from lamina.runtime.binding import bind_subpath
from lamina.runtime.checks import HealthChecks
from lamina.runtime.container import ContainerState
from lamina.runtime.device import (
    DeviceRequest,
    device_mount,
    device_rule,
    find_devices,
    oci_device,
    parse_device,
)
from lamina.runtime.fileattributes import guarded
from lamina.runtime.health import HealthCheck
from lamina.runtime.network import hostfiles
from lamina.runtime.network.mode import Kind
from lamina.runtime.network.neighbours import neighbours
from lamina.runtime.network.values import Connected, Held, NetworkPlan
from lamina.runtime.plan import Plan
from lamina.runtime.runtime import EMBEDDED, Runtime
from lamina.runtime.security import parse_security
from lamina.runtime.spec import Setting, make_spec
from lamina.runtime.targets import StubKind, insist_directories, make_stub
from lamina.runtime.users import User, find_user, insist_databases, read_database
from lamina.runtime.volume import ContainerMount, MountKind, oci_mount
from lamina.runtime.volumes import VolumeStore, give_to, prepare_volume, volume_mount
from lamina.snapshot.namespace import Ownership

STUBS = "stubs.json"
_FILES = ("resolv.conf", "hostname", "hosts")
_OWN_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")


class Preparation:
    """``prepare`` once, then for each run ``connect`` and ``disconnect``."""

    def __init__(self, plan: Plan, runtime: Runtime) -> None:
        self._plan = plan
        self._container = plan.container
        self._options = plan.container.options
        self._directory = plan.directory.path
        self._runtime = runtime
        self._network = NetworkPlan.from_json(plan.network)
        self._held = Held()
        self._root = -1
        self._user = User()
        self._document: dict[str, Any] = {}
        self._places: list[Path] = []

    def prepare(self) -> None:
        self._root = os.open(self._plan.directory.rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        insist_directories(self._root)
        if self._runtime.name != EMBEDDED:
            insist_databases(self._root)
        self._user = find_user(
            self._container.execution.get("User") or "", read_database(self._root, "etc/passwd"),
            read_database(self._root, "etc/group"), self._options.groups,
        )
        mounts = [*self._etc_mounts(), *self._asked_mounts()]
        setting = self._setting(mounts)
        self._document = make_spec(self._container, setting)
        self._make_targets()
        os.close(self._root)

    @property
    def document(self) -> Mapping[str, Any]:
        """What the runtime is told."""
        return self._document

    # -- the network

    @property
    def hostname(self) -> str:
        if self._options.hostname:
            return self._options.hostname
        if self._network.kind is Kind.HOST or self._options.uts_mode == "host":
            return os.uname().nodename
        return self._container.id[:12]

    def begin_network(self) -> None:
        """A bridge takes a while: it is connected while the runtime sets up everything else."""
        from lamina.runtime.network import ahead  # noqa: PLC0415 - one network a run

        self._ahead = ahead.begin(self._network, self._directory)
        if self._ahead.namespace:
            for namespace in self._document["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = self._ahead.namespace
        if self._plan.is_for_client:
            from lamina.runtime.bringing import keep_document_in_memory  # noqa: PLC0415 - steps of a build

            keep_document_in_memory(self._directory, self._runtime.name)
        _write(self._directory / "config.json", json.dumps(self._document))

    def abandon_network(self) -> None:
        """There is no process that could use it."""
        self._ahead.abandon()

    def connect(self, pid: int) -> dict[str, Any]:
        """After the runtime has made the namespaces; gives what ``inspect`` shows of the network."""
        connected = self._ahead.finish(pid)
        self._held = connected.held
        self._write_etc(connected)
        return connected.to_json()

    def disconnect(self) -> None:
        from lamina.runtime.network.connecting import disconnect  # noqa: PLC0415 - see above

        held, self._held = self._held, Held()
        disconnect(self._directory, held)

    # -- watching

    def health_checks(
        self, state: ContainerState, tell: Callable[[dict[str, Any]], None], statuses: dict[int, int]
    ) -> HealthChecks:
        check = None
        if self._options.has_health_check:
            shell = tuple(self._container.execution.get("Shell") or ("/bin/sh", "-c"))
            check = HealthCheck.from_config(self._container.execution.get("Healthcheck"), shell)
        return HealthChecks(check, self._runtime, self._directory, self._container.id, self._document, state,
                            tell, statuses)

    def is_oom_killed(self) -> bool:
        if not self._plan.cgroup:
            return False
        from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - after a kill only

        return Cgroups.detect().at(self._plan.cgroup.strip("/")).oom_kills() > 0

    # -- the document

    def _setting(self, mounts: list[dict[str, Any]]) -> Setting:
        options, identity = self._options, self._plan.identity
        found = [each for request in self._devices() for each in find_devices(request)]
        is_rooted = identity.is_initial
        return Setting(
            rootfs=str(self._plan.directory.rootfs), user=self._user, hostname=self.hostname,
            domainname=options.domainname, shared=self._shared(),
            mounts=[*([] if is_rooted else [device_mount(request) for request, _ in found]), *mounts],
            devices=[oci_device(request, status) for request, status in found] if is_rooted else [],
            device_rules=[device_rule(request, status) for request, status in found] if is_rooted else [],
            seccomp=guarded(
                self._plan.seccomp, self._root, is_privileged=options.is_privileged,
                is_compiled_here=self._runtime.name == EMBEDDED,
            ),
            security=parse_security(options.security, is_privileged=options.is_privileged),
            cgroup=self._cgroup_path(), has_cgroup2=_has_cgroup2(),
            is_user_namespace=not identity.is_initial,
            has_single_id=self._has_single_id, owned=capabilities.own(),
            init=self._plan.init,
        )

    def _cgroup_path(self) -> str:
        if not self._plan.cgroup:
            return ""
        from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - 40 ms, and not for users without groups

        return Cgroups.detect().spec_path(self._plan.cgroup)

    def _devices(self) -> list[DeviceRequest]:
        asked = [parse_device(text) for text in self._options.devices]
        if self._options.is_privileged and self._plan.identity.is_initial:
            # All of the machine's, but for what a container has of its own.
            asked += [
                DeviceRequest(source=entry.path, target=entry.path)
                for entry in sorted(os.scandir("/dev"), key=lambda each: each.name)
                if entry.name not in _OWN_DEVICES
                and stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
            ]
        return asked

    def _shared(self) -> dict[str, str]:
        shared = dict(self._plan.shared)
        if not self._network.needs_namespace:
            shared["network"] = f"/proc/{self._network.join}/ns/net" if self._network.join else ""
        return shared

    # -- mounts

    def _etc_mounts(self) -> list[dict[str, Any]]:
        """Made empty, so that they can be mounted, and filled when the network is known."""
        taken = {ContainerMount.from_json(each["mount"]).target for each in self._plan.volumes}
        access = ["ro"] if self._options.is_read_only else []
        found = []
        for name in _FILES:
            target = f"/etc/{name}"
            path = self._directory / name
            _write(path, "")
            if target not in taken:
                found.append({
                    "destination": target, "type": "bind", "source": str(path),
                    "options": ["rbind", "rprivate", *access],
                })
        return found

    def _write_etc(self, connected: Connected) -> None:
        """In place: what is mounted is the file, not its name."""
        name, domain = self.hostname, self._options.domainname
        names = hostfiles.own_names(name, domain)
        extra = [hostfiles.parse_add_host(text) for text in self._options.hosts]
        is_hosts_own = self._network.kind is Kind.HOST
        dns = hostfiles.parse_dns(self._options.dns, self._options.dns_search, self._options.dns_options)
        base = _read("/etc/hosts") if is_hosts_own else ""
        is_bridged = bool(self._network.attachments) and self._network.kind in (Kind.DEFAULT, Kind.NAMED)
        needs_others = is_bridged and not connected.resolvers
        others = neighbours(self._network, connected.endpoints) if needs_others else ()
        texts = {
            "hostname": f"{name}\n",
            "hosts": hostfiles.hosts_text(
                own=[*((address, names) for address in connected.addresses), *others], extra=extra,
                host_gateway=connected.host_gateway, base=base,
            ),
            "resolv.conf": hostfiles.resolv_text(
                hostfiles.host_resolv(), dns, resolvers=connected.resolvers, sees_loopback=is_hosts_own,
                has_ipv6=connected.has_ipv6,
            ),
        }
        for file, text in texts.items():
            _write(self._directory / file, text)

    @property
    def _has_single_id(self) -> bool:
        return self._plan.identity.ownership is Ownership.SINGLE

    def _asked_mounts(self) -> list[dict[str, Any]]:
        return [
            self._asked_mount(ContainerMount.from_json(each["mount"]), each) for each in self._plan.volumes
        ]

    def _asked_mount(self, mount: ContainerMount, asked: Mapping[str, Any]) -> dict[str, Any]:
        if mount.kind is MountKind.TMPFS:
            return oci_mount(mount)
        if mount.kind in (MountKind.IMAGE, MountKind.FILE):
            from lamina.runtime.bringing import bring_file, bring_layers  # noqa: PLC0415 - steps of a build

            if mount.kind is MountKind.IMAGE:
                return _bound(mount, str(bring_layers(self._directory, mount, asked)))
            place = bring_file(self._directory, asked, has_single_id=self._has_single_id)
            return _bound(mount, str(place))
        if mount.kind is MountKind.BIND:
            if "owner" in asked:
                from lamina.runtime.bringing import dress  # noqa: PLC0415 - as above

                dress(Path(mount.source), asked, has_single_id=self._has_single_id)
            if mount.creates_source and not os.path.lexists(mount.source):
                Path(mount.source).mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(mount.source):
                raise NotFound(
                    f"{mount.source}: no such file or directory on the host, to mount on {mount.target}"
                )
            if mount.chowns:
                give_to(Path(mount.source), self._user.uid, self._user.gid)
            return _bound(mount, mount.source)
        store = VolumeStore(Path(self._plan.root))
        volume = store.get(mount.source)
        if mount.copies_up and not volume.options:
            prepare_volume(store.directory / mount.source, self._root, mount.target)
        data = store.data(mount.source)
        if mount.subpath:
            # Mounted here first, by descriptors: what is in a volume, its containers may change at any time.
            place = self._directory / f"subpath-{len(self._places)}"
            bind_subpath(data, mount.subpath, place)
            self._places.append(place)
            data = place
        if mount.chowns:
            give_to(data, self._user.uid, self._user.gid)
        return volume_mount(mount, volume, data)

    def _make_targets(self) -> None:
        """Every place that is mounted on is there before the runtime looks for it; what we made is noted."""
        stubs: dict[str, str] = self._known_stubs()
        on_top: list[str] = []
        for mount in self._document["mounts"]:
            destination = mount["destination"]
            if not any(destination.startswith(f"{above}/") for above in on_top):
                kind = _stub_kind(mount)
                for path in make_stub(self._root, destination, kind, _stub_mode(mount)):
                    stubs[path] = (kind if path == _real(path, destination) else StubKind.DIRECTORY).value
            on_top.append(destination)
        for path in self._made_directories(stubs):
            stubs[path] = StubKind.DIRECTORY.value
        _write(self._directory / STUBS, json.dumps(stubs))
        cwd = self._document["process"]["cwd"]
        if not cwd.startswith("/"):
            raise InvalidInput(f"{cwd!r}: a working directory is an absolute path")
        if not any(cwd == above or cwd.startswith(f"{above}/") for above in on_top):
            make_stub(self._root, cwd, StubKind.DIRECTORY)

    def _made_directories(self, stubs: Mapping[str, str]) -> list[str]:
        """What leads to a stub that we made is a directory, whatever the stub is."""
        return [path for path in stubs if any(other.startswith(f"{path}/") for other in stubs)]

    def _known_stubs(self) -> dict[str, str]:
        """Those of earlier runs are still stubs."""
        try:
            found: dict[str, str] = json.loads((self._directory / STUBS).read_bytes())
        except FileNotFoundError:
            return {}
        return found


def _bound(mount: ContainerMount, source: str) -> dict[str, Any]:
    """Where there is a file, nothing is below it, and crun (1.8) fails on the word for that."""
    return oci_mount(mount, source, has_recursive_read_only=not os.path.isfile(source))


def _real(path: str, destination: str) -> str:
    return path if path.rpartition("/")[2] == destination.rstrip("/").rpartition("/")[2] else ""


def _stub_kind(mount: Mapping[str, Any]) -> StubKind:
    if mount["type"] != "bind" and "bind" not in mount["options"] and "rbind" not in mount["options"]:
        return StubKind.DIRECTORY
    try:
        is_directory = stat.S_ISDIR(os.stat(mount["source"]).st_mode)
    except OSError:
        return StubKind.DIRECTORY
    return StubKind.DIRECTORY if is_directory else StubKind.FILE


def _stub_mode(mount: Mapping[str, Any]) -> int:
    """What was asked for, or what tmpfs(5) has by itself."""
    if mount["type"] != "tmpfs":
        return 0o755
    asked = [option[5:] for option in mount["options"] if option.startswith("mode=")]
    return int(asked[-1], 8) & 0o7777 if asked and asked[-1].isdecimal() else 0o1777


def _has_cgroup2() -> bool:
    """Version 2 alone, where its own filesystem is all that there is to show."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _write(path: Path, text: str) -> None:
    """In place, since what is mounted is the file and not its name; and never by way of a symlink."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)  # /etc/hosts is read by everybody in the container
        file.write(text)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
