"""What nothing reaches and nobody writes any more: found, counted, and swept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.collect import (
    image_roots,
    sweep,
    unreachable,
)
from lamina.content.ingest import claim
from lamina.content.lease import live_content
from lamina.engine import misplaced, removing
from lamina.engine.building import snapshots
from lamina.engine.leaving import leave_all
from lamina.engine.reached import diff_ids_of, live_chains
from lamina.engine.removed import Removal, Removed, remove_layers
from lamina.oci.digest import Digest
from lamina.snapshot import trying
from lamina.snapshot.collect import drop_unused, unused_snapshots
from lamina.snapshot.trees import measure
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What nothing reaches, and what nobody writes any more.

    ``unfinished`` are layers, snapshots and containers whose makers died.
    """

    blobs: list[tuple[Digest, int]]
    layers: list[tuple[Digest, int]]
    snapshots: list[tuple[str, int]]
    ingests: list[tuple[Path, int]]
    unfinished: list[tuple[Path, int]]

    @property
    def count(self) -> int:
        parts = (self.blobs, self.layers, self.snapshots, self.ingests, self.unfinished)
        return sum(len(part) for part in parts)

    @property
    def size(self) -> int:
        parts = (self.blobs, self.layers, self.snapshots, self.ingests, self.unfinished)
        return sum(size for part in parts for _name, size in part)


def find_leftovers(engine: Core) -> Leftovers:
    """None where nothing can be written: nor would any go."""
    store = engine.store
    if store.state.is_read_only:
        return Leftovers(blobs=[], layers=[], snapshots=[], ingests=[], unfinished=[])
    roots = image_roots(store)
    live_layers = diff_ids_of(engine, roots) | live_content(store.state)
    return Leftovers(
        blobs=unreachable(store, roots, engine.clock()),
        layers=[
            (diff_id, size) for diff_id, size in engine.layers_store.usage()
            if diff_id not in live_layers and not engine.layers_store.is_busy(diff_id)
        ],
        snapshots=[
            (info.key, size)
            for driver in engine.drivers()
            for info, size in unused_snapshots(driver, live_chains(engine, roots))
        ] + [
            (info.key, driver.usage(info.key).size)
            for driver, info in (*snapshots.abandoned(engine), *misplaced.misplaced(engine))
        ],
        ingests=_dead_ingests(engine),
        unfinished=[
            *engine.layers_store.leftovers(), *removing.abandoned(engine), *trying.leftovers(engine.root),
            *(each for driver in engine.drivers() for each in driver.leftovers()),
        ],
    )


def _dead_ingests(engine: Core) -> list[tuple[Path, int]]:
    found = []
    for path in sorted((engine.root / "ingest").iterdir()):
        directory = claim(path, wait=False) if path.is_dir() else None
        if directory is not None:
            found.append((path, measure(path).size))
            directory.close()
    return found


def sweep_leftovers(engine: Core) -> list[Removed]:
    leftovers = find_leftovers(engine)
    store = engine.store
    # Of a `rmi` that was killed, rows of dropped blobs may be all that is left.
    among = {digest for digest, _size in leftovers.blobs} | {blob.digest for blob in store.dropped.walk()}
    swept = sweep(store, lambda: image_roots(store), engine.clock(), among=among)
    removed = []
    if swept.blobs:
        removed.append(Removed(kind=Removal.DELETED, subject=f"{len(swept.blobs)} blobs", size=swept.freed))
    keep = live_chains(engine, image_roots(store))
    freed = snapshots.sweep(engine) + misplaced.sweep(engine)
    freed += sum(drop_unused(driver, keep) for driver in engine.drivers())
    if freed:
        removed.append(Removed(kind=Removal.DELETED, subject="unused snapshots", size=freed))
    removed += remove_layers(engine, [diff_id for diff_id, _size in leftovers.layers])
    swept_work = engine.layers_store.sweep() + sum(driver.sweep() for driver in engine.drivers())
    swept_work += removing.sweep_directories(engine) + leave_all(engine) + trying.sweep(engine.root)
    if swept_work:
        removed.append(Removed(kind=Removal.DELETED, subject="unfinished work", size=swept_work))
    for path, size in leftovers.ingests:
        if _remove_ingest(path):
            removed.append(Removed(kind=Removal.DELETED, subject=f"ingest {path.name[:24]}", size=size))
    return removed


def _remove_ingest(path: Path) -> bool:
    """Under its lock: somebody may have gone on with it since it was found dead."""
    directory = claim(path, wait=False) if path.is_dir() else None
    if directory is None:
        return False
    directory.remove()
    directory.close()
    return True
