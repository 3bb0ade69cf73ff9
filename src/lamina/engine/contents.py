"""Files of an image, for those who read many: in the order of its tar, even a bare blob is inflated once."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Self

from lamina.errors import IntegrityError
from lamina.image import Image
from lamina.layer.entry import Entry
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.layers import LayerStore

_BUFFER = 1 << 18


class LayerEndsEarly(IntegrityError):
    pass


class Contents:
    """``open`` answers from whichever form of a layer is here. One file of a layer is open at a time.

    A context manager: it keeps an inflating stream for each layer that only its blob can answer for.
    """

    def __init__(self, engine: Core, image: Image) -> None:
        self._store = engine.layers_store
        self._image = image
        self._streams: dict[int, _Forward] = {}
        self._is_random: dict[Digest, bool] = {}

    def open(self, layer: int, entry: Entry) -> BinaryIO:
        if not entry.size:
            return io.BytesIO()
        diff_id = self._image.layers[layer].diff_id
        if self._has_form(diff_id):
            return self._store.open_data(diff_id, entry)
        if layer not in self._streams:
            self._streams[layer] = _Forward(self._store, diff_id)
        return self._streams[layer].open(entry)

    def close(self) -> None:
        with ExitStack() as closing:
            for stream in self._streams.values():
                closing.callback(stream.close)
        self._streams.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _has_form(self, diff_id: Digest) -> bool:
        """Whether a file can be found without inflating: a tar, or trees in which a path says which entry."""
        known = self._is_random.get(diff_id)
        if known is None:
            known = self._is_random[diff_id] = self._store.has_data(diff_id)
        return known


class _Forward:
    """A layer's tar, inflated as far as somebody asked; who asks for less begins again."""

    def __init__(self, store: LayerStore, diff_id: Digest) -> None:
        self._store = store
        self._diff_id = diff_id
        self._tar: BinaryIO | None = None
        self._position = 0

    def open(self, entry: Entry) -> BinaryIO:
        if self._tar is None or entry.data_offset < self._position:
            self.close()
            self._tar = self._store.open_tar(self._diff_id)
        self._tar.seek(entry.data_offset)
        self._position = entry.data_offset
        return io.BufferedReader(_Part(self, entry.size), _BUFFER)

    def read(self, size: int) -> bytes:
        assert self._tar is not None
        chunk = self._tar.read(size)
        if not chunk:
            raise LayerEndsEarly(f"{self._diff_id}: ends {self._position} bytes into its tar")
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None


class _Part(io.RawIOBase):
    """The next ``size`` bytes of a stream that goes on afterwards."""

    def __init__(self, stream: _Forward, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        if not self._left:
            return 0
        chunk = self._stream.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)
