"""New layers into the store: a tar that is hashed, indexed and kept while it is written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamina.content.catalog import LayerFacts
from lamina.layer.index import IndexBuilder
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.layer.tarstream import Writable

# Writes a tar, gives the index each entry, and answers how many bytes the tar has.
Fill = Callable[["Writable", IndexBuilder], int]


def store_layer(
    engine: Core, fill: Fill, note: Callable[[Digest], None], *, media_type: str = OCI_LAYER
) -> Descriptor | None:
    """Keeps what ``fill`` writes as a plain tar, whose digest is its diff id; not one without entries.

    ``note`` is told the digest before the layer is there: whoever makes the same one and takes it back must
    see that we want it. What a driver mounts is made of the blob when somebody mounts it.
    """
    from lamina.content.behind import WriteBehind

    with _nameless(engine.root) as index, engine.store.ingest() as ingest:
        builder = IndexBuilder(index)
        with WriteBehind(ingest) as behind:
            size = fill(behind, builder)
            behind.finish()
        if not len(builder):
            return None
        diff_id = ingest.digest
        note(diff_id)
        builder.finish(diff_id, size)
        del builder  # of a million files it takes 90 MB, and so does its index once more when it is read
        layer = ingest.commit(media_type)
        adopt(engine, layer, diff_id, index)
    return layer


def _nameless(directory: Path) -> BinaryIO:
    """A file on the same disk; memory where its filesystem has none without a name (open(2), O_TMPFILE)."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return io.BytesIO()
    return open(descriptor, "w+b")


def adopt(engine: Core, layer: Descriptor, diff_id: Digest, index: BinaryIO) -> None:
    """The index is all that questions need; what a driver mounts is made when somebody mounts it."""
    from lamina.snapshot.receive import adopt_layer

    blob = engine.store.blob_path(layer.digest) if layer.digest == diff_id else None
    adopt_layer(engine.layers_store, diff_id, index, blob)
    learn(engine, layer.digest, diff_id)


def learn(engine: Core, blob: Digest, diff_id: Digest) -> None:
    """That a blob inflates to a layer whose index is here."""
    facts, store = engine.layers_store.facts(diff_id), engine.store
    with store.state.transaction():
        store.catalog.learn_layer(blob, LayerFacts(
            diff_id=diff_id, tar_size=facts.tar_size, content_size=facts.content_size, entries=facts.entries,
        ))
