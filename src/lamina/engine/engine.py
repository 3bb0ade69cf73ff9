"""The façade: one object, opened on a state directory, whose verbs are straight lines.

Nothing is opened before it is needed: ``lamina images`` must not pay for TLS or for probing mounts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from lamina.content.local import LocalStore
from lamina.engine.settings import Settings
from lamina.errors import Unsupported
from lamina.events import Report, silent
from lamina.oci.descriptor import Descriptor, Platform, normalise_architecture
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    import socket

    from lamina.build.context import Context
    from lamina.build.report import StepReport
    from lamina.content.collect import Finding
    from lamina.content.dropped import DroppedBlob
    from lamina.engine.building.options import BuildOptions, BuiltImage
    from lamina.engine.building.usage import CacheRecord, PrunedCache
    from lamina.engine.containers import Seen
    from lamina.engine.copying import Copied
    from lamina.engine.describing import ContainerSummary, Process, UsageMeter
    from lamina.engine.drivers import DriverRow
    from lamina.engine.dropping import DropResult
    from lamina.engine.entering import ContainerLog, Entry, ExecResult, RunResult
    from lamina.engine.explain import FileRow
    from lamina.engine.housekeeping import ImageUsage, Pruned, Removed, UsageRow
    from lamina.engine.images import HistoryRow, ImageSummary
    from lamina.engine.merging import SquashOptions
    from lamina.engine.migrating import Migration
    from lamina.engine.mounts import MountRecord
    from lamina.engine.networks import NetworkSummary
    from lamina.engine.planning import Planned, PlanOptions
    from lamina.engine.serving import Serving
    from lamina.engine.squashing import Squashed
    from lamina.engine.starting import Started
    from lamina.engine.storagebench import Benched
    from lamina.engine.transfer import Pulled, Pushed
    from lamina.engine.volumes import PrunedVolumes, VolumeSummary
    from lamina.http.transport import HttpTransport
    from lamina.image import Image
    from lamina.insight.certificate import Certificate
    from lamina.insight.comparison import Comparison
    from lamina.insight.leaks import Leaks
    from lamina.insight.provenance import Blame, LayerSummary, Obscured
    from lamina.insight.report import ReportData
    from lamina.insight.usage import Portion
    from lamina.insight.waste import Waste
    from lamina.registry.remote import RegistryClient
    from lamina.runtime.container import Container
    from lamina.runtime.network.records import NetworkRecord
    from lamina.runtime.options import ContainerOptions
    from lamina.runtime.volumes import Volume
    from lamina.snapshot.changes import Change
    from lamina.snapshot.layers import LayerStore
    from lamina.snapshot.snapshotter import Snapshotter
    from lamina.snapshot.unpack import Unpacker


def host_platform() -> Platform:
    architecture, variant = normalise_architecture(os.uname().machine)
    return Platform(os="linux", architecture=architecture, variant=variant)


class Engine:
    """Use as a context manager, or close it. Safe for many threads; many engines may share a root."""

    def __init__(
        self,
        store: LocalStore,
        settings: Settings,
        *,
        report: Report = silent,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.settings = settings
        self.report = report
        self.clock = clock
        self._open = ExitStack()
        self._open.callback(store.close)

    @classmethod
    def open(
        cls, root: Path | str | None = None, *, settings: Settings | None = None, report: Report = silent
    ) -> Engine:
        """Opens a state directory, making it first if need be.

        Without ``settings`` the usual files and variables are read, as the command does.
        """
        settings = settings or Settings.load(os.environ)
        chosen = Path(root).absolute() if root is not None else settings.root
        assert chosen is not None, "Settings.load always finds a root"
        platform = settings.platform or host_platform()
        return cls(LocalStore.create(chosen, platform=platform), settings, report=report)

    def close(self) -> None:
        """Idempotent. Closes connections and the state file; mounts stay."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def root(self) -> Path:
        return self.store.root

    @cached_property
    def platform(self) -> Platform:
        """Of this machine, or what the settings say instead."""
        return self.settings.platform or host_platform()

    # -- what the verbs share, opened when first asked for

    @cached_property
    def transport(self) -> HttpTransport:
        """For what is fetched from elsewhere than a registry."""
        from lamina.engine.accounts import open_transport

        transport = open_transport(self.settings)
        self._open.callback(transport.close)
        return transport

    @cached_property
    def registries(self) -> RegistryClient:
        from lamina.engine.accounts import open_registries

        client, close = open_registries(self.settings, self.report)
        self._open.callback(close)
        return client

    @cached_property
    def layers_store(self) -> LayerStore:
        from lamina.snapshot.layers import LayerStore

        return LayerStore(self.root, blob_of=self._blob_of, bring_back=self._bring_back)

    @cached_property
    def driver(self) -> Snapshotter:
        from lamina.engine.drivers import open_chosen

        driver = open_chosen(self)
        self._open.callback(driver.close)
        return driver

    @property
    def driver_name(self) -> str:
        """The chosen driver's, for who only tells it: where one was chosen before, none is opened."""
        from lamina.snapshot.choice import read_choice

        if "driver" not in self.__dict__ and not self.settings.storage_driver:
            choice = read_choice(self.root)
            if choice is not None:
                return str(choice["driver"])
        return self.driver.name

    def driver_named(self, name: str) -> Snapshotter:
        """The one that something here was made with, which need not be the chosen one."""
        from lamina.snapshot.drivers import read_options
        from lamina.snapshot.probing import reopen

        if "driver" in self.__dict__ and self.driver.name == name:
            return self.driver
        options = read_options(self.settings.storage_opts)
        driver = reopen(self.root, self.store.state, self.layers_store, name, options)
        self._open.callback(driver.close)
        return driver

    def drivers(self) -> list[Snapshotter]:
        """The chosen driver, and the others that have snapshots here and that this user can open."""
        found = [self.driver]
        for (name,) in self.store.state.rows("SELECT DISTINCT driver FROM snapshots ORDER BY 1"):
            if name != self.driver.name:
                with suppress(Unsupported):
                    found.append(self.driver_named(str(name)))
        return found

    def _blob_of(self, diff_id: Digest) -> Path | None:
        """A blob that inflates to a layer, for files that no unpacked form has."""
        rows = self.store.state.rows("SELECT blob FROM layers WHERE diff_id = ?", (diff_id,))
        paths = [self.store.blob_path(Digest(str(row[0]))) for row in rows]
        return next((path for path in paths if path.exists()), None)

    def _bring_back(self, diff_id: Digest) -> Path | None:
        from lamina.engine import refetching

        return refetching.bring_back(self, diff_id)

    def unpacker(self, report: Report | None = None, driver: Snapshotter | None = None) -> Unpacker:
        """The caller closes it. Without ``driver`` it unpacks for the chosen one."""
        from lamina.snapshot.unpack import Unpacker

        return Unpacker(self.layers_store, driver or self.driver, workers=os.cpu_count() or 2,
                        report=report or self.report)

    def discard(self, content: Iterable[Digest], layers: Iterable[Digest]) -> None:
        """Takes back blobs, and unpacked layers by diff id, that no image and no lease needs after all."""
        from lamina.engine import housekeeping

        housekeeping.discard(self, content, layers)

    # -- builds

    def build(
        self, context: Context | Path | str, options: BuildOptions | None = None, *,
        report: StepReport | None = None, stdin: BinaryIO | None = None, stdout: BinaryIO | None = None,
    ) -> BuiltImage:
        """``context`` is a directory, a URL or ``-``, or open with its Dockerfile in ``options.text``.

        Raises ``DockerfileError``, ``StepFailed``, and what keeps a base from being had.
        """
        from lamina.build.report import unheard
        from lamina.engine.building import build as building
        from lamina.engine.building.contexts import opened_context
        from lamina.engine.building.options import BuildOptions

        asked = options or BuildOptions()
        if not isinstance(context, Path | str):
            return building.build(self, context, asked, report or unheard, stdout=stdout)
        with opened_context(self, str(context), asked, stdin) as (opened, asked):
            return building.build(self, opened, asked, report or unheard, stdout=stdout)

    def build_cache(self) -> tuple[CacheRecord, ...]:
        """Steps and cache mounts; the one used last comes first."""
        from lamina.engine.building import usage as buildcache

        return buildcache.records(self)

    def prune_builds(
        self, *, all_records: bool = False, filters: Mapping[str, Sequence[str]] | None = None,
        keep: int | None = None,
    ) -> PrunedCache:
        """Of the build cache what is not in use, the least recently used first, down to ``keep`` bytes.

        With ``all_records`` also steps whose layers an image has.
        """
        from lamina.engine.building import usage as buildcache

        return buildcache.prune(self, all_records=all_records, filters=filters or {}, keep=keep)

    # -- images in and out

    def pull(
        self, name: str, *, platform: Platform | None = None, all_tags: bool = False
    ) -> tuple[Pulled, ...]:
        """Fetches, verifies, unpacks and names an image; with ``all_tags`` each one of its repository."""
        from lamina.engine import transfer

        return transfer.pull(self, name, platform=platform, all_tags=all_tags)

    def push(self, name: str, *, all_tags: bool = False, compression: str = "gzip") -> tuple[Pushed, ...]:
        """Layers that came compressed go as they came; the others are compressed on the way."""
        from lamina.engine import transfer

        return transfer.push(self, name, all_tags=all_tags, compression=compression)

    def save(self, names: Sequence[str], out: BinaryIO, *, form: str = "docker-archive") -> None:
        """Several images as one archive: ``docker-archive`` or ``oci-archive``. Names are checked first."""
        from lamina.engine import archives

        archives.save(self, names, out, form)

    def load(self, source: BinaryIO | Path, *, platform: Platform | None = None) -> tuple[str, ...]:
        """Names of what was loaded, or image IDs where an image had none."""
        from lamina.engine import archives

        return archives.load(self, source, platform)

    def import_image(
        self,
        source: BinaryIO,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: Platform | None = None,
        created: str | None = None,
    ) -> Digest:
        """A root filesystem as an image of one layer; gives its ID. ``changes`` are Dockerfile lines."""
        from lamina.engine import archives

        return archives.import_image(self, source, name, changes=changes, message=message,
                                     platform=platform, created=created)

    def export(self, name: str, out: BinaryIO) -> None:
        """All layers as one tar: what a container would see."""
        from lamina.engine import archives

        archives.export(self, name, out)

    # -- images here

    def images(
        self, *, names: Sequence[str] = (), filters: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[ImageSummary, ...]:
        """Newest first, one value a name; ``filters`` are dangling, label, reference, before, since."""
        from lamina.engine import images

        return images.summaries(self, names, filters or {})

    def image(self, name: str) -> Image:
        """An image in the store as a value."""
        from lamina.engine import images

        return images.load(self, name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's fields as a document that JSON can hold."""
        from lamina.engine import images

        return images.inspect(self, name)

    def history(self, name: str) -> tuple[HistoryRow, ...]:
        """Newest first, as docker shows it."""
        from lamina.engine import images

        return images.history(self, name)

    def tag(self, source: str, target: str) -> None:
        """Gives an image one more name, taking it from whichever image had it."""
        from lamina.engine import images

        images.tag(self, source, target)

    def remove(self, name: str, *, force: bool = False, prune: bool = True) -> tuple[Removed, ...]:
        """Removes a name, and with an image's last name the image and what only it needed."""
        from lamina.engine import housekeeping

        return housekeeping.remove(self, name, force=force, prune=prune)

    def squash(
        self,
        name: str,
        target: str = "",
        *,
        options: SquashOptions | None = None,
        platform: Platform | None = None,
    ) -> Squashed:
        """Merges a range of layers into one; says what came of it and what it costs.

        ``name`` and ``target`` may be in the store, a registry, an archive or a layout (see
        ``lamina.engine.locations``). Without a target the result is in the store under its ID alone.
        """
        from lamina.engine import merging, squashing

        return squashing.squash(self, name, target, options or merging.SquashOptions(), platform)

    def plan_squashes(
        self, wanted: Sequence[tuple[str, int]] = (), *, options: PlanOptions | None = None
    ) -> Planned:
        """Which ranges of layers are worth merging, over images with pull counts; all here by default."""
        from lamina.engine import planning

        return planning.plan(self, wanted, options or planning.PlanOptions())

    # -- containers

    def create(
        self, image: str, *, options: ContainerOptions | None = None, name: str = "", pull: str = "missing",
        platform: Platform | None = None,
    ) -> Container:
        """A container of an image, with a writable layer of its own, not started.

        ``pull`` is ``missing``, ``always`` or ``never``. Raises ``NameInUse``, ``ImageNotFound``.
        """
        from lamina.engine import creating
        from lamina.runtime.options import ContainerOptions

        return creating.create(self, image, options or ContainerOptions(), container_name=name, pull=pull,
                               platform=platform)

    def start(
        self, name: str, *, client: socket.socket | None = None, console: tuple[int, int] | None = None
    ) -> Started:
        """Returns when the command runs, under a monitor of its own that outlives this process.

        ``client`` is one end of a socket pair whose other end is attached from the beginning, in the frames
        of ``lamina.runtime.frames``; ``console`` is a terminal's rows and columns. Raises
        ``ContainerRunning``, ``CommandNotFound``, ``CommandNotExecutable``, ``RuntimeFailed``.
        """
        from lamina.engine import starting
        from lamina.runtime.records import ContainerTable

        container = ContainerTable(self.store.state).find(name)
        return starting.start(self, container, client=client, console=console)

    def run(
        self, image: str, command: Sequence[str] = (), *, options: ContainerOptions | None = None,
        name: str = "", data: bytes = b"", removes: bool = True,
    ) -> RunResult:
        """Creates, starts and waits; gives what the command wrote, whole, and its exit code."""
        from lamina.engine import entering

        return entering.run(self, image, command, options, name=name, data=data, removes=removes)

    def containers(
        self, *, shows_all: bool = False, filters: Mapping[str, Sequence[str]] | None = None, limit: int = 0,
        has_sizes: bool = False,
    ) -> tuple[ContainerSummary, ...]:
        """Newest first; those that run, or with ``shows_all`` every one. Filters are docker's."""
        from lamina.engine import describing

        return describing.summaries(self, shows_all=shows_all, filters=filters, limit=limit,
                                    has_sizes=has_sizes)

    def container(self, name: str) -> Seen:
        """A container, and what is true of it now. Raises ``ContainerNotFound``."""
        from lamina.engine import containers

        return containers.find(self, name)

    def inspect_container(self, name: str) -> dict[str, Any]:
        """Docker's fields as a document that JSON can hold."""
        from lamina.engine import describing

        return describing.inspect(self, name)

    def inspect_network(self, name: str) -> dict[str, Any]:
        """Docker's fields of a network. Raises ``NetworkNotFound``."""
        from lamina.engine import networks

        return networks.inspect(self, name)

    def inspect_volume(self, name: str) -> dict[str, Any]:
        """Docker's fields of a volume. Raises ``VolumeNotFound``."""
        from lamina.engine import volumes

        return volumes.inspect(self, name)

    def stop(self, name: str, *, seconds: int | None = None, number: int = 0) -> None:
        """Its stop signal, or ``number``; SIGKILL after ``seconds``. Returns when it has ended."""
        from lamina.engine import stopping

        stopping.stop(self, name, seconds=seconds, number=number)

    def kill(self, name: str, number: int = 9) -> None:
        """A signal to the first process. Raises ``ContainerNotRunning``."""
        from lamina.engine import stopping

        stopping.kill(self, name, number)

    def wait(self, name: str, *, condition: str = "not-running") -> int:
        """Blocks until the container has ended (or ``next-exit``, ``removed``); gives its exit code."""
        from lamina.engine import stopping

        return stopping.wait(self, name, condition=condition)

    def pause(self, name: str) -> None:
        """None of its processes runs until :meth:`unpause`."""
        from lamina.engine import pausing

        pausing.pause(self, name)

    def unpause(self, name: str) -> None:
        """Lets a paused container go on."""
        from lamina.engine import pausing

        pausing.unpause(self, name)

    def rename(self, name: str, new_name: str) -> None:
        """Raises ``NameInUse``."""
        from lamina.engine import containers

        containers.rename(self, name, new_name)

    def update(self, name: str, changes: Mapping[str, Any]) -> tuple[str, ...]:
        """Other limits or restart policy, by names of ``ContainerOptions``; gives notes for the user."""
        from lamina.engine import containers

        return containers.update(self, name, changes)

    def remove_container(self, name: str, *, force: bool = False, with_volumes: bool = False) -> None:
        """Its layer, its log, its record; with ``force`` it is killed first. Raises ``ContainerRunning``."""
        from lamina.engine import removing

        removing.remove(self, name, force=force, with_volumes=with_volumes)

    def prune_containers(
        self, filters: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[tuple[str, ...], int]:
        """Removes all that do not run; gives their IDs and the bytes freed. Filters: label, label!, until."""
        from lamina.engine import removing

        return removing.prune(self, filters or {})

    def container_changes(self, name: str) -> Sequence[Change]:
        """What a container's own layer adds, changes and deletes; parents of changes are changes."""
        from lamina.engine import committing, containers

        container = containers.find(self, name).container
        return committing.changes(self, container, containers.directory_of(self, container))

    def commit(
        self, name: str, image: str | None = None, *, message: str = "", author: str = "",
        changes: Sequence[str] = (), pause: bool = True, created: str = "", form: str = "",
    ) -> Digest:
        """What a container changed as one layer on its image, and its settings; gives the new image's ID.

        ``changes`` are Dockerfile lines; ``form`` is ``oci``, ``docker``, or that of the image.
        """
        from contextlib import nullcontext

        from lamina.engine import committing, containers, pausing

        seen = containers.find(self, name)
        directory = containers.directory_of(self, seen.container)
        with pausing.standing_still(self, seen) if pause else nullcontext():
            return committing.commit(
                self, seen.container, directory, image, message=message, author=author, changes=changes,
                created=created, form=form,
            )

    def export_container(self, name: str, out: BinaryIO) -> None:
        """Everything that a container sees, but for its volumes, as one tar."""
        from lamina.engine import committing, containers

        committing.export(self, containers.find(self, name).container, out)

    def enter(self, name: str) -> Entry:
        """A running container to start processes in, as children of this one."""
        from lamina.engine import entering

        return entering.enter(self, name)

    def execute(self, name: str, command: Sequence[str], *, data: bytes = b"", **options: Any) -> ExecResult:
        """Runs a command in a running container, and waits. ``options`` are those of ``ExecOptions``."""
        from lamina.engine import entering

        return entering.execute(
            self, name, entering.ExecOptions(command=tuple(command), **options), data
        )

    def attach(self, name: str) -> socket.socket:
        """A connection with a running container, in the frames of ``lamina.runtime.frames``."""
        from lamina.engine import entering

        return entering.attach(self, name)

    def log(self, name: str) -> ContainerLog:
        """What a container wrote; close it. See ``read`` and ``more``."""
        from lamina.engine import entering

        return entering.ContainerLog(self, name)

    def top(self, name: str) -> tuple[Process, ...]:
        """The processes of a running container."""
        from lamina.engine import describing

        return describing.top(self, name)

    def usage_meters(self, names: Sequence[str] = ()) -> list[UsageMeter]:
        """One for each container named, or for all that run."""
        from lamina.engine import describing

        return describing.usage_meters(self, names)

    def copy_from(
        self, name: str, path: str, destination: str | BinaryIO, *, follow: bool = False,
        keeps_ids: bool = False,
    ) -> Copied:
        """Files of a container, running or not, to this machine, by the rules of ``docker cp``.

        To a stream they go as a tar, in which they keep their owners.
        """
        from lamina.engine import copying

        return copying.copy_from(self, name, path, destination, follow=follow, keeps_ids=keeps_ids)

    def copy_to(
        self, name: str, source: str | BinaryIO, path: str, *, follow: bool = False, keeps_ids: bool = False
    ) -> Copied:
        """Files of this machine into a container, running or not; they belong to its root.

        A stream is a tar, which says itself whose they are, and which may be compressed.
        """
        from lamina.engine import copying

        return copying.copy_to(self, name, source, path, follow=follow, keeps_ids=keeps_ids)

    # -- networks and volumes

    def create_network(self, name: str, **options: Any) -> NetworkRecord:
        """``options`` are the fields of ``NetworkRequest``. Raises ``NetworkExists``, ``EngineMissing``."""
        from lamina.engine import networks
        from lamina.runtime.network.programs import find_programs
        from lamina.runtime.network.records import NetworkRequest

        programs = find_programs(os.environ.get("PATH", ""), os.environ.get("CNI_PATH", ""))
        return networks.create(self, NetworkRequest(name=name, **options), programs)

    def networks(self, filters: Mapping[str, Sequence[str]] | None = None) -> tuple[NetworkSummary, ...]:
        """By name, with those that are always there."""
        from lamina.engine import networks

        return networks.listing(self, filters)

    def remove_network(self, name: str) -> str:
        """Gives its name. Raises ``NetworkInUse``."""
        from lamina.engine import networks

        return networks.remove(self, name)

    def prune_networks(self, filters: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
        """Removes networks that no running container is on; gives their names."""
        from lamina.engine import networks

        return networks.prune(self, filters=filters)

    def create_volume(
        self, name: str = "", *, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None, driver: str = "local",
    ) -> Volume:
        """One that is there already stays as it is; without a name it is an anonymous one."""
        from lamina.engine import volumes

        return volumes.create(self, name, labels=labels, options=options, driver=driver)

    def volumes(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, has_sizes: bool = False
    ) -> tuple[VolumeSummary, ...]:
        """By name. Sizes take a walk through each."""
        from lamina.engine import volumes

        return volumes.summaries(self, filters=filters, has_sizes=has_sizes)

    def remove_volume(self, name: str, *, force: bool = False) -> None:
        """With everything in it. Raises ``VolumeInUse`` while a container has it, running or not."""
        from lamina.engine import volumes

        volumes.remove(self, name, force=force, in_use=volumes.users(self))

    def prune_volumes(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, all_volumes: bool = False
    ) -> PrunedVolumes:
        """Removes anonymous volumes that no container has; with ``all_volumes`` those with a name too."""
        from lamina.engine import volumes

        return volumes.prune(self, all_volumes=all_volumes, filters=filters, in_use=volumes.users(self))

    # -- questions about layers

    def layers(self, name: str) -> tuple[LayerSummary, ...]:
        """Base first."""
        from lamina.engine import explain

        return explain.layers(self, name)

    def ls(
        self, name: str, path: str = "/", *, layer: int | None = None, recursive: bool = False
    ) -> tuple[FileRow, ...]:
        """The union's files, or one layer's (numbered from 0 at the base), below a directory."""
        from lamina.engine import explain

        return explain.ls(self, name, path, layer=layer, recursive=recursive)

    def cat(self, name: str, path: str, *, layer: int | None = None) -> BinaryIO:
        """The content of a file, as a stream that the caller closes."""
        from lamina.engine import explain

        return explain.cat(self, name, path, layer=layer)

    def blame(self, name: str, path: str) -> Blame:
        """The highest layer that has a path, what it hides, and who deleted it."""
        from lamina.engine import explain

        return explain.blame(self, name, path)

    def obscured(self, name: str) -> tuple[Obscured, ...]:
        """Files of lower layers that no container sees, in the order of layers."""
        from lamina.engine import explain

        return explain.obscured(self, name)

    # -- what is in the bytes

    def verify_erased(
        self,
        name: str,
        *,
        secrets: Mapping[str, bytes] | None = None,
        patterns: Sequence[str] = (),
        paths: Sequence[str] = (),
        platform: Platform | None = None,
        everywhere: bool = False,
        image_only: bool = False,
    ) -> Certificate:
        """Searches every byte that an image reaches; says what the rest of the store still holds.

        ``secrets`` are contents by a label that may be shown. What is elsewhere counts for the verdict with
        ``everywhere``, and is not looked at with ``image_only``.
        """
        from lamina.engine import erasing

        return erasing.verify_erased(
            self, name, secrets=secrets or {}, patterns=patterns, paths=paths, platform=platform,
            everywhere=everywhere, image_only=image_only,
        )

    def secrets(self, name: str, *, platform: Platform | None = None) -> Leaks:
        """Likely secrets in files, seen and hidden, and in the image's documents."""
        from lamina.engine import erasing

        return erasing.secrets(self, name, platform=platform)

    def waste(self, name: str, *, platform: Platform | None = None) -> Waste:
        """Bytes that are pulled for nothing, each file with its reason, its instruction and what to do."""
        from lamina.engine import accounting

        return accounting.waste(self, name, platform=platform)

    def diff(
        self, before: str, after: str, path: str = "/", *, times: bool = False,
        platform: Platform | None = None,
    ) -> Comparison:
        """What is different in a second image: files at and below ``path``, layers, settings."""
        from lamina.engine import accounting

        return accounting.diff(self, before, after, path, times=times, platform=platform)

    def du(
        self, name: str, path: str = "/", *, by: str = "dir", depth: int = 1,
        platform: Platform | None = None,
    ) -> tuple[Portion, ...]:
        """Bytes of files, seen and hidden, by ``layer``, ``dir``, ``extension`` or ``instruction``."""
        from lamina.engine import accounting

        return accounting.du(self, name, path, by, depth=depth, platform=platform)

    def report_data(self, name: str, *, platform: Platform | None = None) -> ReportData:
        """Layers, files, obscured files, waste and settings as values of a bounded size."""
        from lamina.engine import reporting

        return reporting.report_data(self, name, platform=platform)

    def report_page(self, name: str, *, platform: Platform | None = None) -> str:
        """The same as one HTML file that stands alone."""
        from lamina.engine import reporting

        return reporting.report_page(self, name, platform=platform)

    # -- filesystems

    def mount(self, name: str) -> Path:
        """Mounts all layers, read-only, and says where. Survives this process where the kernel lets it."""
        from lamina.engine import mounts

        return mounts.mount(self, name)

    def unmount(self, name: str) -> None:
        """By image name, ID or the path that :meth:`mount` gave."""
        from lamina.engine import mounts

        mounts.unmount(self, name)

    def mounts(self) -> tuple[MountRecord, ...]:
        """What :meth:`mount` has mounted and this process can see."""
        from lamina.engine import mounts

        return mounts.listing(self)

    # -- registries

    def login(self, registry: str, username: str, secret: str) -> str:
        """Asks the registry first; says where the credentials were stored."""
        from lamina.engine import accounts

        return accounts.login(self, registry, username, secret)

    def logout(self, registry: str) -> bool:
        """Whether there was anything to forget."""
        from lamina.engine import accounts

        return accounts.logout(self, registry)

    def remote_manifest(self, name: str) -> tuple[Descriptor, bytes]:
        """The document itself, without pulling anything else."""
        from lamina.engine import transfer

        return transfer.remote_manifest(self, name)

    def remote_tags(self, name: str) -> Iterator[str]:
        """Page by page, as the registry lists them."""
        from lamina.engine import transfer

        return transfer.remote_tags(self, name)

    def serve(self, address: str = "127.0.0.1", port: int = 5000, *, read_only: bool = False) -> Serving:
        """The store as a registry, in threads of this process, until the answer is closed."""
        from lamina.engine import serving

        return serving.serve(self, address, port, read_only=read_only)

    # -- storage drivers

    def storage_drivers(self) -> tuple[DriverRow, ...]:
        """Each that is installed, best first: whether it works here, is in use, and what it has."""
        from lamina.engine import drivers

        return drivers.listing(self)

    def migrate_storage(self, to: str, *, is_dry_run: bool = False) -> Migration:
        """Everything becomes another storage driver's, whose options the settings hold.

        Raises ``DriverUnavailable``, and ``ContainerRunning`` or ``StateInUse`` naming what is in the way.
        """
        from lamina.engine import migrating

        return migrating.migrate(self, to, is_dry_run=is_dry_run)

    def bench_storage(
        self, drivers: Sequence[str] = (), *, layers: int = 10, containers: int = 50
    ) -> Benched:
        """Times and bytes of the drivers that work here, or of those named. Raises ``NoRoom``."""
        from lamina.engine import storagebench

        return storagebench.bench(self, drivers, layers=layers, containers=containers)

    # -- housekeeping

    def usage(self) -> tuple[UsageRow, ...]:
        """Bytes on disk by kind, as ``lamina system df`` shows them."""
        from lamina.engine import housekeeping

        return housekeeping.usage(self)

    def image_usage(self) -> tuple[ImageUsage, ...]:
        """One value a name: what the image takes, and shares with others."""
        from lamina.engine import housekeeping

        return housekeeping.image_usage(self)

    def prune(
        self, *, all_images: bool = False, filters: Mapping[str, Sequence[str]] | None = None
    ) -> Pruned:
        """Images without a name and content that nothing reaches; with ``all_images`` every image too."""
        from lamina.engine import housekeeping

        return housekeeping.prune(self, all_images=all_images, filters=filters or {})

    def check(self, *, repair: bool = False, online: bool = False) -> Iterable[Finding]:
        """Reads everything and compares it with its name, reporting as it goes.

        With ``online`` registries are asked whether they serve what was dropped here.
        """
        from lamina.engine import housekeeping

        return housekeeping.check(self, repair=repair, online=online)

    # -- blobs that registries keep

    def dropped_blobs(self) -> tuple[DroppedBlob, ...]:
        """What was dropped here, and where each comes back from."""
        return tuple(self.store.dropped_blobs())

    def drop_blobs(self, *names: str) -> DropResult:
        """Blobs of images, or of all, that registries serve and that what is unpacked makes up for."""
        from lamina.engine import dropping

        return dropping.drop(self, names)

    def fetch_blobs(self, name: str) -> tuple[DroppedBlob, ...]:
        """Brings back what was dropped of an image; gives what that was. Raises ``NoLongerServed``."""
        from lamina.engine import refetching
        from lamina.engine.lookup import find_image

        return refetching.fetch(self, find_image(self.store.catalog, name).descriptor)

    def info(self) -> dict[str, Any]:
        """Settings with their origins, the storage driver and why, this machine."""
        from lamina.engine import about

        return about.info(self)
