"""Containers, their networks and their volumes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.engine.core import Core

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, BinaryIO

    from lamina.engine.containers import Seen
    from lamina.engine.copying import Copied
    from lamina.engine.describing import ContainerSummary, Process, UsageMeter
    from lamina.engine.entering import ContainerLog, Entry, ExecResult, RunResult
    from lamina.engine.networks import NetworkSummary
    from lamina.engine.starting import Started
    from lamina.engine.volumes import PrunedVolumes, VolumeSummary
    from lamina.oci.descriptor import Platform
    from lamina.oci.digest import Digest
    from lamina.runtime.container import Container
    from lamina.runtime.network.records import NetworkRecord
    from lamina.runtime.options import ContainerOptions
    from lamina.runtime.volumes import Volume
    from lamina.snapshot.changes import Change


class ContainerVerbs(Core):
    """See :class:`~lamina.engine.engine.Engine`."""

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
