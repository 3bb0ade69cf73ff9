"""Two images side by side: which files, layers and settings differ.

Files are those of the unions, what containers see. Content is compared cheaply first: the same place of the
same layer is the same, another size is not, and only what is left is read, once, and hashed. Times are
ignored unless asked for: every build gives new ones. So is which names share one file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from lamina.image import Image, Layer
from lamina.insight.instruction import instruction_of
from lamina.insight.survey import OpenData, Place, hash_contents
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Node, Tree
from lamina.oci.digest import Digest
from lamina.values import dataclass

_DEVICES = (Kind.CHAR, Kind.BLOCK)
# Of the config's own object, what people set in a Dockerfile. Sets are objects with empty values.
_SINGLE = ("Entrypoint", "Cmd", "User", "WorkingDir", "StopSignal", "Shell", "Healthcheck")
_NAMED = ("Labels", "ExposedPorts", "Volumes")


class Change(StrEnum):
    """docker diff's letters."""

    ADDED = "A"
    CHANGED = "C"
    REMOVED = "D"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    image: Image
    tree: Tree
    open_data: OpenData


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """``before`` and ``after`` are entries as the unions show them, ``None`` on the side that has none.

    ``fields`` says what is different in a path that both have: some of ``kind``, ``content``, ``mode``,
    ``owner``, ``mtime``, ``xattrs``, ``target``, ``device``. ``bytes_before`` and ``bytes_after`` add up:
    they are 0 for a further name of a file that an earlier path has counted.
    """

    path: str
    change: Change
    fields: tuple[str, ...]
    before: Entry | None
    after: Entry | None
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """A layer and where it stands in each image, ``None`` where it does not. ``size`` is the blob's.

    ``is_prefix``: all layers below it are the same too.
    """

    before: int | None
    after: int | None
    is_prefix: bool
    diff_id: Digest
    size: int
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """``name`` is a variable or a label, else ``""``. A value is ``None`` on the side that has none."""

    field: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    files: tuple[FileChange, ...]
    layers: tuple[LayerChange, ...]
    config: tuple[ConfigChange, ...]

    @property
    def is_same(self) -> bool:
        """What a container sees and how it runs; the layers may differ."""
        return not self.files and not self.config


def compare_images(before: Side, after: Side, *, path: str = "", times: bool = False) -> Comparison:
    """``path`` is normalised; only files at and below it are compared. Files come in the order of paths."""
    return Comparison(
        files=tuple(_Files(before, after, times=times).compare(path)),
        layers=tuple(compare_layers(before.image, after.image)),
        config=tuple(compare_configs(before.image, after.image)),
    )


# -- files


class _Files:
    def __init__(self, before: Side, after: Side, *, times: bool) -> None:
        self._sides = (before, after)
        self._times = times
        self._wanted: tuple[dict[Place, Entry], dict[Place, Entry]] = ({}, {})
        self._counted: tuple[set[tuple[int, int]], set[tuple[int, int]]] = (set(), set())

    def compare(self, path: str) -> Iterator[FileChange]:
        """Pairs that only their content can tell apart wait until it was read."""
        found: list[tuple[Node | None, Node | None, list[str], bool]] = []
        before, after = self._sides
        for one, other in _paired(before.tree.walk(path), after.tree.walk(path)):
            if one is None or other is None:
                found.append((one, other, [], False))
                continue
            fields = _differences(one.entry, other.entry, times=self._times)
            is_open = self._is_open(one, other, fields)
            if fields or is_open:
                found.append((one, other, fields, is_open))
        yield from self._judge(found)

    def _is_open(self, one: Node, other: Node, fields: list[str]) -> bool:
        """Adds ``content`` where the sizes tell; says whether only reading can."""
        if one.entry.kind is not Kind.FILE or other.entry.kind is not Kind.FILE:
            return False
        if one.content.size != other.content.size:
            fields.append("content")
            return False
        if not one.content.size or self._origin(0, one) == self._origin(1, other):
            return False
        for wanted, node in zip(self._wanted, (one, other), strict=True):
            wanted[_place(node)] = node.content
        return True

    def _origin(self, side: int, node: Node) -> tuple[Digest, int]:
        layer = self._sides[side].image.layers[node.content_layer]
        return layer.diff_id, node.content.data_offset

    def _judge(
        self, found: Iterable[tuple[Node | None, Node | None, list[str], bool]]
    ) -> Iterator[FileChange]:
        digests = [
            hash_contents(wanted, side.open_data)
            for wanted, side in zip(self._wanted, self._sides, strict=True)
        ]
        for one, other, fields, is_open in found:
            if one is None or other is None:
                node = one or other
                assert node is not None
                change = Change.REMOVED if other is None else Change.ADDED
                yield self._file_change(node.path, change, (), one, other)
                continue
            if is_open and digests[0][_place(one)] != digests[1][_place(other)]:
                fields.append("content")
            if fields:
                yield self._file_change(one.path, Change.CHANGED, tuple(fields), one, other)

    def _file_change(
        self, path: str, change: Change, fields: tuple[str, ...], one: Node | None, other: Node | None
    ) -> FileChange:
        return FileChange(
            path=path, change=change, fields=fields, before=None if one is None else one.entry,
            after=None if other is None else other.entry, bytes_before=self._bytes(0, one),
            bytes_after=self._bytes(1, other),
        )

    def _bytes(self, side: int, node: Node | None) -> int:
        """Of the same file under several names only once."""
        if node is None or node.inode in self._counted[side]:
            return 0
        self._counted[side].add(node.inode)
        return node.entry.size


def _place(node: Node) -> Place:
    return node.content_layer, node.content.data_offset


def _paired(
    before: Iterator[Node], after: Iterator[Node]
) -> Iterator[tuple[Node | None, Node | None]]:
    """Both come in the order of paths."""
    one, other = next(before, None), next(after, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.path < other.path):
            yield one, None
            one = next(before, None)
        elif one is None or other.path < one.path:
            yield None, other
            other = next(after, None)
        else:
            yield one, other
            one, other = next(before, None), next(after, None)


def _differences(one: Entry, other: Entry, *, times: bool) -> list[str]:
    """All but the content. A symlink's mode means nothing."""
    is_same_kind = one.kind is other.kind
    different = {
        "kind": not is_same_kind,
        "mode": one.mode != other.mode and Kind.SYMLINK not in (one.kind, other.kind),
        "owner": (one.uid, one.gid) != (other.uid, other.gid),
        "mtime": times and one.mtime != other.mtime,
        "xattrs": dict(one.xattrs) != dict(other.xattrs),
        "target": is_same_kind and one.kind is Kind.SYMLINK and one.linkname != other.linkname,
        "device": is_same_kind and one.kind in _DEVICES
                  and (one.major, one.minor) != (other.major, other.minor),
    }
    return [name for name, is_different in different.items() if is_different]


# -- layers


def compare_layers(before: Image, after: Image) -> Iterator[LayerChange]:
    """The common base first; then what only the first has, and then the rest of the second."""
    common = 0
    for one, other in zip(before.layers, after.layers, strict=False):
        if one.diff_id != other.diff_id:
            break
        common += 1
    for layer in after.layers[:common]:
        yield _layer_change(layer, layer.number, layer.number, is_prefix=True)
    elsewhere = {layer.diff_id: layer.number for layer in reversed(before.layers[common:])}
    kept = {layer.diff_id for layer in after.layers[common:]}
    for layer in before.layers[common:]:
        if layer.diff_id not in kept:
            yield _layer_change(layer, layer.number, None)
    for layer in after.layers[common:]:
        yield _layer_change(layer, elsewhere.get(layer.diff_id), layer.number)


def _layer_change(
    layer: Layer, before: int | None, after: int | None, *, is_prefix: bool = False
) -> LayerChange:
    return LayerChange(
        before=before, after=after, is_prefix=is_prefix, diff_id=layer.diff_id, size=layer.descriptor.size,
        instruction=instruction_of(layer.history),
    )


# -- settings


def compare_configs(before: Image, after: Image) -> Iterator[ConfigChange]:
    """Fields that are not what they should be are compared as they stand."""
    platforms = str(before.config.platform), str(after.config.platform)
    if platforms[0] != platforms[1]:
        yield ConfigChange(field="Platform", name="", before=platforms[0], after=platforms[1])
    one, other = before.config.execution, after.config.execution
    yield from _named("Env", _variables(one.get("Env")), _variables(other.get("Env")))
    for field in _SINGLE:
        if (one.get(field) or None) != (other.get(field) or None):
            yield ConfigChange(field=field, name="", before=one.get(field), after=other.get(field))
    for field in _NAMED:
        yield from _named(field, _object(one.get(field)), _object(other.get(field)))


def _named(field: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[ConfigChange]:
    for name in sorted({*one, *other}):
        if name not in one or name not in other or one[name] != other[name]:
            yield ConfigChange(field=field, name=name, before=one.get(name), after=other.get(name))


def _variables(value: Any) -> Mapping[str, Any]:
    """The last of several counts, as in a process."""
    if not isinstance(value, list):
        return _object(value)
    pairs = (text if isinstance(text, str) else json.dumps(text) for text in value)
    return {name: text for name, _, text in (pair.partition("=") for pair in pairs)}


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    return {} if value is None else {"": value}
