"""What the bytes of an image are: by layer, by directory, by extension, by instruction.

Every stored byte is in exactly one row, as live (a container sees it) or as hidden. A file with several
names counts once, under the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from lamina.image import Image
from lamina.insight.instruction import instruction_of
from lamina.insight.survey import survey
from lamina.layer.tree import Tree
from lamina.values import dataclass

NO_EXTENSION = "(none)"
_VERSION = re.compile(r"(?:\.\d+)+$")  # libssl.so.3 is a .so
_EXTENSION = re.compile(r"[^.].*(\.[0-9A-Za-z_+~-]{1,12})$")


class By(StrEnum):
    LAYER = "layer"
    DIRECTORY = "dir"
    EXTENSION = "extension"
    INSTRUCTION = "instruction"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """``name`` is what the row is about; ``layer`` is set in a table by layers alone. Sizes are bytes."""

    name: str
    layer: int | None
    files: int
    bytes: int
    hidden_files: int
    hidden_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    path: str
    layer: int
    size: int
    is_live: bool


Key = tuple[str, int | None]


def usage_of(
    image: Image, tree: Tree, by: By = By.DIRECTORY, *, path: str = "", depth: int = 1
) -> tuple[Portion, ...]:
    """The largest first; by layer, base first.

    ``path`` is normalised: only what is stored at and below it counts. ``depth`` is how many names below it
    tell directories apart; what lies higher counts for the directory that it is in.
    """
    key = _key_of(image, by, path, depth)
    counts: dict[Key, list[int]] = {}
    if by is By.LAYER:
        counts = {
            (instruction_of(layer.history), layer.number): [0, 0, 0, 0] for layer in image.layers
        }
    for file in _below(_stored(tree), path):
        row = counts.setdefault(key(file), [0, 0, 0, 0])
        first = 0 if file.is_live else 2
        row[first] += 1
        row[first + 1] += file.size
    rows = [
        Portion(name=name, layer=layer, files=files, bytes=live, hidden_files=hidden, hidden_bytes=unseen)
        for (name, layer), (files, live, hidden, unseen) in counts.items()
    ]
    if by is By.LAYER:
        return tuple(rows)
    return tuple(sorted(rows, key=lambda row: (-row.bytes, -row.hidden_bytes, row.name)))


def merge(name: str, rows: Iterable[Portion]) -> Portion:
    """Several rows as one."""
    files = size = hidden_files = hidden_bytes = 0
    for row in rows:
        files += row.files
        size += row.bytes
        hidden_files += row.hidden_files
        hidden_bytes += row.hidden_bytes
    return Portion(
        name=name, layer=None, files=files, bytes=size, hidden_files=hidden_files, hidden_bytes=hidden_bytes,
    )


def extension_of(path: str) -> str:
    """``.so`` of ``libssl.so.3``, ``.gz`` of ``a.tar.gz``; in lower case."""
    name = path.rpartition("/")[2]
    found = _EXTENSION.match(_VERSION.sub("", name))
    return NO_EXTENSION if found is None else found[1].lower()


def _stored(tree: Tree) -> Iterator[_Stored]:
    found = survey(tree)
    for file in found.live:
        yield _Stored(path=file.paths[0], layer=file.layer, size=file.entry.size, is_live=True)
    for hidden in found.hidden:
        yield _Stored(path=hidden.entry.path, layer=hidden.layer, size=hidden.size, is_live=False)
    for layer, entry in found.markers:
        yield _Stored(path=entry.path, layer=layer, size=entry.size, is_live=False)


def _below(files: Iterable[_Stored], path: str) -> Iterator[_Stored]:
    inside = f"{path}/"
    return (file for file in files if not path or file.path == path or file.path.startswith(inside))


def _key_of(image: Image, by: By, path: str, depth: int) -> Callable[[_Stored], Key]:
    instructions = [instruction_of(layer.history) for layer in image.layers]
    if by is By.LAYER:
        return lambda file: (instructions[file.layer], file.layer)
    if by is By.INSTRUCTION:
        return lambda file: (instructions[file.layer], None)
    if by is By.EXTENSION:
        return lambda file: (extension_of(file.path), None)
    most = (path.count("/") + 1 if path else 0) + depth
    return lambda file: ("/" + "/".join(file.path.split("/")[:-1][:most]), None)
