"""``cp``: between the host and a container, whether that one runs or not."""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from lamina.errors import LaminaError
from lamina.layer.root import Ownership
from lamina.layer.tarstream import TarReader, Writable
from lamina.runtime.container import (
    Container,
    ContainerDirectory,
    ContainerRunning,
    ContainerState,
    observe,
)
from lamina.runtime.copying import (
    CannotCopy,
    Found,
    Located,
    PathNotFound,
    asserts_directory,
    locate,
    place,
    retried,
    source_name,
    write_tree,
)
from lamina.runtime.extraction import Extracted, Extraction
from lamina.runtime.reach import Bind, Reach
from lamina.runtime.records import ContainerTable
from lamina.runtime.volume import ContainerMount, MountKind, in_mounting_order
from lamina.snapshot import syscalls
from lamina.snapshot.namespace import Ownership as Ids
from lamina.snapshot.namespace import current_identity
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core

# For who starts or stops the container at the same moment.
_PATIENCE = 5.0
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """``size`` is that of the tar that went over. ``devices`` were left out: only root can make them."""

    size: int
    devices: int = 0


@contextmanager
def reached(
    engine: Core, container: Container, directory: ContainerDirectory, state: ContainerState,
    binds: Sequence[Bind] = (),
) -> Iterator[Reach]:
    """The container's files, as they are for its processes, or would be: ``binds`` are its volumes.

    While it does not run, nobody can start it until this is over.
    """
    deadline = time.monotonic() + _PATIENCE
    while not (state.is_live and state.is_process_alive):
        try:
            lock = directory.lock()
        except ContainerRunning:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            state = observe(directory)
            continue
        try:
            with _stopped(engine, container, directory, lock, binds) as reach:
                yield reach
        finally:
            os.close(lock)
        return
    with Reach.running(state) as reach:
        yield reach


def reached_by_name(engine: Core, name: str) -> AbstractContextManager[Reach]:
    """Raises ``ContainerNotFound``."""
    container = ContainerTable(engine.store.state).find(name)
    directory = ContainerDirectory(engine.root, container.id)
    return reached(engine, container, directory, observe(directory), binds(engine, container))


def copy_from(
    engine: Core, name: str, path: str, destination: str | BinaryIO, *, follow: bool, keeps_ids: bool
) -> Copied:
    """To a path of the host's, or as a tar into a stream."""
    with reached_by_name(engine, name) as reach:
        if isinstance(destination, str):
            return copy_out(reach, name, path, destination, follow=follow, keeps_ids=keeps_ids)
        return stream_out(reach, name, path, destination, follow=follow)


def copy_to(
    engine: Core, name: str, source: str | BinaryIO, path: str, *, follow: bool, keeps_ids: bool
) -> Copied:
    """From a path of the host's, or from a stream that is a tar, perhaps compressed."""
    with reached_by_name(engine, name) as reach:
        if isinstance(source, str):
            return copy_in(reach, name, source, path, follow=follow, keeps_ids=keeps_ids)
        return stream_in(reach, name, source, path)


def _stopped(
    engine: Core, container: Container, directory: ContainerDirectory, lock: int, binds: Sequence[Bind]
) -> Reach:
    container = ContainerTable(engine.store.state).find(container.id)  # moved to another driver, perhaps
    driver = engine.driver_named(container.driver)
    mounts = driver.mounts(container.snapshot)
    return Reach.stopped(directory, mounts, driver.identity, lock=lock, binds=binds)


def binds(engine: Core, container: Container) -> list[Bind]:
    """What is mounted in a container when it runs."""
    return binds_of(engine, map(ContainerMount.from_json, container.mounts))


def binds_of(engine: Core, mounts: Iterable[ContainerMount]) -> list[Bind]:
    """What is mounted in a container when it runs, for :func:`reached`: in mounting order, no tmpfs."""
    from lamina.runtime.volumes import VolumeNotFound, VolumeStore

    store, found = VolumeStore(engine.root), []
    for mount in in_mounting_order(mounts):
        source = mount.source
        if mount.kind is MountKind.TMPFS or not source:
            continue
        if mount.kind is MountKind.VOLUME:
            try:
                source = store.get(source).device or str(store.data(source))
            except VolumeNotFound:
                continue
        found.append(Bind(mount.target, source, mount.subpath, mount.is_read_only))
    return found


# -- out of a container


def copy_out(
    reach: Reach, label: str, path: str, destination: str, *, follow: bool = False, keeps_ids: bool = False
) -> Copied:
    """``label`` is how messages call the container. Raises :class:`PathNotFound`, :class:`CannotCopy`.

    Files become the caller's, unless ``keeps_ids`` is said by root.
    """
    subject = f"{label}:{path}"
    found = _found(reach, subject, path, follow=follow)
    target = os.path.realpath(destination) if os.path.islink(destination) else os.path.abspath(destination)
    to = place(path, found, target + _tail(destination), _host_destination(destination))
    with _about(subject):
        top = os.open(to.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with reach.reading(path, to.name, follow=follow) as stream:
                done = _extraction(top, keeps_ids=keeps_ids).run(TarReader(stream))
        finally:
            os.close(top)
    return Copied(size=done.size, devices=done.devices)


def stream_out(reach: Reach, label: str, path: str, out: Writable, *, follow: bool = False) -> Copied:
    """As a tar."""
    subject = f"{label}:{path}"
    _found(reach, subject, path, follow=follow)
    size = 0
    with _about(subject), reach.reading(path, source_name(path), follow=follow) as stream:
        while chunk := stream.read(_CHUNK):
            out.write(chunk)
            size += len(chunk)
    return Copied(size=size)


def _found(reach: Reach, subject: str, path: str, *, follow: bool) -> Found:
    with _about(subject):
        found = reach.find(path, follow=follow)
    if found is None:
        raise PathNotFound(f"{subject}: could not find the file in the container")
    return found


def _host_destination(path: str) -> Found | None:
    """What is there behind symlinks. The directory above must exist."""
    try:
        status = os.stat(path)
    except NotADirectoryError:
        raise CannotCopy(f"{path}: not a directory") from None
    except FileNotFoundError:
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(parent):
            raise PathNotFound(f"{path}: the directory {parent} does not exist") from None
        return None
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise CannotCopy(f"{path}: must be a directory or a regular file")
    return Found(os.path.realpath(path), status.st_mode, status.st_size)


def _tail(path: str) -> str:
    return "/" if asserts_directory(path) else ""


def _extraction(top: int, *, keeps_ids: bool) -> Extraction:
    """Into a directory of the host: never through a symlink, whoever made it."""
    is_root = current_identity().ownership is Ids.KEPT
    ids = None if keeps_ids and is_root else (os.geteuid(), os.getegid())
    opener = retried(partial(syscalls.open_beneath, top))
    return Extraction(opener, owner=Ownership.KEEP, ids=ids, has_devices=is_root)


# -- into a container


def copy_in(
    reach: Reach, label: str, source: str, path: str, *, follow: bool = False, keeps_ids: bool = False
) -> Copied:
    """Files become the container's root's, unless ``keeps_ids``."""
    subject = f"{label}:{path}"
    located = _host_source(source, follow=follow)
    try:
        there = _container_destination(reach, subject, path)
        to = place(_named(source), located.found, there[0], there[1])
        with _about(subject), reach.writing(to.directory, keeps_ids=keeps_ids) as writing:
            write_tree(located, to.name, writing, Ownership.KEEP)
    finally:
        os.close(located.directory)
    return _copied(writing.outcome)


def stream_in(reach: Reach, label: str, source: BinaryIO, path: str) -> Copied:
    """A tar, perhaps compressed, into a directory; whose its files are is what it says itself."""
    from lamina.runtime.incoming import plain

    subject = f"{label}:{path}"
    where, there = _container_destination(reach, subject, path)
    if there is None or not there.is_directory:
        raise CannotCopy(f"{subject}: must be a directory")
    stream = plain(source)
    with _about(subject), reach.writing(where, keeps_ids=True) as writing:
        while chunk := stream.read(_CHUNK):
            writing.write(chunk)
    return _copied(writing.outcome)


def _named(path: str) -> str:
    """``..`` has the name of the directory that it is."""
    return path if posixpath.basename(path) == "." else os.path.abspath(path)


def _copied(outcome: Extracted) -> Copied:
    return Copied(size=outcome.size, devices=outcome.devices)


def _host_source(path: str, *, follow: bool) -> Located:
    try:
        return locate(os.open, os.path.abspath(path) + _tail(path), follow=follow)
    except FileNotFoundError:
        raise PathNotFound(f"{path}: no such file or directory") from None


def _container_destination(reach: Reach, subject: str, path: str) -> tuple[str, Found | None]:
    with _about(subject):
        where, found = reach.find_place(path)
    if found is not None and not found.is_directory and not found.is_file:
        raise CannotCopy(f"{subject}: must be a directory or a regular file")
    return where, found


@contextmanager
def _about(subject: str) -> Iterator[None]:
    try:
        yield
    except (LaminaError, OSError) as error:
        error.add_note(f"while copying {subject}")
        raise
