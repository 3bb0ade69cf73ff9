"""Layers as indexes, for tests: from tar bytes or from entries."""

from __future__ import annotations

import io
from collections.abc import Iterable

from lamina.layer.entry import Entry
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tarstream import TarReader
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest
from lamina.testing.images import tar_of


def index_bytes(tar: bytes) -> bytes:
    out = io.BytesIO()
    builder = IndexBuilder(out)
    reader = TarReader(io.BytesIO(tar), skeleton=builder.skeleton)
    for entry in reader:
        builder.add(entry)
    builder.finish(Digest.of(tar), reader.position)
    return out.getvalue()


def index_of_tar(tar: bytes) -> LayerIndex:
    return LayerIndex.from_bytes(index_bytes(tar))


def index_of(entries: Iterable[Entry]) -> LayerIndex:
    return index_of_tar(tar_of(entries))


def tree_of(*layers: Iterable[Entry]) -> Tree:
    return Tree(index_of(layer) for layer in layers)
