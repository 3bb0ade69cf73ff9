"""Questions about layers, answered from their indexes: nothing is inflated for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from lamina.engine import images
from lamina.errors import InvalidInput, NotFound
from lamina.image import Image
from lamina.insight import provenance
from lamina.insight.provenance import Blame, LayerSummary, Obscured
from lamina.layer.entry import Entry, Kind, normalise
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.layer.index import LayerIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One file of the union, or of one layer. ``mtime`` is nanoseconds; ``target`` a link's text."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: str
    layer: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2] or "/"


class PathNotFound(NotFound):
    pass


class NotAFile(InvalidInput):
    pass


def open_tree(engine: Core, image: Image) -> Tree:
    return Tree(open_indexes(engine, image))


def open_indexes(engine: Core, image: Image) -> list[LayerIndex]:
    """One a layer, base first. A layer that nobody unpacked yet (pushed into ``serve``) is read now."""
    missing = [layer for layer in image.layers if not engine.layers_store.has_index(layer.diff_id)]
    if missing:
        from lamina.engine.landing import unpack_present

        unpack_present(engine, image)
    return [engine.layers_store.index(layer.diff_id) for layer in image.layers]


def layers(engine: Core, name: str) -> tuple[LayerSummary, ...]:
    image = images.load(engine, name)
    tree = open_tree(engine, image)
    return provenance.summarise(image, tree, shared_with=sharing(engine, image))


def ls(
    engine: Core, name: str, path: str, *, layer: int | None, recursive: bool
) -> tuple[FileRow, ...]:
    image = images.load(engine, name)
    if layer is not None:
        return _ls_layer(engine, image, normalise(path), layer, recursive=recursive)
    tree = open_tree(engine, image)
    node = tree.lookup(normalise(path), follow=True)
    if node is None:
        raise PathNotFound(f"{path}: no such file or directory in {name}")
    if node.entry.kind is not Kind.DIRECTORY:
        return (_row(node.entry, node.layer),)
    found = tree.walk(node.path) if recursive else tree.listdir(node.path)
    return tuple(_row(child.entry, child.layer) for child in found if child.path != node.path)


def cat(engine: Core, name: str, path: str, *, layer: int | None) -> BinaryIO:
    image = images.load(engine, name)
    if layer is not None:
        entry = _entry_of_layer(engine, image, normalise(path), layer)
        _insist_on_file(entry, path)
        return engine.layers_store.open_data(image.layers[layer].diff_id, entry)
    node = open_tree(engine, image).lookup(normalise(path), follow=True)
    if node is None:
        raise PathNotFound(f"{path}: no such file in {name}")
    _insist_on_file(node.content, path)
    return engine.layers_store.open_data(image.layers[node.content_layer].diff_id, node.content)


def blame(engine: Core, name: str, path: str) -> Blame:
    image = images.load(engine, name)
    found = provenance.blame(image, open_tree(engine, image), normalise(path))
    if found is None:
        raise PathNotFound(f"{path}: no layer of {name} has it")
    return found


def obscured(engine: Core, name: str) -> tuple[Obscured, ...]:
    image = images.load(engine, name)
    return provenance.obscured(image, open_tree(engine, image))


def _ls_layer(
    engine: Core, image: Image, path: str, layer: int, *, recursive: bool
) -> tuple[FileRow, ...]:
    """A layer as it was made: whiteouts are shown under the names they have there."""
    index = _index_of_layer(engine, image, layer)
    below = f"{path}/" if path else ""
    rows = []
    for entry in index.entries():
        is_itself = entry.path == path and entry.kind is not Kind.DIRECTORY
        is_inside = entry.path.startswith(below) and (recursive or "/" not in entry.path[len(below):])
        if entry.path and (is_itself or is_inside):
            rows.append(_row(entry, layer))
    if path and not rows:
        raise PathNotFound(f"/{path}: not in layer {layer}")
    return tuple(sorted(rows, key=lambda row: row.path))


def _entry_of_layer(engine: Core, image: Image, path: str, layer: int) -> Entry:
    index = _index_of_layer(engine, image, layer)
    position = index.find(path)
    for _hop in range(len(index) + 1):
        if position is None:
            break
        entry = index.entry(position)
        if entry.kind is not Kind.HARDLINK:
            return entry
        position = index.find(entry.linkname)
    raise PathNotFound(f"/{path}: not in layer {layer}")


def _index_of_layer(engine: Core, image: Image, layer: int) -> LayerIndex:
    if not 0 <= layer < len(image.layers):
        raise InvalidInput(f"layer {layer}: the image has layers 0 to {len(image.layers) - 1}")
    return open_indexes(engine, image)[layer]


def sharing(engine: Core, image: Image) -> dict[Digest, tuple[str, ...]]:
    """For each diff id, the other local images that have the same layer, by their first name or ID."""
    mine = {layer.diff_id for layer in image.layers}
    found: dict[Digest, list[str]] = {}
    for record in engine.store.catalog.records():
        other = images.load_sound(engine, record) if record.config != image.config.digest else None
        for diff_id in mine.intersection(other.config.diff_ids) if other is not None else ():
            found.setdefault(diff_id, []).append(images.shown_name(record))
    return {diff_id: tuple(sorted(names)) for diff_id, names in found.items()}


def _insist_on_file(entry: Entry, path: str) -> None:
    if entry.kind is not Kind.FILE:
        raise NotAFile(f"{path}: a {entry.kind.name.lower()}, not a file")


def _row(entry: Entry, layer: int) -> FileRow:
    return FileRow(
        path=entry.path, kind=entry.kind, mode=entry.mode, uid=entry.uid, gid=entry.gid, size=entry.size,
        mtime=entry.mtime, target=entry.linkname, layer=layer,
    )
