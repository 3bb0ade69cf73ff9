"""The two small images of ``lamina demo``: three layers each, of which they share two.

They are made the way any builder makes one: entries become a tar, the tar is compressed, a config lists
the digests of the tars and a manifest those of the blobs. The same bytes come out every time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

from lamina.content.local import LocalStore
from lamina.layer.compress import Compression, deflate, layer_media_type
from lamina.layer.entry import WHITEOUT_PREFIX, Entry, Kind
from lamina.layer.tarstream import write_entries
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference
from lamina.values import dataclass

CREATED = "2024-05-01T12:00:00Z"
_MTIME = 1_714_564_800 * 10**9  # the same moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLayer:
    """``files`` maps paths to contents; ``None`` removes a path of the layers below."""

    instruction: str
    files: Mapping[str, bytes | None]


def _filler(name: str, size: int) -> bytes:
    """Text that looks like nothing and compresses like a program: by about two."""
    digest, parts = name.encode(), []
    for _ in range(size // 64 + 1):
        digest = hashlib.sha256(digest).digest()
        parts.append(digest.hex())
    return "".join(parts).encode()[:size]


BASE = SampleLayer(instruction="ADD ubuntu-base.tar /", files={
    "etc/os-release": b'NAME="Ubuntu, or nearly"\n',
    "files/file-1": _filler("1", 400_000),
    "files/file-2": _filler("2", 200_000),
    "files/file-3": b"File 3\n",
})
JAVA = SampleLayer(instruction="RUN apt-get install -y java", files={
    "files/file-4": _filler("4", 600_000),
    "files/file-5": b"File 5\n",
    "files/file-6": b"File 6: what the Java layer brought\n" + _filler("6", 50_000),
})
APP = SampleLayer(instruction="COPY . /", files={
    "app/app.jar": _filler("app", 30_000),
    "files/file-6": b"File 7: the updated version of File 6\n",
})
WORKER = SampleLayer(instruction="RUN rm /files/file-5 && make worker", files={
    "app/worker.jar": _filler("worker", 20_000),
    "files/file-5": None,
})
IMAGES: Mapping[str, tuple[SampleLayer, ...]] = {"app": (BASE, JAVA, APP), "worker": (BASE, JAVA, WORKER)}


def publish(store: LocalStore, repository: str, platform: Platform) -> None:
    """Puts each image into a store as ``<repository>/<name>:1``."""
    for name, layers in IMAGES.items():
        reference = Reference.parse(f"{repository}/{name}:1")
        _put_image(store, reference, layers, platform)


def _put_image(
    store: LocalStore, reference: Reference, layers: tuple[SampleLayer, ...], platform: Platform
) -> None:
    tars = [tar_of(layer) for layer in layers]
    media_type = layer_media_type(Compression.GZIP)
    blobs = [store.put_bytes(media_type, _gzip(tar)) for tar in tars]
    config = _config(layers, [Digest.of(tar) for tar in tars], platform)
    manifest = Manifest.build(store.put_bytes(OCI_CONFIG, config.raw), blobs)
    root = store.put_bytes(manifest.media_type, manifest.raw)
    store.record(root, names=(reference.canonical,), manifest=manifest)


def _config(layers: tuple[SampleLayer, ...], diff_ids: list[Digest], platform: Platform) -> ImageConfig:
    history: list[dict[str, object]] = [
        {"created": CREATED, "created_by": layer.instruction} for layer in layers
    ]
    history.append({"created": CREATED, "created_by": 'CMD ["java"]', "empty_layer": True})
    return ImageConfig.build({
        "created": CREATED,
        **platform.to_json(),
        "config": {"Cmd": ["java"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    })


def tar_of(layer: SampleLayer) -> bytes:
    out = io.BytesIO()
    directories = sorted({path.rpartition("/")[0] for path in layer.files})
    entries = [_directory(path) for path in directories]
    entries += [_file(path, content) for path, content in layer.files.items()]
    write_entries(entries, out)
    return out.getvalue()


def _directory(path: str) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=0o755, mtime=_MTIME)


def _file(path: str, content: bytes | None) -> Entry:
    if content is None:
        parent, _, name = path.rpartition("/")
        return _file(f"{parent}/{WHITEOUT_PREFIX}{name}", b"")
    return Entry(path=path, mode=0o644, mtime=_MTIME, size=len(content), open=lambda: io.BytesIO(content))


def _gzip(data: bytes) -> bytes:
    out = io.BytesIO()
    stream = deflate(out, Compression.GZIP)
    stream.write(data)
    stream.finish()
    return out.getvalue()
