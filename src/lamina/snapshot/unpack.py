"""Layers unpacked while they arrive: several at once, each proved by its diff id, committed as a stack.

A few lanes, each a daemon thread, take layers in the order in which they begin to arrive. A large layer
goes to the lane's worker process, which follows the growing file; a small one is done in the thread.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Self

from lamina.content.arrival import Arrival
from lamina.content.store import CHUNK
from lamina.errors import NotFound
from lamina.events import Action, Event, Report, silent
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.snapshot.hands import Worker
from lamina.snapshot.layers import LayerStore, Wanted
from lamina.snapshot.namespace import Identity
from lamina.snapshot.snapshotter import Form, Snapshotter
from lamina.values import dataclass

# Below this, starting a process costs more than unpacking.
SMALL = 1 << 20
_STOP_SECONDS = 5.0


class LayerMissing(NotFound):
    """A stack was to be finished before all of its layers were submitted."""


class Cancelled(Exception):
    """Another layer failed. Never leaves this module: the first error does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLayer:
    """What was learnt about a blob by unpacking it. Sizes are bytes."""

    blob: Digest
    diff_id: Digest
    tar_size: int
    content_size: int
    entries: int


@dataclass(slots=True)
class _Task:
    blob: Descriptor
    diff_id: Digest
    arrival: Arrival
    is_done: threading.Event


class Unpacker:
    """Safe to be told of layers by many threads. Close it: what is half-done is undone then."""

    def __init__(
        self, layers: LayerStore, driver: Snapshotter, *, workers: int = 2, report: Report = silent
    ) -> None:
        self._layers = layers
        self._driver = driver
        self._report = report
        self._limit = max(1, workers)
        self._lock = threading.Lock()
        self._tasks: dict[Digest, _Task] = {}
        self._also: list[tuple[Digest, Digest]] = []
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lanes: list[_Lane] = []
        self._error: BaseException | None = None

    def submit(self, blob: Descriptor, diff_id: Digest, arrival: Arrival) -> None:
        """Begins to unpack a layer, in the background. Idempotent.

        Raises the error of another layer, if one has failed already: nobody needs this one then.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if diff_id in self._tasks:
                if self._tasks[diff_id].blob.digest != blob.digest:
                    self._also.append((blob.digest, diff_id))
                return
            if self.is_here(diff_id):
                if not arrival.is_complete:
                    self._also.append((blob.digest, diff_id))
                return
            task = _Task(blob, diff_id, arrival, threading.Event())
            self._tasks[diff_id] = task
            if len(self._lanes) < self._limit:
                self._lanes.append(_Lane(self))
            self._waiting.put(task)

    def finish(self, diff_ids: Sequence[Digest]) -> Sequence[ReceivedLayer]:
        """Waits for the layers of a stack, and makes it a committed snapshot named by its chain id.

        Raises the first error of any layer. Answers with the layers that were unpacked now, or whose
        blob is new; :meth:`LayerStore.facts` knows the others.
        """
        received = self.wait(diff_ids)
        if diff_ids:
            self._driver.commit_layers(diff_ids)
        return received

    def wait(self, diff_ids: Sequence[Digest]) -> Sequence[ReceivedLayer]:
        """As :meth:`finish`, for layers that make no stack yet."""
        for diff_id in dict.fromkeys(diff_ids):
            task = self._tasks.get(diff_id)
            if task is not None:
                task.is_done.wait()
                if self._error is not None:
                    raise self._error
            elif not self.is_here(diff_id):
                raise LayerMissing(f"{diff_id}: this layer was not submitted, and is not unpacked here")
        wanted = set(diff_ids)
        pairs = [(task.blob.digest, diff_id) for diff_id, task in self._tasks.items()] + self._also
        return tuple(self.received(blob, diff_id) for blob, diff_id in pairs if diff_id in wanted)

    def close(self) -> None:
        """Stops what is still running. Blocks until workers have cleaned up after themselves."""
        with self._lock:
            self._error = self._error or Cancelled()
            lanes, self._lanes = self._lanes, []
        for _lane in lanes:
            self._waiting.put(None)
        for lane in lanes:
            lane.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def is_here(self, diff_id: Digest) -> bool:
        """Whether a layer was received as the driver asks."""
        reception = self._driver.reception
        return self._layers.has(diff_id, reception.form, reception.key)

    def received(self, blob: Digest, diff_id: Digest) -> ReceivedLayer:
        """Of a layer that is here."""
        facts = self._layers.facts(diff_id)
        return ReceivedLayer(
            blob=blob, diff_id=diff_id, tar_size=facts.tar_size, content_size=facts.content_size,
            entries=facts.entries,
        )

    # -- for the lanes

    def next_task(self) -> _Task | None:
        return self._waiting.get()

    def perform(self, task: _Task, lane: _Lane) -> None:
        try:
            self._stop_if_failed()
            if task.blob.size < SMALL and not self._must_enter:
                self._unpack_here(task)
            else:
                lane.worker(self._driver.identity).run(
                    "receive", {"root": str(self._layers.root), "wanted": self._wanted(task).to_json()},
                    source=task.arrival, progress=lambda position: self._say(task, position),
                )
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
        finally:
            task.is_done.set()

    @property
    def _must_enter(self) -> bool:
        return self._driver.reception.form is Form.TREE and not self._driver.identity.is_entered

    def _unpack_here(self, task: _Task) -> None:
        from lamina.snapshot.receive import receive_layer  # noqa: PLC0415 - inflating costs 10 ms of imports

        with _Arriving(task.arrival, self._stop_if_failed) as stream:
            receive_layer(self._layers, stream, self._wanted(task))  # type: ignore[arg-type]  # only reads

    def _wanted(self, task: _Task) -> Wanted:
        blob = str(task.arrival.final or "")
        return Wanted(diff_id=task.diff_id, reception=self._driver.reception, blob=blob)

    def _stop_if_failed(self) -> None:
        if self._error is not None:
            raise Cancelled

    def _say(self, task: _Task, position: int) -> None:
        """While bytes still arrive, downloading is what the line about this layer says."""
        if task.arrival.is_complete:
            self._report(Event(action=Action.EXTRACTING, subject=task.blob.digest, current=position,
                               total=task.blob.size))


class _Lane:
    """One layer at a time. Its worker process starts with the first layer that needs one."""

    def __init__(self, owner: Unpacker) -> None:
        self._owner = owner
        self._worker: Worker | None = None
        # Daemonic: a failure elsewhere must be able to end the program while a blob does not arrive.
        self._thread = threading.Thread(target=self._work, name="unpack", daemon=True)
        self._thread.start()

    def worker(self, identity: Identity) -> Worker:
        if self._worker is None:
            self._worker = Worker(identity)
        return self._worker

    def stop(self) -> None:
        """The thread ends by itself, unless it waits for a blob that nobody sends any more."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.join(_STOP_SECONDS)
        if self._worker is not None:
            self._worker.close()

    def _work(self) -> None:
        while (task := self._owner.next_task()) is not None:
            self._owner.perform(task, self)


class _Arriving(io.RawIOBase):
    """An arrival as a stream, for a reader in this process."""

    def __init__(self, arrival: Arrival, check: Callable[[], None]) -> None:
        super().__init__()
        self._file = open(arrival.path, "rb", buffering=0)  # noqa: SIM115 - closed with this
        self._arrival = arrival
        self._check = check
        self._position = 0
        self._available = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        self._check()
        if self._position >= self._available:
            self._available = self._arrival.wait(self._position)
        chunk = self._file.read(min(size, self._available - self._position))
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
