"""Archives as other tools leave them, put together with the standard library's tar, not the product's."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lamina.archive.source import ArchiveSource
from lamina.content.copy import copy_graph
from lamina.content.memory import MemoryStore
from lamina.oci.descriptor import Descriptor
from lamina.testing.images import MadeImage, MadeIndex


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for item in members:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
            else:
                archive.addfile(member(item[0], size=len(item[1])), io.BytesIO(item[1]))
    return out.getvalue()


def documents(*items: Mapping[str, Any]) -> tuple[str, bytes]:
    return "manifest.json", json.dumps(items).encode()


def docker_archive(image: MadeImage, names: Sequence[str] | None = ("redis:7",), *more: Any) -> bytes:
    """As ``docker save`` before 25: a directory a layer, the config by its digest."""
    config = f"{image.config.digest.encoded}.json"
    paths = [f"{number:064x}/layer.tar" for number in range(len(image.layers))]
    return tar(
        *((path, layer.tar) for path, layer in zip(paths, image.layers, strict=True)),
        (config, image.config.raw),
        documents({"Config": config, "RepoTags": None if names is None else list(names), "Layers": paths}),
        *more,
    )


def layout_members(*images: tuple[MadeImage | MadeIndex, Mapping[str, str]]) -> dict[str, bytes]:
    """An image layout as a dictionary; each image with the annotations of its line in ``index.json``."""
    store = MemoryStore()
    lines = []
    for image, notes in images:
        descriptor = image.put(store)
        lines.append({**descriptor.to_json(), "annotations": dict(notes)})
    blobs = {
        f"blobs/{digest.algorithm}/{digest.encoded}": store.open(
            Descriptor(media_type="a/b", digest=digest, size=size)).read()
        for digest, size in store.walk()
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": lines}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **blobs,
    }


def write_layout(root: Path, members: Mapping[str, bytes]) -> Path:
    for path, data in members.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def opened(data: bytes, tmp_path: Path) -> ArchiveSource:
    return ArchiveSource(io.BytesIO(data), scratch=tmp_path)


def loaded(source: ArchiveSource, root: Descriptor) -> MemoryStore:
    """Everything below a root, verified on its way."""
    store = MemoryStore()
    copy_graph(source, store, root)
    return store


class Pipe:
    """A stream that can be read, and nothing else: no seeking, no telling, no descriptor."""

    def __init__(self, data: bytes) -> None:
        self._stream: BinaryIO = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 1000) if size > 0 else size)
