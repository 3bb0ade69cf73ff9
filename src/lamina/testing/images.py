"""Small images, made by hand or by chance: the same arguments give the same bytes, every time.

By hand: a layer is a list of entries, written with the one-word constructors below, or a dictionary in
which the value tells the kind (bytes for a file, :data:`DIRECTORY` for a directory, ``Link`` for a
symlink). By chance: everything is drawn from the ``random.Random`` that the caller seeds, out of a
small pool of names, so that layers hide, replace and revive each other's paths often.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

from lamina.content.store import Target
from lamina.layer.compress import Compression, deflate, layer_media_type
from lamina.layer.entry import NO_XATTRS, OPAQUE_NAME, WHITEOUT_PREFIX, Entry, Kind
from lamina.layer.tarstream import write_entries
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest
from lamina.values import dataclass, field, replace

CREATED = "2024-05-01T12:00:00Z"
MTIME = 1_714_564_800 * 10**9  # the same moment
LINUX_AMD64 = Platform(os="linux", architecture="amd64")


class Link(str):
    """A symlink's text, where a dictionary of files stands for a layer."""

    __slots__ = ()


class _Directory:
    pass


DIRECTORY = _Directory()
Files = Mapping[str, "bytes | Link | _Directory"]


# -- entries by hand


def file(path: str, data: bytes = b"", *, mode: int = 0o644, **fields: Any) -> Entry:
    """``fields`` are those of :class:`Entry`: uid, gid, mtime, xattrs."""
    return Entry(path=path, kind=Kind.FILE, mode=mode, size=len(data), open=lambda: io.BytesIO(data),
                 **{"mtime": MTIME, **fields})


def directory(path: str, *, mode: int = 0o755, **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=mode, **{"mtime": MTIME, **fields})


def symlink(path: str, text: str, **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, linkname=text, **{"mtime": MTIME, **fields})


def hardlink(path: str, target: str, **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.HARDLINK, linkname=target, **{"mtime": MTIME, **fields})


def fifo(path: str, *, mode: int = 0o644, **fields: Any) -> Entry:
    return Entry(path=path, kind=Kind.FIFO, mode=mode, **{"mtime": MTIME, **fields})


def device(
    path: str, major: int, minor: int, *, kind: Kind = Kind.CHAR, mode: int = 0o600, **fields: Any
) -> Entry:
    return Entry(path=path, kind=kind, mode=mode, major=major, minor=minor, **{"mtime": MTIME, **fields})


def whiteout(path: str) -> Entry:
    """Removes ``path`` from the layers below."""
    parent, slash, name = path.rpartition("/")
    return file(f"{parent}{slash}{WHITEOUT_PREFIX}{name}", mode=0o600)


def opaque(path: str) -> Entry:
    """Hides what the layers below have in the directory ``path``; ``""`` is the root."""
    return file(f"{path}/{OPAQUE_NAME}" if path else OPAQUE_NAME, mode=0o600)


def entries_of(files: Files) -> list[Entry]:
    """In the order given; directories are not invented: a layer may well leave them out."""
    made: list[Entry] = []
    for path, value in files.items():
        if isinstance(value, bytes):
            made.append(file(path, value))
        elif isinstance(value, Link):
            made.append(symlink(path, str(value)))
        else:
            made.append(directory(path))
    return made


def tar_of(contents: Iterable[Entry] | Files) -> bytes:
    out = io.BytesIO()
    write_entries(entries_of(contents) if isinstance(contents, Mapping) else contents, out)
    return out.getvalue()


def compressed(data: bytes, compression: Compression) -> bytes:
    out = io.BytesIO()
    stream = deflate(out, compression)
    stream.write(data)
    stream.finish()
    return out.getvalue()


# -- layers, images, indexes


@dataclass(frozen=True, kw_only=True)
class MadeLayer:
    """``tar`` is what the diff id names, ``blob`` what the descriptor names."""

    tar: bytes = field(repr=False)
    compression: Compression = Compression.GZIP
    created_by: str = "made by hand"
    is_docker: bool = False

    @cached_property
    def blob(self) -> bytes:
        return compressed(self.tar, self.compression)

    @cached_property
    def diff_id(self) -> Digest:
        return Digest.of(self.tar)

    @cached_property
    def descriptor(self) -> Descriptor:
        media_type = layer_media_type(self.compression, self.is_docker)
        return Descriptor(media_type=media_type, digest=Digest.of(self.blob), size=len(self.blob))


def make_layer(
    contents: Iterable[Entry] | Files = (),
    *,
    compression: Compression = Compression.GZIP,
    created_by: str = "made by hand",
) -> MadeLayer:
    return MadeLayer(tar=tar_of(contents), compression=compression, created_by=created_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    manifest: Manifest
    config: ImageConfig
    layers: tuple[MadeLayer, ...]

    @property
    def descriptor(self) -> Descriptor:
        return replace(self.manifest.descriptor, platform=self.config.platform)

    def put(self, target: Target, name: str = "") -> Descriptor:
        """Into any target, children first; the name, if one is given, last."""
        for layer in self.layers:
            target.put(layer.descriptor, io.BytesIO(layer.blob))
        target.put(self.manifest.config, io.BytesIO(self.config.raw))
        return _put_document(target, self.manifest, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeIndex:
    index: Index
    images: tuple[MadeImage, ...]

    @property
    def descriptor(self) -> Descriptor:
        return self.index.descriptor

    def put(self, target: Target, name: str = "") -> Descriptor:
        for image in self.images:
            image.put(target)
        return _put_document(target, self.index, name)


def make_image(
    layers: Sequence[MadeLayer | Iterable[Entry] | Files] = (),
    *,
    platform: Platform = LINUX_AMD64,
    execution: Mapping[str, Any] | None = None,
    created: str = CREATED,
    is_docker: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> MadeImage:
    """``execution`` is the config's ``config`` object: Env, Cmd, Labels and friends."""
    made = tuple(
        replace(layer, is_docker=is_docker) if isinstance(layer, MadeLayer)
        else replace(make_layer(layer), is_docker=is_docker)
        for layer in layers
    )
    config = ImageConfig.build({
        "created": created,
        **platform.to_json(),
        "config": dict(execution or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in made]},
        "history": [{"created": created, "created_by": layer.created_by} for layer in made],
    })
    described = Descriptor(
        media_type=DOCKER_CONFIG if is_docker else OCI_CONFIG, digest=config.digest, size=len(config.raw)
    )
    manifest = Manifest.build(
        described, [layer.descriptor for layer in made],
        media_type=DOCKER_MANIFEST if is_docker else OCI_MANIFEST, annotations=annotations,
    )
    return MadeImage(manifest=manifest, config=config, layers=made)


def make_index(images: Sequence[MadeImage]) -> MadeIndex:
    return MadeIndex(index=Index.build([image.descriptor for image in images]), images=tuple(images))


def _put_document(target: Target, document: Manifest | Index, name: str) -> Descriptor:
    descriptor = document.descriptor
    target.put(descriptor, io.BytesIO(document.raw))
    if name:
        target.tag(name, descriptor)
    return descriptor


# -- by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """What random layers may hold. ``has_owners`` and ``has_devices`` need root to unpack."""

    names: tuple[str, ...] = ("a", "b", "c", "d", ".e", "long-name " * 12)
    depth: int = 3
    entries: int = 12
    largest: int = 3000
    has_owners: bool = True
    has_devices: bool = False
    has_xattrs: bool = True
    has_whiteouts: bool = True


ANYTHING = Chances()


def random_layer(random: Random, below: Iterable[str] = (), chances: Chances = ANYTHING) -> list[Entry]:
    """A layer that applies cleanly: within it, no path lies under anything but a directory.

    ``below`` are paths of lower layers, which whiteouts then like to name. Directories above an entry
    are listed about three times in four; hard links point at files of the same layer.
    """
    return _Draw(random, sorted(below), chances).layer()


def random_stack(random: Random, layers: int = 3, chances: Chances = ANYTHING) -> list[list[Entry]]:
    """Layers, base first, the first without whiteouts."""
    stack = [random_layer(random, (), replace(chances, has_whiteouts=False))]
    while len(stack) < layers:
        below = {entry.path for layer in stack for entry in layer}
        stack.append(random_layer(random, below, chances))
    return stack


def random_image(random: Random, layers: int = 3, chances: Chances = ANYTHING) -> MadeImage:
    made = [
        make_layer(entries, compression=random.choice(list(Compression)), created_by=f"random layer {number}")
        for number, entries in enumerate(random_stack(random, layers, chances))
    ]
    return make_image(made, is_docker=False, execution={"Labels": {"seed": str(random.randrange(1 << 32))}})


class _Draw:
    """One random layer in the making."""

    def __init__(self, random: Random, below: Sequence[str], chances: Chances) -> None:
        self._random = random
        self._below = below
        self._chances = chances
        self._entries: list[Entry] = []
        self._kinds: dict[str, Kind] = {}  # paths of this layer, implied directories included

    def layer(self) -> list[Entry]:
        for _ in range(self._random.randrange(self._chances.entries + 1)):
            path = self._path()
            if self._is_free(path):
                self._imply_parents(path)
                self._add(self._entry(path))
        return self._entries

    def _path(self) -> str:
        depth = self._random.randint(1, self._chances.depth)
        return "/".join(self._random.choice(self._chances.names) for _ in range(depth))

    def _is_free(self, path: str) -> bool:
        parents = (path[:at] for at, letter in enumerate(path) if letter == "/")
        return path not in self._kinds and all(
            self._kinds.get(parent, Kind.DIRECTORY) is Kind.DIRECTORY for parent in parents
        )

    def _imply_parents(self, path: str) -> None:
        for at, letter in enumerate(path):
            parent = path[:at]
            if letter == "/" and parent not in self._kinds:
                if self._random.random() < 0.75:
                    self._add(directory(parent, **self._metadata(is_mode=True)))
                self._kinds[parent] = Kind.DIRECTORY

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._kinds[entry.path] = entry.kind

    def _entry(self, path: str) -> Entry:
        drawn = self._random.random()
        if self._chances.has_whiteouts and drawn < 0.2:
            return self._removal(path)
        if drawn < 0.55:
            data = self._random.randbytes(self._random.choice((0, 1, 511, 512, 513, self._chances.largest)))
            return file(path, data, **self._metadata(is_mode=True))
        if drawn < 0.75:
            return directory(path, **self._metadata(is_mode=True))
        if drawn < 0.85:
            text = self._random.choice(("a", "../b", "/c/d", "nowhere", "x" * 120))
            return symlink(path, text, **self._metadata(is_mode=False))
        files = [entry.path for entry in self._entries if entry.kind is Kind.FILE and not _is_marker(entry)]
        if drawn < 0.95 and files:
            return hardlink(path, self._random.choice(files))
        if self._chances.has_devices and self._random.random() < 0.5:
            return device(path, 1, self._random.choice((3, 5)))
        return fifo(path)

    def _removal(self, path: str) -> Entry:
        """A whiteout of what is below, if this layer does not write there itself; or an opaque directory."""
        candidates = [
            gone for gone in self._below
            if gone and not _is_marker(Entry(path=gone)) and gone not in self._kinds and self._is_free(gone)
        ]
        if candidates and self._random.random() < 0.7:
            gone = self._random.choice(candidates)
            self._imply_parents(gone)
            self._kinds[gone] = Kind.FILE  # so that nothing of this layer is written there or below
            return whiteout(gone)
        self._add(directory(path, **self._metadata(is_mode=True)))
        return opaque(path)

    def _metadata(self, *, is_mode: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {"mtime": MTIME + self._random.choice((0, 1, 123_456_789, 86_400 * 10**9))}
        if is_mode:
            fields["mode"] = self._random.choice((0o644, 0o755, 0o700, 0o750, 0o1777, 0o2755))
        if self._chances.has_owners:
            fields["uid"], fields["gid"] = self._random.choice(((0, 0), (0, 0), (1000, 1000), (33, 65534)))
        if self._chances.has_xattrs and is_mode and self._random.random() < 0.1:
            fields["xattrs"] = {"user.colour": self._random.randbytes(4)}
        return {"xattrs": NO_XATTRS, **fields}


def _is_marker(entry: Entry) -> bool:
    return entry.name.startswith(WHITEOUT_PREFIX)
