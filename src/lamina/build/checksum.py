"""What a selection of files is, as one digest: the part of a cache key that stands for content.

Name, kind, mode, owner, size, link target, device numbers, xattrs and content are in it, and which names are
one file; times are not. Every part is hashed with its length before it, so no two selections give the same
bytes (moby's tarsum lists were joined texts, and collided).
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from lamina.build.context import Changeable, Context, Files, Node, StatKey
from lamina.build.selection import Selected, Selection, whole_tree
from lamina.errors import InvalidInput
from lamina.layer.entry import Kind
from lamina.layer.root import Ownership
from lamina.oci.digest import Digest
from lamina.values import dataclass

# A change of what is in this module changes every key: then this does.
_DOMAIN = b"lamina selection 1\n"
_LENGTH = struct.Struct(">Q")
_FIXED = struct.Struct(">BIQQQQ")
_CHUNK = 1 << 20
# A file that changes within the grain of its timestamp looks unchanged (git's "racy" rule); FAT's is 2 s.
RACY_NS = 2_000_000_000
_SHORT = 8  # bytes of a digest that are enough to see a change, where nobody gains by forging one
MAX_MANIFEST = 256 << 20


class DigestCache(Protocol):
    """What files were when they were read: digests of their xattrs and content."""

    def get(self, keys: Sequence[StatKey]) -> dict[StatKey, bytes]: ...

    def put(self, items: Mapping[StatKey, bytes]) -> None: ...


class MemoryDigests:
    def __init__(self) -> None:
        self._known: dict[StatKey, bytes] = {}

    def get(self, keys: Sequence[StatKey]) -> dict[StatKey, bytes]:
        return {key: self._known[key] for key in keys if key in self._known}

    def put(self, items: Mapping[StatKey, bytes]) -> None:
        self._known.update(items)


@dataclass(frozen=True, slots=True)
class Digested:
    """``manifest`` has the beginning of each entry's own digest, by target, in hex."""

    digest: Digest
    manifest: Mapping[str, str]


def digest_selection(
    files: Files, selection: Selection, cache: DigestCache | None = None, *,
    clock: Callable[[], int] = time.time_ns,
) -> Digested:
    """``clock`` is in nanoseconds since the epoch."""
    nodes = [each.node for each in selection.entries]
    contents = _contents(files, nodes, cache, clock)
    whole = hashlib.sha256(_DOMAIN + _LENGTH.pack(len(nodes)))
    manifest: dict[str, str] = {}
    first: dict[tuple[int, int, int], str] = {}
    for each in selection.entries:
        node, target = each.node, each.target
        link = _first_name(each, first)
        record = hashlib.sha256(_fields(files, node, contents.get(node.path, b""), link)).digest()
        whole.update(_framed(os.fsencode(target)) + record)
        manifest[target] = record[:_SHORT].hex()
    return Digested(Digest(f"sha256:{whole.hexdigest()}"), manifest)


def digest_tree(
    descriptor: int, path: str = "", cache: DigestCache | None = None, *,
    ownership: Ownership = Ownership.KEEP, clock: Callable[[], int] = time.time_ns,
) -> Digested:
    """What is at a path of a filesystem, the source of a ``COPY --from`` or of a bind mount.

    ``descriptor`` is the filesystem's root and stays open. Raises ``SourceNotFound``.
    """
    with Context(os.dup(descriptor), ownership=ownership) as context:
        return digest_selection(context, whole_tree(context, path), cache, clock=clock)


# -- one entry


def _fields(files: Files, node: Node, content: bytes, link: str) -> bytes:
    fixed = _FIXED.pack(node.kind, node.mode, node.uid, node.gid, node.size, node.rdev)
    if node.kind is not Kind.FILE:
        content = hashlib.sha256(_xattrs(files.xattrs(node.path))).digest()
    return fixed + _framed(os.fsencode(node.linkname)) + _framed(content) + _framed(os.fsencode(link))


def _first_name(selected: Selected, first: dict[tuple[int, int, int], str]) -> str:
    """For the second and later names of one file: what the first is called."""
    node = selected.node
    if node.links < 2 or node.kind is Kind.DIRECTORY:
        return ""
    name = first.setdefault((selected.group, node.device, node.inode), selected.target)
    return "" if name == selected.target else name


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _xattrs(xattrs: Mapping[str, bytes]) -> bytes:
    parts = [_LENGTH.pack(len(xattrs))]
    for name, value in sorted(xattrs.items()):
        parts += (_framed(os.fsencode(name)), _framed(value))
    return b"".join(parts)


# -- content


def _contents(
    files: Files, nodes: Iterable[Node], cache: DigestCache | None, clock: Callable[[], int]
) -> dict[str, bytes]:
    """By path. Only what the cache does not know is read."""
    wanted = {node.path: node for node in nodes if node.kind is Kind.FILE}
    # Some filesystems have no inode numbers: there nothing says which file it is.
    keys = {path: node.key for path, node in wanted.items() if node.inode}
    known = cache.get(list(keys.values())) if cache is not None else {}
    fresh: dict[StatKey, bytes] = {}
    contents: dict[str, bytes] = {}
    for path, node in wanted.items():
        content = known.get(keys[path]) if path in keys else None
        if content is None:
            content = _read(files, node, clock, fresh)
        contents[path] = content
    if cache is not None and fresh:
        cache.put(fresh)
    return contents


def _read(files: Files, node: Node, clock: Callable[[], int], fresh: dict[StatKey, bytes]) -> bytes:
    """Adds what may be remembered to ``fresh``: what did not change meanwhile, nor shortly before."""
    with files.open_file(node) as file:
        begun = clock()
        hashed = hashlib.sha256(_xattrs(files.xattrs(node.path)))
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
        is_settled = max(node.mtime_ns, node.ctime_ns) < begun - RACY_NS
        is_same = not isinstance(files, Changeable) or files.state(file) == node.key
        if is_settled and is_same and node.inode:
            fresh[node.key] = hashed.digest()
        return hashed.digest()


# -- what changed


class Change(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    change: Change


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """Between two manifests, by path."""
    found = []
    for path in sorted(old.keys() | new.keys()):
        if path not in old:
            found.append(Difference(path, Change.ADDED))
        elif path not in new:
            found.append(Difference(path, Change.REMOVED))
        elif old[path] != new[path]:
            found.append(Difference(path, Change.CHANGED))
    return found


def encode(manifest: Mapping[str, str]) -> bytes:
    paths = sorted(manifest)
    digests = b"".join(bytes.fromhex(manifest[path]) for path in paths)
    return zlib.compress(_LENGTH.pack(len(paths)) + digests + b"\0".join(map(os.fsencode, paths)))


def decode(data: bytes) -> dict[str, str]:
    """Raises ``InvalidInput`` for what :func:`encode` did not write."""
    try:
        inflating = zlib.decompressobj()
        plain = inflating.decompress(data, MAX_MANIFEST)
        (count,) = _LENGTH.unpack_from(plain)
        end = _LENGTH.size + count * _SHORT
        paths = [os.fsdecode(path) for path in plain[end:].split(b"\0")] if count else []
    except (zlib.error, struct.error) as error:
        raise InvalidInput(f"manifest of a selection: not readable ({error})") from None
    if len(paths) != count or not inflating.eof:
        raise InvalidInput(f"manifest of a selection: damaged (expected {count} paths, got {len(paths)})")
    digests = (plain[at : at + _SHORT].hex() for at in range(_LENGTH.size, end, _SHORT))
    return dict(zip(paths, digests, strict=True))
