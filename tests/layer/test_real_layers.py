"""Layers that other tools made: what the product makes of them is what the oracle says."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import oracle
from tests.layer.observed import Observed, comparable, in_memory, linked, on_disk

from lamina.layer.apply import apply
from lamina.layer.compress import inflate
from lamina.layer.diff import diff
from lamina.layer.extract import extract
from lamina.layer.root import DirectoryRoot, MemoryRoot, Ownership
from lamina.layer.tarstream import TarReader, write_entries

pytestmark = pytest.mark.shared_images

IMAGES = (
    "alpine-3.11.docker.tar.gz", "fourteen-layers.docker.tar", "forty-nine-layers.docker.tar", "opaque.docker.tar",
    "busybox-1.38.0.oci", "hardlink.oci", "alpine-minirootfs-3.20.3.tar.gz",
)
_TYPES = {"f": "file", "d": "directory", "l": "symlink", "p": "fifo", "c": "char", "b": "block"}


def layers_of(path: Path) -> Iterator[bytes]:
    """Base first, as they are stored. Read by the standard library alone."""
    if path.is_dir():
        yield from _layers_of_layout(path)
        return
    with tarfile.open(path) as archive:
        if "manifest.json" not in archive.getnames():
            yield path.read_bytes()
            return
        (image,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        for name in image["Layers"]:
            yield archive.extractfile(name).read()  # type: ignore[union-attr]


def _layers_of_layout(path: Path) -> Iterator[bytes]:
    def blob(digest: str) -> bytes:
        file = path / "blobs" / digest.replace(":", "/")
        raw = file.read_bytes()
        # Where a checkout made symlinks into small files, they hold the path.
        return (file.parent / raw.decode()).read_bytes() if raw.startswith(b"../") else raw

    document = json.loads((path / "index.json").read_bytes())
    while "manifests" in document:
        document = json.loads(blob(document["manifests"][0]["digest"]))
    for layer in document["layers"]:
        yield blob(layer["digest"])


@pytest.fixture(params=IMAGES)
def layers(request: pytest.FixtureRequest, shared_images: Path) -> list[bytes]:
    return list(layers_of(shared_images / request.param))


def as_model(tree: Observed) -> dict[str, object]:
    return {
        path: (_TYPES[seen["type"]], seen.get("mode"), seen["uid"], seen["gid"], seen.get("to", ""),
               seen.get("size", 0), seen.get("device", (0, 0)), seen["xattrs"])
        for path, seen in tree.items()
    }


def model(tree: oracle.Tree) -> dict[str, object]:
    return {
        path: (node.type, None if node.type == "symlink" else node.mode, node.uid, node.gid, node.target,
               node.size, node.device, node.xattrs)
        for path, node in tree.items()
    }


def stacked(layers: list[bytes]) -> MemoryRoot:
    root = MemoryRoot()
    for layer in layers:
        apply(TarReader(inflate(io.BytesIO(layer))), root)
    return root


def test_union(layers: list[bytes]) -> None:
    wanted, found = oracle.union(layers), in_memory(stacked(layers))
    assert as_model(found) == model(wanted)
    assert linked(found) == oracle.linked(wanted)
    assert len(found) > 1
    for path, node in wanted.items():
        assert node.mtime in (None, found[path]["nanoseconds"]), path


def test_skeleton(layers: list[bytes]) -> None:
    for layer in layers:
        whole = inflate(io.BytesIO(layer)).read()
        found = bytearray()
        reader = TarReader(io.BytesIO(whole), skeleton=found.extend)
        for _entry in reader:
            reader.copy_data(found.extend)
        assert found == whole


def test_squeezed_into_one_layer(layers: list[bytes], tmp_path: Path) -> None:
    """The difference from nothing, written, read, and extracted."""
    whole = stacked(layers)
    out = io.BytesIO()
    write_entries(diff(MemoryRoot(), whole), out)
    with DirectoryRoot(tmp_path, owner=Ownership.IGNORE) as root:
        extract(TarReader(io.BytesIO(out.getvalue())), root)
    found, wanted = on_disk(tmp_path), in_memory(whole)
    if not any(seen["type"] in "cb" for seen in wanted.values()):
        del found[""], wanted[""]
        assert comparable(found, "uid", "gid", "xattrs") == comparable(wanted, "uid", "gid", "xattrs")
