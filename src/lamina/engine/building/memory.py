"""What a build takes from the cache and gives to it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lamina.build.cache import StepRecord
from lamina.build.context import Context
from lamina.build.stages import Stage
from lamina.engine.building.state import BuiltLayer
from lamina.errors import InvalidInput
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from lamina.engine.building.build import Build
    from lamina.engine.building.exchange import ImportedCache
    from lamina.engine.layering import Fill


class Memory:
    """``records`` are those that this build made or used, ``hits`` how many steps it was spared."""

    def __init__(self, build: Build, context: Context, imports: Sequence[ImportedCache]) -> None:
        self.records: dict[str, StepRecord] = {}
        self.hits = 0
        self._build = build
        self._imports = imports
        self._lock = threading.Lock()
        self._used: list[str] = []
        status = os.fstat(context.descriptor)
        place = f"{status.st_dev} {status.st_ino} {build.dockerfile.name}"
        self._place = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def close(self) -> None:
        """What was of use is the last to go when the cache is shortened."""
        self._build.cache.touch(self._used, self._build.engine.clock())

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """What changes the bytes of every layer."""
        latest = self._build.options.latest
        return [] if latest is None else [("the epoch", str(latest))]

    def recall(self, key: str, stage: Stage | None) -> StepRecord | None:
        """Only if its layer is here still; leased before that is looked at."""
        if stage is not None and self.is_uncached(stage):
            return None
        record = self._build.cache.find(key) or self._imported(key)
        if record is None:
            return None
        if record.layer is not None and record.diff_id is not None:
            self._build.lease.hold([record.layer.digest, record.diff_id])
            store = self._build.engine.store
            if not (store.has(record.layer) and self._build.engine.layers_store.has_index(record.diff_id)):
                return None
        with self._lock:
            self._used.append(key)
            self.records[key] = record
            self.hits += stage is not None
        return record

    def _imported(self, key: str) -> StepRecord | None:
        """From a cache that lies elsewhere, verified before it is believed, and here from now on."""
        for source in self._imports:
            found = source.fetch(key, self._build.lease)
            if found is not None:
                self._build.cache.add(found)
                return found
        return None

    def remember(self, record: StepRecord) -> None:
        self._build.cache.add(record)
        with self._lock:
            self.records[record.key] = record
            self._used.append(record.key)  # now: it was made at the epoch, if there is one

    def is_uncached(self, stage: Stage) -> bool:
        names = {stage.name, str(stage.number)}
        return self._build.options.no_cache or bool(names.intersection(self._build.options.no_cache_filter))

    def site(self, stage: Stage, position: int) -> str:
        return f"{self._place} {stage.label} {position}"

    def layer_apart(self, digest: Digest, fill: Fill) -> tuple[BuiltLayer, ...]:
        """A layer that belongs to no image: what a bind mount shows. Remembered like a step's."""
        from lamina.engine.layering import store_layer

        def make() -> tuple[Descriptor, Digest]:
            layer = store_layer(self._build.engine, fill, lambda diff_id: self._build.lease.hold([diff_id]))
            if layer is None:
                raise InvalidInput("nothing to mount: the source has no files")
            return layer, layer.digest

        return (self.derived("mount", [("the files", str(digest))], make),)

    def derived(
        self, kind: str, fixed: list[tuple[str, str]], make: Callable[[], tuple[Descriptor, Digest]]
    ) -> BuiltLayer:
        """A layer that is no step's own but follows from others, made once."""
        from lamina.build.key import ingredients

        parts = ingredients(kind, fixed)
        with self._build.course.alone_with(parts.key):
            record = self.recall(parts.key, None)
            if record is not None and record.layer is not None and record.diff_id is not None:
                return BuiltLayer(descriptor=record.layer, diff_id=record.diff_id)
            layer, diff_id = make()
            self.remember(StepRecord(
                key=parts.key, site="", text=kind, ingredients=parts, created=self._build.now,
                diff_id=diff_id, layer=layer,
            ))
            return BuiltLayer(descriptor=layer, diff_id=diff_id)
