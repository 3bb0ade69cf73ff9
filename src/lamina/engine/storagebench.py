"""The storage drivers of this machine compared: the same stack, the same containers, what each takes.

All of it lies on the filesystem of the state directory, in a place of its own that is gone afterwards: under
``ingest``, locked, so that ``prune`` removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from lamina.content.ingest import claim
from lamina.content.local import LocalStore
from lamina.content.reserve import free_bytes
from lamina.engine.landing import unpack_layers
from lamina.engine.room import SHARING, NoRoom
from lamina.errors import InvalidInput, Unavailable, nearest
from lamina.events import Action, Event, Report
from lamina.oci.config import chain_ids
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.snapshot.collect import drop_unused
from lamina.snapshot.drivers import canonical, read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.probing import Candidate, probe
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotKind, SnapshotNotFound, Snapshotter
from lamina.snapshot.trees import sync_tree
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.layer.index import IndexBuilder
    from lamina.layer.tarstream import Writable

_FILES, _FILE = 16, 64 << 10  # of a layer: a mebibyte
_LAYER = _FILES * _FILE
_WRITTEN = 4096
_SMALL = 128 << 10  # what a container takes that copies nothing, with room to spare
_SPARE = 64 << 20
MAX_LAYERS, MAX_CONTAINERS = 500, 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """``stack`` is seconds until all layers together can be mounted; the rest is for one container.

    ``size`` is bytes on disk of one in which a file of 4 KiB was written.
    """

    driver: str
    layers: int
    containers: int
    stack: float
    create: float
    write: float
    diff: float
    commit: float
    remove: float
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """``left_out`` are drivers that do not work here, with their reasons."""

    rows: tuple[BenchRow, ...]
    left_out: tuple[Candidate, ...]


def bench(
    engine: Core, drivers: Sequence[str] = (), *, layers: int = 10, containers: int = 50,
    seconds: Callable[[], float] = time.perf_counter,
) -> Benched:
    """One driver after the other; all that work here if none is named.

    Raises ``DriverUnavailable`` for one that was named and does not work, and :class:`NoRoom`.
    """
    if not 1 <= layers <= MAX_LAYERS or not 1 <= containers <= MAX_CONTAINERS:
        raise InvalidInput(
            f"{layers} layers, {containers} containers: expected 1 to {MAX_LAYERS} and 1 to {MAX_CONTAINERS}"
        )
    with _scratch(engine) as scratch:
        usable, left_out = _chosen(engine, scratch, [canonical(name) for name in drivers])
        _insist_room(engine.root, usable, layers, containers)
        rows = tuple(
            _measured(engine, scratch / name, name, layers, containers, seconds) for name in usable
        )
    return Benched(rows=rows, left_out=tuple(left_out))


@contextmanager
def _scratch(engine: Core) -> Iterator[Path]:
    directory = claim(engine.root / "ingest" / f"bench-{os.urandom(8).hex()}")
    assert directory is not None
    try:
        yield directory.path
    finally:
        directory.remove()
        directory.close()


def _chosen(engine: Core, scratch: Path, names: Sequence[str]) -> tuple[list[str], list[Candidate]]:
    found = {each.name: each for each in probe(scratch, read_options(engine.settings.storage_opts))}
    for name in names:
        if name not in found:
            raise DriverUnavailable(
                f"storage driver {name}: no such driver (one of {', '.join(found)})"
                f"{nearest(name.lower(), found)}"
            )
        if not found[name].is_usable:
            raise DriverUnavailable(f"storage driver {name}: {found[name].reason}")
    usable = list(dict.fromkeys(names)) or [name for name, each in found.items() if each.is_usable]
    return usable, [] if names else [each for each in found.values() if not each.is_usable]


def _insist_room(root: Path, names: Sequence[str], layers: int, containers: int) -> None:
    """By the greediest: a driver's things are gone before the next one begins."""
    needed, greediest = max((_need(name, layers, containers), name) for name in names)
    free = free_bytes(root)
    if needed + _SPARE > free:
        raise NoRoom(
            f"{root}: comparing may take {(needed + _SPARE) >> 20} MiB for {greediest}, and "
            f"{free >> 20} MiB are free; ask for fewer --containers or --layers, or for other --drivers"
        )


def _need(name: str, layers: int, containers: int) -> int:
    """Blobs, tars and trees of the layers; of containers a copy of all, or little."""
    stack = layers * _LAYER
    return 3 * stack + containers * (_SMALL if name in SHARING else stack + _SMALL)


# -- one driver


def _measured(
    engine: Core, root: Path, name: str, layers: int, containers: int, seconds: Callable[[], float]
) -> BenchRow:
    settings = replace(engine.settings, root=root, storage_driver=name)
    with ExitStack() as stack:
        inner = stack.enter_context(type(engine)(LocalStore.create(root, platform=engine.platform), settings))
        stack.callback(_remove_all, inner)
        hands = stack.enter_context(closing(Hands(inner.driver.identity)))
        course = _Course(inner, hands, seconds, engine.report)
        blobs = [_blob(inner, number) for number in range(layers)]
        took, chain = course.stack(blobs)
        keys = [f"bench-{number}" for number in range(containers)]
        before = _free(root)
        create = course.each("create", keys, lambda key: inner.driver.prepare(key, chain))
        write = course.each("write", keys, course.write)
        size = _size(inner.driver, keys, before - _free(root))
        diff = course.each("diff", keys, course.diff)
        commit = course.each("commit", keys, course.commit)
        remove = course.each("remove", keys, inner.driver.remove)
        engine.report(Event(action=Action.MEASURED, subject=name))
    return BenchRow(
        driver=name, layers=layers, containers=containers, stack=took, create=create, write=write, diff=diff,
        commit=commit, remove=remove, size=size,
    )


class _Course:
    """What is done with one driver, and how long it takes."""

    def __init__(
        self, engine: Core, hands: Hands, seconds: Callable[[], float], report: Report
    ) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._hands = hands
        self._seconds = seconds
        self._report = report

    def stack(self, blobs: Sequence[Descriptor]) -> tuple[float, str]:
        """The seconds, and the name of the committed snapshot."""
        self._say("unpack")
        started = self._seconds()
        unpack_layers(self._engine, [(blob, blob.digest) for blob in blobs])
        return self._seconds() - started, str(list(chain_ids(blob.digest for blob in blobs))[-1])

    def each(self, what: str, keys: Sequence[str], act: Callable[[str], object]) -> float:
        """Seconds for one."""
        self._say(what)
        started = self._seconds()
        for key in keys:
            act(key)
        return (self._seconds() - started) / len(keys)

    def write(self, key: str) -> None:
        from lamina.snapshot.moving import put_file

        put_file(self._driver, self._hands, key, key, _WRITTEN)

    def diff(self, key: str) -> None:
        from lamina.snapshot.changes import list_changes

        if [change.path for change in list_changes(self._driver, key)] != [f"/{key}"]:
            raise Unavailable(f"storage driver {self._driver.name}: {key} is not what was written")

    def commit(self, key: str) -> None:
        """As `lamina commit` makes the layer."""
        from lamina.engine.layering import store_layer
        from lamina.snapshot.changes import write_layer

        def fill(out: Writable, builder: IndexBuilder) -> int:
            return write_layer(self._driver, key, out, builder).tar_size

        store_layer(self._engine, fill, lambda _diff_id: None)

    def _say(self, what: str) -> None:
        self._report(Event(action=Action.MEASURING, subject=f"{self._driver.name}, {what}"))


def _blob(engine: Core, number: int) -> Descriptor:
    """A plain layer, whose digest is its diff id; the same ones in each comparison."""
    from lamina.layer.entry import Entry, Kind
    from lamina.layer.tarstream import write_entries

    noise = Random(number)  # noqa: S311 - bytes that no filesystem makes smaller
    tar, home = io.BytesIO(), f"d{number}"
    entries = [Entry(home, Kind.DIRECTORY, 0o755)]
    for each in range(_FILES):
        data = noise.randbytes(_FILE)
        entries.append(Entry(f"{home}/{each}", size=_FILE, open=partial(io.BytesIO, data)))
    write_entries(entries, tar)
    return engine.store.put_bytes(OCI_LAYER, tar.getvalue())


def _free(root: Path) -> int:
    """With all that was written on the disk."""
    sync_tree(root)
    status = os.statvfs(root)
    return status.f_bfree * status.f_frsize


def _size(driver: Snapshotter, keys: Sequence[str], vanished: int) -> int:
    """For one container. Its files' own sizes count what reflinks share: then free space says less.

    Where others write too, or where the driver keeps things elsewhere, free space says nothing.
    """
    told = sum(driver.usage(key).size for key in keys)
    return (min(told, vanished) if vanished > 0 else told) // len(keys)


def _remove_all(engine: Core) -> None:
    """Also what a driver keeps elsewhere; the directories go with the scratch."""
    driver = engine.driver
    for info in list(driver.walk()):
        if info.kind is not SnapshotKind.COMMITTED:
            with contextlib.suppress(SnapshotNotFound):
                driver.remove(info.key)
    drop_unused(driver, ())
    driver.sweep()
    for diff_id in list(engine.layers_store.walk()):
        engine.layers_store.remove(diff_id)
