"""What a build is asked for, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lamina.errors import InvalidInput, NotFound
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.building.exchange import CacheSpot
    from lamina.engine.building.output import Output
    from lamina.engine.building.running import Listen

_MAX_SECRET = 500 << 10  # what docker takes
_LIMITS = (
    "memory", "memory_swap", "cpus", "cpu_shares", "cpu_period", "cpu_quota", "cpuset_cpus", "cpuset_mems",
    "runtime",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Read when a step asks for it, and kept nowhere. ``path`` or ``variable`` of this process."""

    id: str
    path: str = ""
    variable: str = ""
    value: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        if self.value is not None:
            return self.value
        if self.variable:
            found = os.environ.get(self.variable)
            if found is None:
                raise NotFound(f"secret {self.id}: the variable {self.variable} is not set")
            return found.encode("utf-8", "surrogateescape")
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_SECRET + 1)
        except FileNotFoundError:
            raise NotFound(f"secret {self.id}: {self.path}: no such file") from None
        if len(data) > _MAX_SECRET:
            raise InvalidInput(f"secret {self.id}: {self.path} is longer than {_MAX_SECRET} bytes")
        return data


def parse_secret(text: str) -> Secret:
    """``id=NAME,src=FILE`` or ``id=NAME,env=VARIABLE``; without either, a variable or a file of that name."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = fields.keys() - {"id", "src", "source", "env", "type"}
    if unknown or not fields.get("id"):
        raise InvalidInput(f"--secret {text}: expected id=NAME,src=FILE or id=NAME,env=VARIABLE")
    kind = fields.get("type", "")
    if kind not in ("", "file", "env"):
        raise InvalidInput(f"--secret {text}: expected the type file or env, got {kind!r}")
    source = fields.get("src") or fields.get("source") or ""
    variable = fields.get("env", "")
    if kind == "env" and source and not variable:
        source, variable = "", source
    if not source and not variable:
        is_variable = kind == "env" or (not kind and fields["id"] in os.environ)
        source, variable = ("", fields["id"]) if is_variable else (fields["id"], "")
    return Secret(id=fields["id"], path=source, variable=variable)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """``None`` and empty mean docker's default. ``epoch`` is SOURCE_DATE_EPOCH, seconds.

    ``dockerfile`` is a path inside the context unless it is absolute; ``text`` is one that was read already.
    ``contexts`` are further ones by name: a directory, or ``docker-image://NAME``. ``agents`` are sockets by
    id. ``layers_at`` are lines after which a layer ends (see ``docs/build.md``).
    ``on_error`` has the connection with a shell in what a failed RUN left; ``console`` is a terminal's size.
    ``pull`` is one of ``missing``, ``always``, ``never`` and ``newer``.
    Several ``platforms`` make an index of one image each. ``sbom`` is the scanner that looks through the
    result: its name, an image, or empty for what there is.
    """

    dockerfile: str = ""
    text: bytes | None = None
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    pull: str = "missing"
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    network: str = "default"
    allows: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    shm_size: int | None = None
    ulimits: tuple[str, ...] = ()
    memory: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    runtime: str = ""
    form: str = "oci"
    has_provenance: bool = True
    sbom: str | None = None
    epoch: int | None = None
    is_rewriting: bool | None = None
    outputs: tuple[Output, ...] = ()
    cache_from: tuple[CacheSpot, ...] = ()
    cache_to: tuple[CacheSpot, ...] = ()
    is_squashed: bool = False
    is_squashed_all: bool = False
    compression: str = "none"
    level: int | None = None
    layers_at: tuple[int, ...] = ()
    workers: int = 0
    on_error: Listen | None = None
    console: tuple[int, int] | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """By the names of ``ContainerOptions``."""
        return {name: getattr(self, name) for name in _LIMITS}

    @property
    def keeps_image(self) -> bool:
        """Whether the image stays in the store under its ID alone: not if it only goes elsewhere."""
        return not self.outputs or any(output.needs_store for output in self.outputs)

    @property
    def latest(self) -> int | None:
        """No time of a file is later than this, in nanoseconds."""
        if self.epoch is None or self.is_rewriting is False:
            return None
        return self.epoch * 1_000_000_000


def insist_possible(options: BuildOptions) -> None:
    """What no machine can do."""
    if options.form == "docker" and options.sbom is not None:
        raise InvalidInput("--sbom: docker's format has no place for it; leave --format out")
    if options.form == "docker" and options.compression == "zstd":
        raise InvalidInput(
            "--compression zstd: docker's format has no such layers; take gzip, or --format oci"
        )
    if options.cgroup_parent:
        from lamina.runtime.cgroup import Cgroups

        Cgroups.detect().at(options.cgroup_parent)  # a name that can be one


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """``root`` is what the names point at: a manifest, or an index.

    ``steps`` counts those that make layers or could; ``cached`` of them came from the cache. ``id`` is the
    image ID, or for several platforms the index' digest. ``merged`` counts the layers that squashing or
    grouping spared.
    """

    id: Digest
    root: Descriptor
    names: tuple[str, ...]
    steps: int
    cached: int
    size: int
    merged: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        return self.root.digest


def pairs_of(texts: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` for a variable of this process."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidInput(f"{option} {text}: expected NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found
