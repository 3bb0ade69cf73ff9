"""Making containers: from an image and what was asked, a record, a directory and a snapshot of the image."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lamina.engine import images
from lamina.engine.lookup import ImageNotFound, find_image
from lamina.engine.naming import check_name, free_name
from lamina.errors import InvalidInput, LaminaError, NotFound
from lamina.runtime.container import Container, ContainerDirectory
from lamina.runtime.environment import merged_environment
from lamina.runtime.options import ContainerOptions
from lamina.runtime.records import ContainerTable
from lamina.snapshot.snapshotter import DriverUnavailable, LimitsSize, PreparesAhead, SnapshotNotFound
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.content.catalog import ImageRecord
    from lamina.engine.core import Core
    from lamina.image import Image
    from lamina.oci.descriptor import Platform
    from lamina.runtime.volume import ContainerMount
    from lamina.snapshot.snapshotter import Snapshotter

_SECOND = 1_000_000_000


def create(
    engine: Core, name: str, options: ContainerOptions, *, container_name: str = "", pull: str = "missing",
    platform: Platform | None = None,
) -> Container:
    """A container of the image ``name``, not started. ``pull`` is ``missing``, ``always`` or ``never``.

    Raises ``NameInUse``, ``ImageNotFound``, and ``InvalidInput`` for options that make no sense.
    """
    chosen = check_name(container_name) if container_name else ""
    check_options(options)
    if options.storage:
        _able(engine.driver)
    record = image_for(engine, name, pull, platform)
    image = _load(engine, record, name)
    parent = _unpacked(engine, record, image)
    execution = execution_of(image.config.execution, options)
    mounts, made = _mounts(engine, options, execution)
    try:
        return _make(engine, record, name, options, chosen, parent, execution, mounts, made)
    except BaseException:
        _discard_volumes(engine, made)
        raise


def check_options(options: ContainerOptions) -> None:
    """Reads every text that was given, so that a typo is told before anything is made.

    What reads a text is imported when there is one: all together they take 3 ms, and most are seldom given.
    """
    from lamina.runtime.resources import resources, rlimits

    rlimits(options.ulimits)
    resources(options)
    _check_rights(options)
    if (options.log_driver, options.log_options) != ("json-file", ()):
        from lamina.runtime.logs import log_policy

        log_policy(options.log_driver, options.log_options)
    _check_names(options)
    size_limit(options)
    for text in (*options.environment, *options.command, *(options.entrypoint or ())):
        if "\0" in text:
            raise InvalidInput(f"{text[:40]!r}: neither arguments nor variables can hold NUL (execve(2))")
    check_restart(options)
    if options.stop_signal:
        from lamina.runtime.signals import parse_signal

        parse_signal(options.stop_signal)
    if options.working_directory and not options.working_directory.startswith("/"):
        raise InvalidInput(f"--workdir {options.working_directory}: expected an absolute path")
    network_modes(options)
    ports_of(options, {})


def size_limit(options: ContainerOptions) -> int:
    """Bytes; 0 for none. The last of several counts. Raises ``InvalidInput``."""
    size = 0
    for text in options.storage:
        from lamina.snapshot.size import parse_size

        name, equals, value = text.partition("=")
        if name != "size" or not equals:
            raise InvalidInput(f"--storage-opt {text}: expected size=SIZE; there is no other option")
        size = parse_size(value, "--storage-opt size")
    return size


def check_restart(options: ContainerOptions) -> None:
    if options.restart in ("", "no"):
        return
    from lamina.runtime.restart import RestartKind, parse_restart

    if parse_restart(options.restart).kind is not RestartKind.NO and options.is_removed_at_exit:
        raise InvalidInput(
            "--rm and --restart exclude each other: a container that is gone cannot be started"
        )


def _check_names(options: ContainerOptions) -> None:
    """Of the container itself, of others, and of those who know more."""
    if not any((options.hostname, options.domainname, options.dns, options.dns_search, options.dns_options,
                options.hosts)):
        return
    from lamina.runtime.network import hostfiles

    for option, name in (("--hostname", options.hostname), ("--domainname", options.domainname)):
        if name:
            hostfiles.insist_host_name(name, option)
    hostfiles.parse_dns(options.dns, options.dns_search, options.dns_options)
    for text in options.hosts:
        hostfiles.parse_add_host(text)


def _check_rights(options: ContainerOptions) -> None:
    if options.cap_add or options.cap_drop:
        from lamina.runtime.capabilities import chosen

        chosen(options.cap_add, options.cap_drop, privileged=options.is_privileged)
    if options.security:
        from lamina.runtime.security import parse_security

        parse_security(options.security)
    if options.devices:
        from lamina.runtime.device import parse_device

        for text in options.devices:
            parse_device(text)


def network_modes(options: ContainerOptions) -> list[Any]:
    if not (options.networks or options.ip or options.mac_address or options.network_aliases):
        return []
    from lamina.runtime.network.mode import parse_network, with_options

    modes = [parse_network(text) for text in options.networks]
    if options.ip or options.mac_address or options.network_aliases:
        if not modes:
            modes = [parse_network("bridge")]
        modes[0] = with_options(
            modes[0], ip=options.ip, mac=options.mac_address, aliases=options.network_aliases
        )
    return modes


def ports_of(options: ContainerOptions, exposed: Mapping[str, Any]) -> tuple[Any, ...]:
    if not (options.publish or options.expose or options.publishes_all):
        return ()
    from lamina.runtime.network.ports import parse_exposed, parse_publish, publish_all

    published = tuple(port for text in options.publish for port in parse_publish(text))
    more = [port for text in options.expose for port in parse_exposed(text)]
    if options.publishes_all:
        return tuple(publish_all([*exposed, *more], published))
    return published


# -- the image


def image_for(engine: Core, name: str, pull: str, platform: Platform | None) -> ImageRecord:
    catalog = engine.store.catalog
    if pull == "always":
        return _pulled(engine, name, platform)
    try:
        record = find_image(catalog, name)
    except ImageNotFound:
        if pull == "never":
            raise
        return _pulled(engine, name, platform)
    if platform is not None and record.platform != str(platform) and pull != "never":
        return _pulled(engine, name, platform)
    return record


def _pulled(engine: Core, name: str, platform: Platform | None) -> ImageRecord:
    from lamina.engine.transfer import pull

    pull(engine, name, platform=platform, all_tags=False)
    return find_image(engine.store.catalog, name)


def _load(engine: Core, record: ImageRecord, name: str) -> Image:
    """Without a lease, which takes three commits: one that goes meanwhile is missed, now or at the end."""
    try:
        return images.load_record(engine, record)
    except LaminaError:
        _insist_image(engine, record, name)
        raise


def _unpacked(engine: Core, record: ImageRecord, image: Image) -> str:
    """The committed snapshot of the image, made now if it is not there; empty for an image without layers."""
    if not image.layers:
        return ""
    parent = str(image.chain_ids[-1])
    try:
        engine.driver.stat(parent)
    except SnapshotNotFound:
        from lamina.content.lease import Lease
        from lamina.engine.landing import unpack_present

        with Lease(engine.store.state, f"unpack {record.config}") as lease:
            lease.hold([record.descriptor.digest, record.manifest, record.config])
            unpack_present(engine, image)
    return parent


def execution_of(image: Mapping[str, Any], options: ContainerOptions) -> dict[str, Any]:
    """Docker's ``Config``: what the image says, with what was asked over it.

    An entrypoint of the user's own takes the image's command away, since that was meant for the other one.
    """
    found = {name: value for name, value in image.items() if value is not None}
    if options.entrypoint is not None:
        found["Entrypoint"] = [word for word in options.entrypoint if word]
        found["Cmd"] = list(options.command)
    elif options.command:
        found["Cmd"] = list(options.command)
    found["Env"] = merged_environment(found.get("Env") or (), options.environment)
    for name, value in (
        ("User", options.user), ("WorkingDir", _cleaned(options.working_directory)),
        ("StopSignal", options.stop_signal),
    ):
        if value:
            found[name] = value  # noqa: PERF403 - beside its like
    labels = dict(text.partition("=")[::2] for text in options.labels)
    if labels:
        found["Labels"] = {**(found.get("Labels") or {}), **labels}
    if options.expose:
        from lamina.runtime.network.ports import parse_exposed

        ports: dict[str, Any] = {port: {} for text in options.expose for port in parse_exposed(text)}
        found["ExposedPorts"] = {**(found.get("ExposedPorts") or {}), **ports}
    health = _health(found.get("Healthcheck"), options)
    if health:
        found["Healthcheck"] = health
    return found


def _cleaned(directory: str) -> str:
    if not directory:
        return ""
    from lamina.runtime.volume import cleaned

    return cleaned(directory)


def _health(image: Mapping[str, Any] | None, options: ContainerOptions) -> dict[str, Any]:
    found = dict(image or {})
    if not options.has_health_check:
        return {"Test": ["NONE"]}
    if options.health_command:
        found["Test"] = ["CMD-SHELL", options.health_command]
    for name, value in (
        ("Interval", options.health_interval), ("Timeout", options.health_timeout),
        ("StartPeriod", options.health_start_period), ("StartInterval", options.health_start_interval),
    ):
        if value is not None:
            found[name] = int(value * _SECOND)
    if options.health_retries is not None:
        found["Retries"] = options.health_retries
    return found


# -- volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """Volumes that were made for a container which may not come to be."""

    volumes: tuple[str, ...] = ()
    anonymous: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def _insist_sources(mounts: Sequence[ContainerMount]) -> None:
    """Docker's `--mount` makes no host directory, and no container, where its source is missing."""
    from lamina.runtime.volume import MountKind

    for mount in mounts:
        is_needed = mount.kind is MountKind.BIND and not mount.creates_source
        if is_needed and not os.path.lexists(mount.source):
            raise NotFound(
                f"{mount.source}: no such file or directory on the host, to mount on {mount.target}; "
                "make it first, or use -v, which makes a directory"
            )


def _mounts(
    engine: Core, options: ContainerOptions, execution: Mapping[str, Any]
) -> tuple[tuple[ContainerMount, ...], _Made]:
    if not (options.volumes or options.mounts or options.tmpfs or options.volumes_from
            or execution.get("Volumes")):
        return (), _Made()
    from lamina.runtime.volume import ContainerMount as Asked
    from lamina.runtime.volume import (
        MountKind,
        all_mounts,
        borrowed_mounts,
        image_mounts,
        parse_borrowed,
        parse_tmpfs,
        parse_volume,
    )
    from lamina.runtime.volumes import VolumeNotFound, VolumeStore

    asked = [parse_volume(text) for text in options.volumes]
    if options.mounts:
        from lamina.runtime.mountflag import parse_mount

        asked += [parse_mount(text) for text in options.mounts]
    asked += [parse_tmpfs(text) for text in options.tmpfs]
    table = ContainerTable(engine.store.state)
    borrowed: list[ContainerMount] = []
    for text in options.volumes_from:
        other, is_read_only = parse_borrowed(text)
        theirs = [Asked.from_json(each) for each in table.find(other).mounts]
        borrowed += borrowed_mounts(theirs, is_read_only)
    mounts = all_mounts(asked, borrowed=borrowed, image=image_mounts(execution.get("Volumes") or {}))
    if not mounts:
        return (), _Made()
    _insist_sources(mounts)
    store, settled = VolumeStore(engine.root), []
    names, anonymous, fresh = [], [], []
    for mount in mounts:
        if mount.kind is MountKind.VOLUME:
            if mount.is_anonymous:
                name = store.create_anonymous(now=engine.clock(), labels=dict(mount.volume_labels)).name
                anonymous.append(name)
                fresh.append(name)
            else:
                name = mount.source
                try:
                    store.get(name)
                except VolumeNotFound:
                    store.create(name, now=engine.clock(), labels=dict(mount.volume_labels),
                                 options=dict(mount.volume_options))
                    fresh.append(name)
            mount = mount.named(name)  # noqa: PLW2901 - the same mount, by its volume's name
            names.append(name)
        settled.append(mount)
    made = _Made(volumes=tuple(dict.fromkeys(names)), anonymous=tuple(anonymous), fresh=tuple(fresh))
    return tuple(settled), made


def _discard_volumes(engine: Core, made: _Made) -> None:
    if made.fresh:
        from lamina.runtime.volumes import VolumeStore

        for name in made.fresh:
            with contextlib.suppress(Exception):
                VolumeStore(engine.root).remove(name)


# -- the container


def _make(
    engine: Core, record: ImageRecord, image_name: str, options: ContainerOptions, name: str, parent: str,
    execution: Mapping[str, Any], mounts: Sequence[ContainerMount], made: _Made,
) -> Container:
    """Snapshot and row appear in one transaction; the directory before it, locked until then.

    Others write while files are copied: what takes long comes before the transaction.
    """
    container_id = os.urandom(32).hex()
    container = Container(
        id=container_id, name=name, image=record.descriptor.digest,
        image_name=image_name, config=record.config, platform=record.platform, driver=engine.driver.name,
        snapshot=f"container-{container_id}", parent=parent, created=engine.clock(), execution=execution,
        options=options, volumes=made.volumes, anonymous=made.anonymous,
        mounts=tuple(mount.to_json() for mount in mounts),
    )
    if not container.argv:
        raise InvalidInput(f"{image_name}: the image names no command; give one after the image's name")
    table = ContainerTable(engine.store.state)
    directory = ContainerDirectory(engine.root, container_id)
    table.insist_free(name)  # before anything is copied for it; `add` looks again
    try:
        with directory.made(), _preparing(engine.driver, parent) as prepare, engine.store.state.transaction():
            if not name:  # here, where nobody else takes the same one
                taken = table.names()
                container = replace(container, name=free_name(lambda each: each in taken))
            table.add(container)
            _insist_image(engine, record, image_name)
            prepare(container.snapshot)
            _limit(engine.driver, container)
    except BaseException as error:
        directory.discard()
        if isinstance(error, (LaminaError, OSError)):  # a tree that went away while it was copied, perhaps
            _insist_image(engine, record, image_name)
        raise
    return container


def _preparing(driver: Snapshotter, parent: str) -> AbstractContextManager[Callable[[str], object]]:
    if isinstance(driver, PreparesAhead):
        return driver.prepare_ahead(parent)
    return contextlib.nullcontext(lambda key: driver.prepare(key, parent))


def _limit(driver: Snapshotter, container: Container) -> None:
    """Nothing has run in it yet. One that cannot be bounded is not kept."""
    size = size_limit(container.options)
    if not size:
        return
    try:
        _able(driver).limit(container.snapshot, size)
    except BaseException:
        driver.remove(container.snapshot)
        raise


def _able(driver: Snapshotter) -> LimitsSize:
    if not isinstance(driver, LimitsSize):
        raise DriverUnavailable(
            f"--storage-opt size: the storage driver {driver.name} cannot limit what a container writes"
        )
    return driver


def _insist_image(engine: Core, record: ImageRecord, name: str) -> None:
    """Inside the transaction that adds the container: from then on the image is kept for it."""
    if engine.store.catalog.with_digest(record.descriptor.digest) is None:
        raise ImageNotFound(f"{name}: removed meanwhile")
