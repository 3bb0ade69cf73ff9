"""Builds the benchmark images once, as one OCI layout in the cache, from packages and a recipe.

Nothing here uses lamina: the images are what a stranger's builder would have made, a plain tar a layer,
compressed as most published images are (zlib at its default level, one gzip member).  The same packages
give the same bytes; which versions the suite offered is kept in the facts beside the layout.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from bench.recipes import PAIRS, Generated, ImageRecipe, LayerRecipe

_CREATED = "2024-01-01T00:00:00Z"
_TIME = 1_704_067_200  # the same moment, for files that come without a time of their own
_CHUNK = 1 << 20
_SITE = "usr/lib/python3/dist-packages"
_WHEEL_TARGETS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a container made from the image sees below its root; a hard link counts like its file."""

    directories: int
    files: int
    symlinks: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    name: str
    manifest: str
    layers: int
    entries: int  # lines of all layer tars
    compressed: int
    uncompressed: int
    blobs: tuple[str, ...]
    contents: Contents


@dataclass(frozen=True, slots=True)
class _Item:
    """One path of a layer as the union sees it."""

    kind: str  # directory, file, symlink or whiteout
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    digest: str
    diff_id: str
    compressed: int
    uncompressed: int
    entries: int
    items: dict[str, _Item]


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


# ---------------------------------------------------------------- packages


def _words(layers: Iterable[LayerRecipe], kind: str) -> list[str]:
    return sorted({word for layer in layers for word in str(getattr(layer, kind)).split()})


def _download(layers: Sequence[LayerRecipe], packages: Path) -> None:
    """Debian's and Python's packages at the same time; each tool resumes nothing and repeats little."""
    debs, wheels = _words(layers, "debs"), _words(layers, "wheels")
    packages.mkdir(parents=True, exist_ok=True)
    missing_debs = [name for name in debs if not list(packages.glob(f"{name}_*.deb"))]
    missing_wheels = [pin for pin in wheels if not _has_wheel(packages, pin)]
    commands: list[list[str]] = []
    if missing_debs:
        commands.append(["apt-get", "download", "-qq", *missing_debs])
    if missing_wheels:
        platforms = [word for target in _WHEEL_TARGETS for word in ("--platform", target)]
        flags = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
        abis = ["--abi", "cp311", "--abi", "abi3", "--abi", "none"]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        commands.append([*pip, *flags, *abis, *platforms, *missing_wheels])
    running = [subprocess.Popen(command, cwd=packages) for command in commands]
    for process, command in zip(running, commands, strict=True):
        if process.wait():
            raise SystemExit(f"{' '.join(command[:3])}: exit status {process.returncode}")


def _wheels(packages: Path) -> dict[str, Path]:
    """pip's pin (name==version, normalised) -> the wheel."""
    found = {}
    for path in packages.glob("*.whl"):
        name, version = path.name.split("-")[:2]
        found[f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"] = path
    return found


def _has_wheel(packages: Path, pin: str) -> bool:
    return pin in _wheels(packages)


def _deb(packages: Path, name: str) -> Path:
    return max(packages.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)


# ---------------------------------------------------------------- one layer


class _Blob:
    """A blob being written: what goes in is hashed as the tar, what comes out as the blob."""

    def __init__(self, directory: Path, compressor: _Compressor) -> None:
        self._directory = directory
        self._compressor = compressor
        self._temporary = directory / f".{random.SystemRandom().getrandbits(64):016x}"
        self._file = self._temporary.open("wb")
        self._tar, self._packed = hashlib.sha256(), hashlib.sha256()
        self.uncompressed = self.compressed = 0

    def write(self, data: bytes) -> int:
        self._tar.update(data)
        self.uncompressed += len(data)
        self._keep(self._compressor.compress(data))
        return len(data)

    def _keep(self, packed: bytes) -> None:
        self._packed.update(packed)
        self.compressed += len(packed)
        self._file.write(packed)

    def finish(self) -> tuple[str, str]:
        """Blob digest and diff id; the blob is in the layout afterwards."""
        self._keep(self._compressor.flush())
        self._file.close()
        self._temporary.rename(self._directory / self._packed.hexdigest())
        return f"sha256:{self._packed.hexdigest()}", f"sha256:{self._tar.hexdigest()}"


class _LayerTar:
    """Writes one layer; a parent directory that no package brought is listed before its first child."""

    def __init__(self, blob: _Blob) -> None:
        self._tar = tarfile.open(fileobj=cast("IO[bytes]", blob), mode="w|", bufsize=_CHUNK)  # noqa: SIM115
        self._tar.copybufsize = _CHUNK  # type: ignore[attr-defined]  # typeshed leaves it out
        self.items: dict[str, _Item] = {}
        self.entries = 0

    def add(self, info: tarfile.TarInfo, data: IO[bytes] | None = None) -> None:
        info.name = info.name.removeprefix("./").strip("/")
        if info.name in {"", "."} or info.name in self.items:
            return
        for parent in reversed(PurePosixPath(info.name).parents[:-1]):
            if str(parent) not in self.items:
                self._write(_directory(str(parent)), None)
        if info.islnk():
            info.linkname = info.linkname.removeprefix("./")
        self._write(info, data)

    def _write(self, info: tarfile.TarInfo, data: IO[bytes] | None) -> None:
        self._tar.addfile(info, data)
        self.entries += 1
        self.items[info.name] = self._item(info)

    def _item(self, info: tarfile.TarInfo) -> _Item:
        if info.isdir():
            return _Item("directory")
        if info.issym():
            return _Item("symlink")
        if info.islnk():
            return self.items[info.linkname]
        return _Item("file", info.size)

    def remove(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        marker = f"{directory}/.wh.{name}"
        self.add(_file(marker, 0, 0o644), io.BytesIO())
        del self.items[marker]
        self.items[path] = _Item("whiteout")

    def close(self) -> None:
        self._tar.close()


def _directory(path: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, _TIME
    return info


def _file(path: str, size: int, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = size, mode, _TIME
    return info


def _add_deb(layer: _LayerTar, path: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        with tarfile.open(fileobj=unpacked.stdout, mode="r|", bufsize=_CHUNK) as members:
            for member in members:
                layer.add(member, members.extractfile(member) if member.isreg() else None)
        unpacked.stdout.read()
    if unpacked.returncode:
        raise SystemExit(f"dpkg-deb {path.name}: exit status {unpacked.returncode}")


def _add_wheel(layer: _LayerTar, path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        for member in wheel.infolist():
            if member.is_dir():
                continue
            executable = (member.external_attr >> 16) & 0o111
            info = _file(f"{_SITE}/{member.filename}", member.file_size, 0o755 if executable else 0o644)
            with wheel.open(member) as data:
                layer.add(info, data)


def _add_generated(layer: _LayerTar, wanted: Generated) -> None:
    source = random.Random(wanted.seed)
    for number in range(wanted.count):
        data = source.randbytes(wanted.size)
        layer.add(_file(f"{wanted.directory}/{number}", wanted.size, 0o644), io.BytesIO(data))


def _compressor(compression: str) -> _Compressor:
    """The level that the common builders use: zlib 6 with no time in the header, zstd 3."""
    if compression == "gzip":
        return zlib.compressobj(6, zlib.DEFLATED, 31)
    import zstandard

    return cast("_Compressor", zstandard.ZstdCompressor(level=3).compressobj())


def _build_layer(recipe: LayerRecipe, compression: str, packages: Path, blobs: Path) -> _Layer:
    blob = _Blob(blobs, _compressor(compression))
    tar = _LayerTar(blob)
    for name in recipe.debs.split():
        _add_deb(tar, _deb(packages, name))
    wheels = _wheels(packages) if recipe.wheels else {}
    for pin in recipe.wheels.split():
        _add_wheel(tar, wheels[pin])
    for wanted in recipe.generated:
        _add_generated(tar, wanted)
    for path in recipe.removed:
        tar.remove(path)
    tar.close()
    digest, diff_id = blob.finish()
    return _Layer(
        digest=digest,
        diff_id=diff_id,
        compressed=blob.compressed,
        uncompressed=blob.uncompressed,
        entries=tar.entries,
        items=tar.items,
    )


# ---------------------------------------------------------------- images


def _union(layers: Iterable[_Layer]) -> Contents:
    seen: dict[str, _Item] = {}
    for layer in layers:
        for path, item in layer.items.items():
            before = seen.pop(path, None)
            if before is not None and before.kind == "directory" and item.kind != "directory":
                for below in [name for name in seen if name.startswith(path + "/")]:
                    del seen[below]
            if item.kind != "whiteout":
                seen[path] = item
            elif before is None:
                # overlayfs lists such a whiteout as a file that cannot be opened.
                raise SystemExit(f"recipe: {path} is removed but was never there")
    kinds = [item.kind for item in seen.values()]
    return Contents(
        directories=kinds.count("directory"),
        files=kinds.count("file"),
        symlinks=kinds.count("symlink"),
        bytes=sum(item.size for item in seen.values()),
    )


def _keep_document(blobs: Path, document: dict[str, Any]) -> tuple[str, int]:
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    encoded = hashlib.sha256(raw).hexdigest()
    (blobs / encoded).write_bytes(raw)
    return f"sha256:{encoded}", len(raw)


def _write_image(recipe: ImageRecipe, layers: Sequence[_Layer], blobs: Path) -> tuple[ImageFacts, int]:
    """Facts, and the size of the manifest, which the layout's index repeats."""
    oci = "application/vnd.oci.image"
    created = [{"created": _CREATED, "created_by": f"bench layer {layer.name}"} for layer in recipe.layers]
    config, size = _keep_document(
        blobs,
        {
            "architecture": "amd64",
            "os": "linux",
            "created": _CREATED,
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/true"]},
            "history": created,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        },
    )
    kind = f"{oci}.layer.v1.tar+{recipe.compression}"
    manifest, manifest_size = _keep_document(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": {"mediaType": f"{oci}.config.v1+json", "digest": config, "size": size},
            "layers": [
                {"mediaType": kind, "digest": layer.digest, "size": layer.compressed} for layer in layers
            ],
        },
    )
    facts = ImageFacts(
        name=recipe.name,
        manifest=manifest,
        layers=len(layers),
        entries=sum(layer.entries for layer in layers),
        compressed=sum(layer.compressed for layer in layers),
        uncompressed=sum(layer.uncompressed for layer in layers),
        blobs=(config, *(layer.digest for layer in layers)),
        contents=_union(layers),
    )
    return facts, manifest_size


def _write_layout(layout: Path, images: Sequence[tuple[ImageFacts, int]]) -> None:
    manifests = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": facts.manifest,
            "size": size,
            "annotations": {"org.opencontainers.image.ref.name": facts.name},
        }
        for facts, size in images
    ]
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


def _build(recipes: Sequence[ImageRecipe], layout: Path, packages: Path) -> list[ImageFacts]:
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    distinct = {(layer.name, image.compression): layer for image in recipes for layer in image.layers}
    _download(list(distinct.values()), packages)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = {
            key: pool.submit(_build_layer, layer, key[1], packages, blobs) for key, layer in distinct.items()
        }
        built = {key: future.result() for key, future in waiting.items()}
    images = []
    for recipe in recipes:
        layers = [built[layer.name, recipe.compression] for layer in recipe.layers]
        images.append(_write_image(recipe, layers, blobs))
    _write_layout(layout, images)
    return [facts for facts, _ in images]


# ---------------------------------------------------------------- the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A pair of images in its own layout: the one to pull, and the one that shares all but one layer."""

    directory: Path
    image: ImageFacts
    sibling: ImageFacts

    @property
    def layout(self) -> Path:
        return self.directory / "layout"


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina-bench"


def _facts(document: dict[str, Any]) -> ImageFacts:
    contents = Contents(**document.pop("contents"))
    blobs = tuple(document.pop("blobs"))
    return ImageFacts(contents=contents, blobs=blobs, **document)


def _recipe_key(name: str) -> str:
    return hashlib.sha256(repr(PAIRS[name]).encode()).hexdigest()


def _read(directory: Path, name: str) -> Fixture | None:
    try:
        document = json.loads((directory / "facts.json").read_text())
    except FileNotFoundError:
        return None
    if document["recipe"] != _recipe_key(name):
        return None
    image, sibling = (_facts(facts) for facts in document["images"])
    return Fixture(directory=directory, image=image, sibling=sibling)


@contextmanager
def _fresh(directory: Path) -> Iterator[Path]:
    """A directory that takes the place of `directory` when the block ends well."""
    temporary = directory.with_name(f"{directory.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def fixture(cache: Path, name: str, *, say: Callable[[str], object] = print) -> Fixture:
    """The pair called `name`, built now unless the cache has it from the same recipe."""
    directory = cache / "images" / name
    found = _read(directory, name)
    if found is not None:
        return found
    say(f"{name}: building the images (once)")
    packages = cache / "packages"
    with _fresh(directory) as fresh:
        facts = _build(PAIRS[name], fresh / "layout", packages)
        versions = sorted(path.name for path in packages.iterdir())
        document = {
            "recipe": _recipe_key(name),
            "images": [asdict(one) for one in facts],
            "packages": versions,
        }
        (fresh / "facts.json").write_text(json.dumps(document, indent=1))
    built = _read(directory, name)
    assert built is not None
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("images", nargs="*", default=["big"], metavar="IMAGE", help=", ".join(PAIRS))
    options = parser.parse_args()
    for name in options.images:
        found = fixture(options.cache, name)
        for facts in (found.image, found.sibling):
            print(json.dumps(asdict(facts), indent=1))


if __name__ == "__main__":
    main()
