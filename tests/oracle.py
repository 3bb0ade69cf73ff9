"""What a stack of layers must look like: a small model, written from the specification for the tests alone.

It shares no code with the product and goes about it differently: layers are read whole, by the standard
library's tarfile; each first removes what it hides, and only then adds what it has (image-spec layer.md,
"Whiteouts": they "MUST only apply to resources in lower/parent layers").
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

_OVERLAY = ("trusted.overlay.", "user.overlay.")
_TYPES = {
    tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.CONTTYPE: "file", tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


class Refused(Exception):
    """The layer says what it must not, or what cannot be done."""


@dataclass(eq=False)
class Node:
    """One file, whatever its names. ``mtime`` is nanoseconds; ``None`` for a directory nobody listed."""

    type: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int | None = None
    target: str = ""
    device: tuple[int, int] = (0, 0)
    size: int = 0
    sha256: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """For comparing; a symlink's mode means nothing."""
        values = dict(vars(self))
        if self.type == "symlink":
            del values["mode"]
        return values


Tree = dict[str, Node]


def union(layers: Iterable[bytes | Path | IO[bytes]]) -> Tree:
    """Path to node, the root as ``""``. Layers are tars, base first, plain or compressed with gzip."""
    tree: Tree = {"": Node("directory")}
    for layer in layers:
        with _opened(layer) as tar:
            tree = apply(tree, tar)
    return tree


def linked(tree: Tree) -> set[frozenset[str]]:
    """Names that are one file, each group of more than one."""
    names: dict[int, set[str]] = {}
    for path, node in tree.items():
        names.setdefault(id(node), set()).add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def apply(tree: Tree, tar: tarfile.TarFile) -> Tree:
    members = [(_inside(member.name), member) for member in tar.getmembers()]
    result = dict(tree)
    for path in list(_hidden(tree, [path for path, _member in members])):
        _remove(result, path)
    adding = _Adding(result)
    for path, member in members:
        if not _is_marker(path):
            adding.add(path, member, tar)
    return result


def _hidden(tree: Tree, paths: Iterable[str]) -> Iterator[str]:
    """Paths of the lower tree that a layer's whiteouts and opaque markers hide."""
    for path in paths:
        parent, _, name = path.rpartition("/")
        if not _is_marker(path) or _is_aufs(path):
            continue
        directory = _follow(tree, parent)
        if name == ".wh..wh..opq":
            if directory is not None:
                yield from (other for other in tree if other != directory and _is_below(other, directory))
            continue
        hidden = name[len(".wh."):]
        if hidden in ("", ".", ".."):
            raise Refused(f"whiteout of {hidden!r}")
        if directory is not None:
            yield _join(directory, hidden)


class _Adding:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.own: set[str] = set()

    def add(self, path: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        kind = _TYPES.get(member.type)
        if kind is None or any(key.startswith("GNU.sparse") for key in member.pax_headers):
            raise Refused(f"{path}: type {member.type!r}")
        if not path:
            if kind != "directory":
                raise Refused("a root that is no directory")
            self.tree[""] = _node(kind, member, tar)
            return
        parent, _, name = path.rpartition("/")
        place = _join(self._make_directory(parent), name)
        node = self._linked(member, place) if kind == "hardlink" else _node(kind, member, tar)
        if self.tree.get(place) is node:
            return
        if not (kind == "directory" and self._is_directory(place)):
            _remove(self.tree, place)
        self.tree[place] = node
        self.own.add(place)

    def _linked(self, member: tarfile.TarInfo, place: str) -> Node:
        parent, _, name = _clamped(member.linkname).rpartition("/")
        directory = _follow(self.tree, parent)
        node = None if directory is None else self.tree.get(_join(directory, name) if name else "")
        if node is None or node.type == "directory":
            raise Refused(f"{place}: hard link to {member.linkname}")
        if _is_below(_join(directory or "", name), place) and _join(directory or "", name) != place:
            raise Refused(f"{place}: takes the place of the directory of its target")
        return node

    def _make_directory(self, path: str) -> str:
        found = _follow(self.tree, path, self._make)
        assert found is not None
        return found

    def _make(self, place: str) -> None:
        if place in self.tree:
            if place in self.own:
                raise Refused(f"{place}: no directory")
            _remove(self.tree, place)
        self.tree[place] = Node("directory")
        self.own.add(place)

    def _is_directory(self, place: str) -> bool:
        node = self.tree.get(place)
        return node is not None and node.type == "directory"


def _follow(tree: Tree, path: str, make: Any = None) -> str | None:
    """The directory that a path leads to inside the root, through symlinks, making what is missing."""
    done: list[str] = []
    todo = path.split("/")
    hops = 0
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            done = done[:-1]
            continue
        place = "/".join([*done, name])
        node = tree.get(place)
        if node is not None and node.type == "symlink":
            hops += 1
            if hops > 40:
                raise Refused(f"{path}: too many symlinks")
            todo = node.target.split("/") + todo
            done = [] if node.target.startswith("/") else done
            continue
        if node is None or node.type != "directory":
            if make is None:
                return None
            make(place)
        done.append(name)
    return "/".join(done)


def _remove(tree: Tree, path: str) -> None:
    for other in [other for other in tree if _is_below(other, path)]:
        del tree[other]


def _is_below(path: str, directory: str) -> bool:
    """The directory itself counts; everything is below the root."""
    return not directory or path == directory or path.startswith(directory + "/")


def _node(kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> Node:
    stated = member.pax_headers.get("mtime")
    node = Node(
        kind, member.mode & 0o7777, member.uid, member.gid,
        int(Decimal(stated) * 10**9) if stated else int(member.mtime) * 10**9,
    )
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and not name.startswith(_OVERLAY):
            node.xattrs[name] = value.encode("utf-8", "surrogateescape")
    if kind == "symlink":
        node.target = member.linkname
    elif kind in ("char", "block"):
        node.device = (member.devmajor, member.devminor)
        if (kind, node.device) == ("char", (0, 0)):
            raise Refused("a device that overlayfs reads as a whiteout")
    elif kind == "file":
        content = tar.extractfile(member)
        assert content is not None
        node.size, node.sha256 = member.size, hashlib.file_digest(content, "sha256").hexdigest()
    return node


def _is_marker(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".wh.") or _is_aufs(path)


def _is_aufs(path: str) -> bool:
    return any(part.startswith(".wh..wh.") and part != ".wh..wh..opq" for part in path.split("/"))


def _inside(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            raise Refused(f"{name}: leads out")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _clamped(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _opened(layer: bytes | Path | IO[bytes]) -> tarfile.TarFile:
    if isinstance(layer, Path):
        return tarfile.open(layer, "r:*", encoding="utf-8", errors="surrogateescape")
    stream = io.BytesIO(layer) if isinstance(layer, bytes) else layer
    return tarfile.open(fileobj=stream, mode="r:*", encoding="utf-8", errors="surrogateescape")
