"""The other engines: how each is started in a private place, told to pull, and looked into."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.fixtures import Contents
from bench.meter import Account
from bench.room import Command, NotHere, Room, Session, count_below, daemon, first_line, program

# ---------------------------------------------------------------- dockerd


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """The daemon that is installed, with its overlay2 driver and its own containerd."""

    name: str = "docker"
    account: Account | None = None

    def version(self) -> str:
        return first_line([program("dockerd"), "--version"])

    @contextmanager
    def open(self, room: Room) -> Iterator[DockerSession]:
        settings = room.run / "daemon.json"
        settings.write_text("{}")
        socket = f"unix://{room.run}/docker.sock"
        client = [program("docker", "/usr/bin"), f"--config={room.run}/docker-client", f"--host={socket}"]
        places = [f"--data-root={room.disk}/docker", f"--exec-root={room.run}/exec"]
        files = [f"--pidfile={room.run}/docker.pid", f"--config-file={settings}", f"--host={socket}"]
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        command = [program("dockerd"), *places, *files, *network, "--storage-driver=overlay2"]
        with daemon(room, command, [*client, "version"]):
            yield DockerSession(room=room, state=room.disk / "docker", client=client)


@dataclass(slots=True, kw_only=True)
class DockerSession:
    room: Room
    state: Path
    client: list[str]

    def idle(self) -> Command:
        return [*self.client, "version"]

    def pull(self, reference: str) -> Sequence[Command]:
        return [[*self.client, "pull", reference]]

    def again(self, reference: str) -> Sequence[Command]:
        return self.pull(reference)

    def contents(self, reference: str) -> Contents:
        """The container's lower directories but the first, which is docker's own /etc and /dev."""
        name = self.room.ask([*self.client, "create", "--network=none", reference]).strip()
        shown = self.room.ask([*self.client, "inspect", "--format={{.GraphDriver.Data.LowerDir}}", name])
        lower = ":".join(os.path.realpath(path) for path in shown.strip().split(":")[1:])
        # overlayfs wants two layers at least.
        overlay = ["-t", "overlay", "-o", f"ro,lowerdir={lower}", "overlay"]
        options = overlay if ":" in lower else ["--bind", lower]
        with self.room.window() as target, _mounted(options, target):
            return count_below(self.room, target)


@contextmanager
def _mounted(what: Command, target: Path) -> Iterator[None]:
    subprocess.run(["mount", *what, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


# ---------------------------------------------------------------- containerd


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """containerd and its ctr, without the parts that serve Kubernetes."""

    snapshotter: str = "overlayfs"
    directory: str = ""  # where another containerd than the installed one is, and its mkfs.erofs
    account: Account | None = None

    @property
    def name(self) -> str:
        return "containerd" if self.snapshotter == "overlayfs" else f"containerd {self.snapshotter}"

    def version(self) -> str:
        shown = first_line([program("containerd", self.directory), "--version"])
        number = shown.split()[2].lstrip("v").split("+")[0].split("~")[0]
        if self.snapshotter == "erofs":
            if [int(part) for part in number.split(".")[:2]] < [2, 1]:
                raise NotHere(f"containerd {number}: has no EROFS snapshotter (2.1 has)")
            program("mkfs.erofs", self.directory)
        return f"containerd {number}"

    @contextmanager
    def open(self, room: Room) -> Iterator[Session]:
        room = replace(room, programs=self.directory)
        address = room.run / "containerd.sock"
        settings = room.run / "containerd.toml"
        settings.write_text(self._settings(room, address))
        client = [program("ctr", self.directory), f"--address={address}"]
        command = [program("containerd", self.directory), f"--config={settings}"]
        with daemon(room, command, [*client, "version"]):
            state = room.disk / "containerd"
            yield _ContainerdSession(room=room, state=state, client=client, snapshotter=self.snapshotter)

    def _settings(self, room: Room, address: Path) -> str:
        lines = [
            "version = 2",
            f'root = "{room.disk}/containerd"',
            f'state = "{room.run}/containerd"',
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
            "[grpc]",
            f'address = "{address}"',
        ]
        if self.snapshotter == "erofs":
            lines += [
                '[plugins."io.containerd.service.v1.diff-service"]',
                'default = ["erofs", "walking"]',
                '[[plugins."io.containerd.transfer.v1.local".unpack_config]]',
                'platform = "linux/amd64"',
                'snapshotter = "erofs"',
                'differ = "erofs"',
            ]
        return "\n".join([*lines, ""])


@dataclass(slots=True, kw_only=True)
class _ContainerdSession:
    room: Room
    state: Path
    client: list[str]
    snapshotter: str

    def idle(self) -> Command:
        return [*self.client, "version"]

    def pull(self, reference: str) -> Sequence[Command]:
        flags = ["--plain-http", f"--snapshotter={self.snapshotter}"]
        return [[*self.client, "images", "pull", *flags, reference]]

    def again(self, reference: str) -> Sequence[Command]:
        return self.pull(reference)

    def contents(self, reference: str) -> Contents:
        snapshotter = f"--snapshotter={self.snapshotter}"
        with self.room.window() as target:
            self.room.ask([*self.client, "images", "mount", snapshotter, reference, str(target)])
            found = count_below(self.room, target)
            self.room.ask([*self.client, "images", "unmount", "--rm", snapshotter, str(target)])
        return found


# ---------------------------------------------------------------- podman


@dataclass(frozen=True, slots=True, kw_only=True)
class Podman:
    name: str = "podman"
    account: Account | None = None

    def version(self) -> str:
        return first_line([program("podman"), "--version"])

    @contextmanager
    def open(self, room: Room) -> Iterator[PodmanSession]:
        root = room.disk / "containers"
        places = [f"--root={root}", f"--runroot={room.run}/runroot", f"--tmpdir={room.run}/libpod"]
        fixed = ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"]
        yield PodmanSession(room=room, state=root, client=[program("podman"), *places, *fixed])


@dataclass(slots=True, kw_only=True)
class PodmanSession:
    room: Room
    state: Path
    client: list[str]

    def idle(self) -> Command:
        return [*self.client, "images"]

    def pull(self, reference: str) -> Sequence[Command]:
        return [[*self.client, "pull", "--tls-verify=false", reference]]

    def again(self, reference: str) -> Sequence[Command]:
        return self.pull(reference)

    def contents(self, reference: str) -> Contents:
        root = self.room.ask([*self.client, "image", "mount", reference]).strip()
        try:
            return count_below(self.room, root)
        finally:
            self.room.ask([*self.client, "image", "unmount", reference])


# ---------------------------------------------------------------- skopeo and umoci


@dataclass(frozen=True, slots=True, kw_only=True)
class Umoci:
    """skopeo copies into an OCI layout, umoci unpacks it: the blobs are shared, the trees are not."""

    name: str = "skopeo+umoci"
    account: Account | None = None

    def version(self) -> str:
        return f"{first_line([program('skopeo'), '--version'])}, {first_line([program('umoci'), '-v'])}"

    @contextmanager
    def open(self, room: Room) -> Iterator[Session]:
        yield _UmociSession(room=room, state=room.disk / "umoci")


@dataclass(slots=True, kw_only=True)
class _UmociSession:
    room: Room
    state: Path

    def __post_init__(self) -> None:
        self.state.mkdir()

    def idle(self) -> Command:
        return ["umoci", "--version"]

    def _copy(self, reference: str) -> Command:
        flags = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
        return ["skopeo", *flags, f"docker://{reference}", f"oci:{self.state}/layout:{_tag(reference)}"]

    def pull(self, reference: str) -> Sequence[Command]:
        unpack = ["umoci", "unpack", "--image", f"{self.state}/layout:{_tag(reference)}"]
        return [self._copy(reference), [*unpack, f"{self.state}/{_tag(reference)}"]]

    def again(self, reference: str) -> Sequence[Command]:
        return [self._copy(reference)]

    def contents(self, reference: str) -> Contents:
        return count_below(self.room, self.state / _tag(reference) / "rootfs")


def _tag(reference: str) -> str:
    return reference.rpartition(":")[2]
