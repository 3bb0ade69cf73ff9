"""The build cache as something that takes space: what is in it, and what goes when that gets too much.

A step's layer that an image has too costs nothing. Nor does a step that changed no file; its row is kept
for what it says about the steps after it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.build.cache import BuildCache, StepRecord
from lamina.content.collect import image_roots, own_size, reachable
from lamina.content.directorylock import locked
from lamina.content.lease import leased_content
from lamina.engine.building.mounts import CACHES
from lamina.engine.filters import check_filters
from lamina.engine.removed import discard
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.snapshot.snapshotter import SnapshotKind
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core

# docker's words for the kinds of records.
STEP, MOUNT = "regular", "exec.cachemount"
FILTERS = ("until", "unused-for")
_REMOVING = ".removing-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRecord:
    """``size`` is what it keeps on disk, ``own`` how much of that no image needs; times are since the epoch.

    Of several records with one layer, each counts it. ``is_busy``: a build uses it now.
    """

    id: str
    type: str
    text: str
    size: int
    own: int
    created: float
    used: float
    uses: int
    is_busy: bool
    blob: Digest | None = None
    diff_id: Digest | None = None

    @property
    def is_shared(self) -> bool:
        return self.own < self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """``size`` counts each layer once, and those of images not at all."""

    total: int
    active: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedCache:
    ids: tuple[str, ...]
    freed: int


def records(engine: Core) -> tuple[CacheRecord, ...]:
    """Steps and the directories of cache mounts; the one used last comes first.

    A build uses all its steps at once; of these the lower ones come first, for they are the last to go.
    """
    found = [*_steps(engine), *_mounts(engine)]
    return tuple(sorted(found, key=lambda record: (-record.used, record.created, record.id)))


def usage(engine: Core) -> CacheUsage:
    found = records(engine)
    idle = [record for record in found if not record.is_busy]
    size = own_bytes(found)
    busy = own_bytes(record for record in found if record.is_busy)
    return CacheUsage(total=len(found), active=len(found) - len(idle), size=size, reclaimable=size - busy)


def own_bytes(found: Iterable[CacheRecord]) -> int:
    """What would be free without them, each layer counted once."""
    return sum({record.diff_id or record.id: record.own for record in found}.values())


def prune(
    engine: Core, *, all_records: bool, filters: Mapping[str, Sequence[str]], keep: int | None
) -> PrunedCache:
    """The least recently used first. What a build uses now stays.

    Without ``all_records``, steps whose layers an image has stay too: they cost nothing. With ``keep`` no
    more goes than it takes for the rest to have so many bytes.
    """
    from lamina.engine import removing
    from lamina.engine.building import snapshots

    check_filters(filters, FILTERS, "builder prune")
    if keep is not None and keep < 0:
        raise InvalidInput(f"{keep}: a size to keep cannot be below 0")
    limit = engine.clock() - _age(filters) if filters else float("inf")
    # Of dead builds: what they were based on is free now.
    freed = removing.sweep_directories(engine) + snapshots.sweep(engine)
    with engine.store.state.transaction():
        doomed = _doomed(records(engine), all_records=all_records, limit=limit, keep=keep)
        BuildCache(engine.store.state).remove([record.id for record in doomed if record.type == STEP])
    freed += discard(
        engine, [record.blob for record in doomed if record.blob],
        [record.diff_id for record in doomed if record.diff_id],
    )
    freed += sum(_remove_mount(engine, record.id) for record in doomed if record.type == MOUNT)
    return PrunedCache(ids=tuple(record.id for record in doomed), freed=freed)


def _doomed(
    found: Sequence[CacheRecord], *, all_records: bool, limit: float, keep: int | None
) -> list[CacheRecord]:
    holders = Counter(record.diff_id for record in found if record.diff_id)
    left, doomed = own_bytes(found), []
    for record in reversed(found):
        if keep is not None and (left <= keep or not record.own):
            continue
        if record.is_busy or record.used > limit or (record.is_shared and not all_records):
            continue
        doomed.append(record)
        if record.diff_id:
            holders[record.diff_id] -= 1
        left -= record.own if not record.diff_id or not holders[record.diff_id] else 0
    return doomed


def _age(filters: Mapping[str, Sequence[str]]) -> float:
    from lamina.engine.durations import parse_duration

    return max((parse_duration(text) for texts in filters.values() for text in texts), default=0.0)


# -- steps


def _steps(engine: Core) -> Iterator[CacheRecord]:
    from lamina.engine.reached import diff_ids_of

    store = engine.store
    roots = image_roots(store)
    blobs, layers = reachable(store, roots), diff_ids_of(engine, roots)
    leased: set[Digest | None] = {*leased_content(store.state)}
    pinned = _pinned(engine)
    for step in BuildCache(store.state).walk():
        blob, layer = _sizes(engine, step)
        own = (0 if _digest(step) in blobs else blob) + (0 if step.diff_id in layers else layer)
        yield CacheRecord(
            id=step.key, type=STEP, text=step.text, size=blob + layer, own=own, created=step.created,
            used=step.used, uses=step.uses, blob=_digest(step), diff_id=step.diff_id,
            is_busy=bool({_digest(step), step.diff_id} & leased) or (own > 0 and step.diff_id in pinned),
        )


def _digest(step: StepRecord) -> Digest | None:
    return step.layer.digest if step.layer is not None else None


def _sizes(engine: Core, step: StepRecord) -> tuple[int, int]:
    """Bytes on disk of the blob, and of the unpacked layer."""
    if step.layer is None or step.diff_id is None:
        return 0, 0
    blob = 0
    with contextlib.suppress(FileNotFoundError):
        blob = own_size(os.stat(engine.store.blob_path(step.layer.digest)))
    return blob, engine.layers_store.size(step.diff_id)


def _pinned(engine: Core) -> set[Digest]:
    """Layers below something that is written to, or mounted."""
    found: set[Digest] = set()
    for driver in engine.drivers():
        infos = {info.key: info for info in driver.walk()}
        for info in infos.values():
            below = infos.get(info.parent) if info.kind is not SnapshotKind.COMMITTED else None
            while below is not None:
                if below.diff_id is not None:
                    found.add(below.diff_id)
                below = infos.get(below.parent)
    return found


# -- cache mounts


def _mounts(engine: Core) -> Iterator[CacheRecord]:
    """An empty one is none."""
    from lamina.snapshot.trees import measure

    for home in _homes(engine):
        places = _places(home)
        if not places:
            continue
        used = home.stat().st_mtime
        size = sum(measure(place).size for place in places)
        yield CacheRecord(
            id=home.name, type=MOUNT, text="RUN --mount=type=cache", size=size, own=size, created=used,
            used=used, uses=0, is_busy=any(_is_locked(place) for place in places),
        )


def _homes(engine: Core) -> list[Path]:
    try:
        return sorted(path for path in (engine.root / CACHES).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _places(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir())


def _is_locked(place: Path) -> bool:
    with locked(place) as is_alone:
        return not is_alone


def _remove_mount(engine: Core, name: str) -> int:
    """The bytes that went. Its directory stays: a build may be about to make another one in it."""
    from lamina.snapshot.hands import empty_anyhow
    from lamina.snapshot.trees import measure

    home, freed = engine.root / CACHES / name, 0
    for place in _places(home):
        with locked(place) as is_alone:
            if not is_alone:
                continue
            doomed = home / f"{_REMOVING}{os.urandom(8).hex()}"
            os.rename(place, doomed)
        freed += measure(doomed).size
        empty_anyhow(doomed)
    return freed
