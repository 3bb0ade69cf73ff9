"""The union of a stack as one plain directory: the driver vfs' committed trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from lamina.layer.apply import apply
from lamina.layer.entry import Entry
from lamina.layer.root import DirectoryRoot
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.look import ownership
from lamina.values import replace


def compose_job(*, root: str, diff_ids: list[str], target: str, keeps_owners: bool) -> list[int]:
    """What a worker does; see :func:`compose`."""
    path = Path(target)
    stack = [Digest.parse(text) for text in diff_ids]
    compose(LayerStore(Path(root)), stack, path, keeps_owners=keeps_owners)
    usage = trees.measure(path)
    return [usage.size, usage.inodes]


def compose(layers: LayerStore, diff_ids: Sequence[Digest], target: Path, *, keeps_owners: bool) -> None:
    """Writes what the union shows, and nothing else. Synced when this returns; the caller names it."""
    trees.make_root(target)
    with DirectoryRoot(target, owner=ownership(keeps_owners)) as root:
        apply(merged(layers, diff_ids), root)
    trees.sync_tree(target)


def merged(layers: LayerStore, diff_ids: Sequence[Digest]) -> Iterator[Entry]:
    """The stack as one layer, each file with a way to open its content."""
    union = Tree(layers.index(diff_id) for diff_id in diff_ids)
    for entry, number, content in union.live_entries():
        yield replace(entry, open=partial(layers.open_data, diff_ids[number], content))
