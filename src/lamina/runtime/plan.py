"""What a monitor is told when it starts: everything it needs, as JSON, so that it may be a new process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.runtime.container import Container, ContainerDirectory
from lamina.snapshot.hands import identity_document, read_identity
from lamina.snapshot.namespace import Identity
from lamina.snapshot.snapshotter import Mount
from lamina.values import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``mounts`` are the driver's instructions for the root filesystem. ``shared`` are namespaces of others.

    ``is_for_client``: nobody but the first client wants the container. When that one goes it is killed, and
    its document, which may hold secrets, lies in memory. ``network`` and ``volumes`` are what those rooms
    need, in their own words: a volume is a ``mount``, and perhaps ``layers`` (instructions for mounting its
    source), ``content`` (base64) or an ``owner`` and a ``mode`` that its source is to have.
    """

    root: str
    container: Container
    identity: Identity
    mounts: tuple[Mount, ...]
    runtime: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    volumes: Sequence[Mapping[str, Any]] = ()
    seccomp: Mapping[str, Any] | None = None
    cgroup: str = ""
    init: str = ""
    console: tuple[int, int] | None = None
    is_for_client: bool = False

    @property
    def directory(self) -> ContainerDirectory:
        return ContainerDirectory(Path(self.root), self.container.id)

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("root", "runtime", "seccomp", "cgroup", "init", "console", "is_for_client")
        }
        return {
            **document,
            "container": self.container.to_json(), "identity": identity_document(self.identity),
            "mounts": mount_documents(self.mounts), "shared": dict(self.shared),
            "network": dict(self.network), "volumes": [dict(each) for each in self.volumes],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        console = document["console"]
        values: dict[str, Any] = {
            **document,
            "container": Container.from_json(document["container"]),
            "identity": read_identity(document["identity"]),
            "mounts": read_mounts(document["mounts"]),
            "console": None if console is None else tuple(console),
        }
        return cls(**values)


def mount_documents(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    return [asdict(mount) for mount in mounts]


def read_mounts(documents: Sequence[Mapping[str, Any]]) -> tuple[Mount, ...]:
    return tuple(map(Mount.from_json, documents))
