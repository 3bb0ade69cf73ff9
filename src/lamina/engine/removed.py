"""What went: names, images, layers; and the removal of layers that nothing needs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from lamina.content.collect import image_roots, sweep
from lamina.content.lease import live_content
from lamina.engine.reached import diff_ids_of
from lamina.oci.digest import Digest
from lamina.snapshot.collect import release_layer
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


class Removal(StrEnum):
    UNTAGGED = "Untagged"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """``size`` is what went from disk with a deletion."""

    kind: Removal
    subject: str
    size: int = 0


def remove_layers(engine: Core, layers: Iterable[Digest]) -> list[Removed]:
    """Unpacked forms that no image and no lease needs; decided under the lock that leases take."""
    removed = []
    drivers = engine.drivers()
    with engine.store.state.transaction():
        live = diff_ids_of(engine, image_roots(engine.store)) | live_content(engine.store.state)
        doomed = [diff_id for diff_id in dict.fromkeys(layers) if diff_id not in live]
        # Before anything goes: with a base's snapshots a driver drops forms of the layers above it too.
        sizes = {diff_id: engine.layers_store.size(diff_id) for diff_id in doomed}
        for diff_id in doomed:
            size = sizes[diff_id] + sum(release_layer(driver, diff_id) for driver in drivers)
            engine.layers_store.remove(diff_id)
            removed.append(Removed(kind=Removal.DELETED, subject=str(diff_id), size=size))
    return removed


def discard(engine: Core, content: Iterable[Digest], layers: Iterable[Digest]) -> int:
    """Takes back blobs, and unpacked layers by diff id, that no image and no lease needs after all.

    Returns the bytes that went.
    """
    store = engine.store
    swept = sweep(store, lambda: image_roots(store), engine.clock(), grace=float("-inf"), among=set(content))
    return swept.freed + sum(each.size for each in remove_layers(engine, layers))
