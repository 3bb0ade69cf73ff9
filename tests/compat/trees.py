"""A directory tree as plain values, so that two trees compare path by path. Shares no code with the product."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """One path. ``content`` is a digest, a link's text, or a device number; ``first_name`` groups hard links."""

    kind: str
    mode: str
    owner: tuple[int, int]
    mtime: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    first_name: str


Tree = dict[bytes, Seen]

_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}
# What an engine adds for itself is not the image's.
_FOREIGN_XATTRS = ("trusted.overlay.", "user.overlay.", "user.rootlesscontainers", "user.umoci.", "security.selinux")


def read_tree(root: Path) -> Tree:
    """Every path below ``root``, and ``b"."`` for the root itself. ``mtime`` is whole seconds, as in most tars."""
    base = os.fsencode(root)
    found: Tree = {}
    first_names: dict[tuple[int, int], str] = {}
    for path in sorted(_walk(base)):
        status = os.lstat(path)
        name = os.path.relpath(path, base)
        identity = (status.st_dev, status.st_ino)
        is_linked = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
        found[name] = Seen(
            kind=_KINDS[stat.S_IFMT(status.st_mode)],
            mode=f"{stat.S_IMODE(status.st_mode):04o}",
            owner=(status.st_uid, status.st_gid),
            mtime=status.st_mtime_ns // 10**9,
            content=_content(path, status),
            xattrs=_xattrs(path),
            first_name=first_names.setdefault(identity, os.fsdecode(name)) if is_linked else "",
        )
    return _without_lone_links(found)


def differences(ours: Tree, theirs: Tree) -> list[str]:
    """One line a path, readable in a failure."""
    lines = []
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if mine == other:
            continue
        if mine is None or other is None:
            lines.append(f"{os.fsdecode(path)}: only {'theirs' if mine is None else 'ours'}: {mine or other}")
        else:
            lines.extend(
                f"{os.fsdecode(path)}: {field}: ours {getattr(mine, field)!r}, theirs {getattr(other, field)!r}"
                for field in Seen.__dataclass_fields__ if getattr(mine, field) != getattr(other, field)
            )
    return lines


def without(tree: Tree, path: bytes) -> Tree:
    return {name: seen for name, seen in tree.items() if name != path}


def with_mtimes_of(tree: Tree, other: Mapping[bytes, Seen], kinds: frozenset[str]) -> Tree:
    """For comparing with a tool that does not keep the times of some kinds."""
    return {
        name: replace(seen, mtime=other[name].mtime) if name in other and seen.kind in kinds else seen
        for name, seen in tree.items()
    }


def _walk(base: bytes) -> list[bytes]:
    paths = [base]
    for directory, subdirectories, files in os.walk(base):
        paths.extend(os.path.join(directory, name) for name in [*subdirectories, *files])
    return paths


def _content(path: bytes, status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if stat.S_ISLNK(status.st_mode):
        return os.fsdecode(os.readlink(path))
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return ""


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(_FOREIGN_XATTRS)]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))


def _without_lone_links(tree: Tree) -> Tree:
    """A file whose other names lie outside the tree is no hard link as far as the tree goes."""
    groups: dict[str, int] = {}
    for seen in tree.values():
        groups[seen.first_name] = groups.get(seen.first_name, 0) + 1
    return {
        name: replace(seen, first_name="") if groups[seen.first_name] == 1 else seen for name, seen in tree.items()
    }
