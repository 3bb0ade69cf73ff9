"""One mover for every copy: pull, push, save, load and mirror differ only in the two ends.

Documents are read whole on the way down; then leaves move, several at once, and documents land after
everything they point at, the root last. A target never holds a document whose chosen children are
missing, at whichever instruction the process dies.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import BinaryIO, Protocol, runtime_checkable

from lamina.content.arrival import Arrival
from lamina.content.ingest import LocalIngest
from lamina.content.store import (
    CHUNK,
    ContentStore,
    Fetcher,
    Mounter,
    RangedFetcher,
    SizeMismatch,
    VerifyingReader,
    read_all,
)
from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.events import Action, Event, Report, silent
from lamina.oci.descriptor import GRAPH_NODES, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, successors
from lamina.values import dataclass, field

# An index of indexes is legal; nobody nests deeper than two (SECURITY: a registry that answers by tag
# could otherwise lead on for ever).
MAX_DEPTH = 8
MAX_DOCUMENTS = 20_000
# How long threads get to notice that the copy is over, all together.
STOP_SECONDS = 2.0

Choose = Callable[[Descriptor, Sequence[Descriptor]], Iterable[Descriptor]]
Observe = Callable[[Descriptor, Arrival], None]
Origins = Callable[[Digest], Iterable[str]]


class GraphTooDeep(InvalidInput):
    pass


class CopyCancelled(Exception):
    """Another blob of the same copy failed. Never leaves this module: the first error does."""


@runtime_checkable
class Landing(Protocol):
    """A target that can resume, and that lets others watch a blob arrive."""

    def begin(self, expected: Descriptor) -> LocalIngest | None: ...

    def arrived(self, wanted: Descriptor) -> Arrival: ...


@runtime_checkable
class SecondThoughts(Protocol):
    """A source that has content from several places."""

    def doubts(self, wanted: Descriptor) -> int:
        """Grows when what it gave may have been wrong, and it would give it otherwise the next time."""
        ...


def everything(_parent: Descriptor, children: Sequence[Descriptor]) -> Iterable[Descriptor]:
    return children


def nothing_known(_blob: Digest) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a copy moves: leaves in the order met, documents from the root down."""

    documents: list[tuple[Descriptor, bytes]] = field(default_factory=list)
    leaves: list[Descriptor] = field(default_factory=list)


def copy_graph(
    source: Fetcher,
    target: ContentStore,
    root: Descriptor,
    *,
    choose: Choose = everything,
    observe: Observe | None = None,
    origins: Origins = nothing_known,
    report: Report = silent,
    workers: int = 3,
) -> Plan:
    """Copies a document and what it reaches, as far as ``choose`` lets it; returns what was visited.

    ``observe`` is told of each leaf that lands in a :class:`Landing` target, from its first byte, and
    of those that were there. ``origins`` names repositories to try a cross-repository mount from.
    The first error stops all transfers and is raised; what has landed so far stays for the next time.
    """
    plan = plan_copy(source, root, choose)
    mover = _Mover(source, target, observe, origins, report)
    mover.move_all(plan.leaves, workers)
    for descriptor, raw in reversed(plan.documents):
        if not target.has(descriptor):
            target.put(descriptor, io.BytesIO(raw))
    return plan


def plan_copy(source: Fetcher, root: Descriptor, choose: Choose = everything) -> Plan:
    """Reads the documents, verified and under a cap, and lists the leaves. Nothing is written."""
    plan = Plan()
    seen: set[Digest] = set()
    level = [root]
    for _depth in range(MAX_DEPTH):
        following: list[Descriptor] = []
        for descriptor in level:
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            if descriptor.media_type not in GRAPH_NODES:
                plan.leaves.append(descriptor)
                continue
            if len(plan.documents) >= MAX_DOCUMENTS:
                raise GraphTooDeep(f"{root.digest}: reaches more than {MAX_DOCUMENTS} documents")
            raw = read_all(source, descriptor, MAX_DOCUMENT)
            plan.documents.append((descriptor, raw))
            following.extend(choose(descriptor, successors(descriptor, raw)))
        if not following:
            return plan
        level = following
    raise GraphTooDeep(f"{root.digest}: nested deeper than {MAX_DEPTH} documents")


class _Mover:
    """The threads of one copy, what stops them, and how one leaf moves."""

    def __init__(
        self, source: Fetcher, target: ContentStore, observe: Observe | None, origins: Origins, report: Report
    ) -> None:
        self._source = source
        self._target = target
        self._observe = observe
        self._origins = origins
        self._report = report
        self._is_cancelled = threading.Event()
        self._results: SimpleQueue[BaseException | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._arrivals: list[Arrival] = []

    def move_all(self, leaves: Sequence[Descriptor], workers: int) -> None:
        waiting = [leaf for leaf in leaves if not self._is_there(leaf)]
        if not waiting:
            return
        for leaf in waiting[workers:]:
            self._say(Action.WAITING, leaf)
        tasks: SimpleQueue[Descriptor] = SimpleQueue()
        for leaf in waiting:
            tasks.put(leaf)
        # Daemonic: one may sit in a stalled read when another fails, or at Ctrl-C, and nobody waits for it.
        threads = [
            threading.Thread(target=self._work, args=(tasks,), name="copy", daemon=True)
            for _ in range(max(1, min(workers, len(waiting))))
        ]
        for thread in threads:
            thread.start()
        try:
            self._await(len(waiting))
        except BaseException:
            self._cancel()
            for thread in threads:
                thread.join(STOP_SECONDS / len(threads))
            raise

    def _await(self, count: int) -> None:
        for _leaf in range(count):
            error = self._results.get()
            if error is not None:
                raise error

    def _work(self, tasks: SimpleQueue[Descriptor]) -> None:
        with contextlib.suppress(Empty):
            while not self._is_cancelled.is_set():
                leaf = tasks.get_nowait()
                try:
                    self._move(leaf)
                except BaseException as error:
                    self._results.put(error)
                else:
                    self._results.put(None)

    def _cancel(self) -> None:
        """Tells the threads, and whoever follows their blobs."""
        self._is_cancelled.set()
        with self._lock:
            for arrival in self._arrivals:
                arrival.fail(CopyCancelled())

    def _is_there(self, leaf: Descriptor) -> bool:
        if not self._target.has(leaf):
            self._say(Action.PULLING_LAYER, leaf)
            return False
        self._say(Action.EXISTS, leaf)
        if self._observe is not None and isinstance(self._target, Landing):
            self._observe(leaf, self._target.arrived(leaf))
        return True

    def _move(self, leaf: Descriptor) -> None:
        doubts = self._doubts(leaf)
        try:
            self._move_once(leaf)
        except LaminaError:
            if self._doubts(leaf) == doubts:
                raise
            self._move(leaf)

    def _doubts(self, leaf: Descriptor) -> int:
        return self._source.doubts(leaf) if isinstance(self._source, SecondThoughts) else 0

    def _move_once(self, leaf: Descriptor) -> None:
        if self._is_cancelled.is_set():
            raise CopyCancelled
        if isinstance(self._target, Landing):
            self._land(self._target, leaf)
        elif not self._is_mounted(leaf):
            self._hand_over(leaf)

    def _land(self, target: Landing, leaf: Descriptor) -> None:
        ingest = target.begin(leaf)
        if ingest is None:  # somebody else landed it while we waited
            if self._observe is not None:
                self._observe(leaf, target.arrived(leaf))
            self._say(Action.DOWNLOADED, leaf)
            return
        with ingest:
            if self._observe is not None and ingest.arrival is not None:
                with self._lock:
                    self._arrivals.append(ingest.arrival)
                self._observe(leaf, ingest.arrival)
            if ingest.offset < leaf.size:
                with self._open_at(leaf, ingest) as stream:
                    self._pour(stream, ingest, leaf)
            self._say(Action.VERIFYING, leaf)
            ingest.commit(leaf.media_type)
        self._say(Action.DOWNLOADED, leaf)

    def _open_at(self, leaf: Descriptor, ingest: LocalIngest) -> BinaryIO:
        if ingest.offset and isinstance(self._source, _Ranged):
            try:
                return self._source.open_at(leaf, ingest.offset)
            except Unsupported:
                pass
        if ingest.offset:
            ingest.restart()
        return self._source.open(leaf)

    def _pour(self, stream: BinaryIO, ingest: LocalIngest, leaf: Descriptor) -> None:
        while chunk := stream.read(CHUNK):
            if self._is_cancelled.is_set():
                raise CopyCancelled
            if ingest.offset + len(chunk) > leaf.size:
                raise SizeMismatch(f"{leaf.digest}: expected {leaf.size} bytes, got more")
            ingest.write(chunk)
            self._say(Action.DOWNLOADING, leaf, ingest.offset)

    def _is_mounted(self, leaf: Descriptor) -> bool:
        if not isinstance(self._target, _Mounting):
            return False
        for repository in self._origins(leaf.digest):
            if self._target.mount(leaf, repository):
                self._report(Event(action=Action.MOUNTED, subject=leaf.digest, detail=repository))
                return True
        return False

    def _hand_over(self, leaf: Descriptor) -> None:
        with _Counting(leaf, self._source.open(leaf), self) as stream:
            self._target.put(leaf, stream)  # type: ignore[arg-type]  # RawIOBase reads as BinaryIO does
        self._say(Action.DOWNLOADED, leaf)

    def passed(self, leaf: Descriptor, count: int) -> None:
        if self._is_cancelled.is_set():
            raise CopyCancelled
        self._say(Action.DOWNLOADING, leaf, count)

    def _say(self, action: Action, leaf: Descriptor, current: int | None = None) -> None:
        self._report(Event(action=action, subject=leaf.digest, current=current, total=leaf.size,
                           detail=leaf.media_type))


@runtime_checkable
class _Ranged(RangedFetcher, Protocol):
    """Checkable at run time, which the public protocol need not be."""


@runtime_checkable
class _Mounting(Mounter, Protocol):
    """Checkable at run time."""


class _Counting(VerifyingReader):
    """What a target without ``begin`` reads: verified, counted, and cancelled with the rest."""

    def __init__(self, leaf: Descriptor, source: BinaryIO, mover: _Mover) -> None:
        super().__init__(leaf, source)
        self._leaf = leaf
        self._mover = mover
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        chunk = super().read(size)
        self._count += len(chunk)
        if chunk:
            self._mover.passed(self._leaf, self._count)
        return chunk

