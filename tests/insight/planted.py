"""Images with something planted in them, in a store in memory, and the search for it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tests.layer.indexed import index_of_tar

from lamina.content.memory import MemoryStore
from lamina.errors import NotFound
from lamina.image import Image, Layer
from lamina.insight.erasure import Content, Searched, Wanted, search_image
from lamina.insight.needles import secret_needle
from lamina.layer.compress import Compression
from lamina.layer.index import LayerIndex
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.testing.images import MadeImage, MadeLayer, make_image, make_layer

SECRET = b"hunter2-Zk93kQpL0s8Wq"
NEEDLE = secret_needle(SECRET, "token.txt")


@dataclass(frozen=True, kw_only=True)
class RawLayer(MadeLayer):
    """A layer whose blob is what the test says, not what a compressor makes of the tar."""

    stored: bytes = field(repr=False)

    @property
    def blob(self) -> bytes:  # type: ignore[override]
        return self.stored


def layer_of(contents: Any = (), *, by: str = "made by hand", compression: Compression = Compression.GZIP) -> MadeLayer:
    return make_layer(contents, created_by=by, compression=compression)


class Planted:
    """``put`` images, then ``search``. Layers' tars are kept if ``keeps_tars``, else inflated out of their blobs."""

    def __init__(self, *, keeps_tars: bool = False) -> None:
        self.store = MemoryStore()
        self.tars: dict[Digest, bytes] = {}
        self.keeps_tars = keeps_tars

    def put(self, made: MadeImage) -> Descriptor:
        for layer in made.layers:
            self.tars[layer.diff_id] = layer.tar
        return made.put(self.store)

    def put_bytes(self, media_type: str, data: bytes, **more: Any) -> Descriptor:
        described = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), **more)
        self.store.put(described, io.BytesIO(data))
        return described

    def search(self, root: Descriptor, wanted: Wanted | None = None) -> Searched:
        return search_image(root, self.content(), wanted or Wanted(needles=(NEEDLE,)))

    def content(self) -> Content:
        return Content(source=self.store, index=self._index, kept_tar=self._kept_tar)

    def open_data(self, image: Image, layer: int, offset: int, size: int) -> BinaryIO:
        return io.BytesIO(self.tars[image.layers[layer].diff_id][offset : offset + size])

    def _index(self, _image: Image, layer: Layer) -> LayerIndex:
        if layer.diff_id not in self.tars:
            raise NotFound(f"{layer.diff_id}: cannot be unpacked")
        return index_of_tar(self.tars[layer.diff_id])

    def _kept_tar(self, diff_id: Digest) -> BinaryIO | None:
        return io.BytesIO(self.tars[diff_id]) if self.keeps_tars else None


def search_layers(
    *layers: MadeLayer, execution: Mapping[str, Any] | None = None, annotations: Mapping[str, str] | None = None,
    wanted: Wanted | None = None, keeps_tars: bool = False,
) -> Searched:
    """Of an image of these layers."""
    planted = Planted(keeps_tars=keeps_tars)
    made = make_image(layers or [layer_of({"a": b"nothing"})], execution=execution, annotations=annotations)
    return planted.search(planted.put(made), wanted)


def told(searched: Searched) -> list[tuple[Any, ...]]:
    """The places, for comparing: kind of place, layer, path, what leads inwards, field, encoding."""
    return [
        (str(each.place), each.layer, each.path, each.inside, each.field, each.encoding)
        for each in searched.findings
    ]


def offsets(searched: Searched) -> Sequence[int | None]:
    return [each.offset for each in searched.findings]
