"""What a tree looks like, as plain values, for comparing: read with the standard library alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from lamina.layer.entry import Kind
from lamina.layer.owners import OWNER_XATTRS
from lamina.layer.root import MemoryRoot

_LETTERS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
            stat.S_IFIFO: "p", stat.S_IFSOCK: "s"}
_KINDS = {Kind.FILE: "f", Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.CHAR: "c", Kind.BLOCK: "b", Kind.FIFO: "p"}

Observed = dict[str, dict[str, Any]]


def on_disk(top: Path) -> Observed:
    """Paths relative to ``top``, which is ``""``. Does not follow links, whatever is in there."""
    found: Observed = {}
    forced: list[tuple[str, int]] = []
    descriptor = os.open(top, os.O_RDONLY)
    where = f"/proc/self/fd/{descriptor}"
    try:
        found[""] = _status(os.fstat(descriptor), where, is_top=True)
        waiting = [""]
        while waiting:
            path = waiting.pop()
            for name in os.listdir(f"{where}/{path}"):
                child = f"{path}/{name}" if path else name
                status = os.lstat(f"{where}/{child}")
                _force(f"{where}/{child}", status, forced)
                found[child] = _status(status, f"{where}/{child}")
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(child)
    finally:
        for path, mode in reversed(forced):
            os.chmod(path, mode)
        os.close(descriptor)
    return found


def _force(path: str, status: os.stat_result, forced: list[tuple[str, int]]) -> None:
    """Only root reads what a mode denies; its owner must allow it to himself first, and takes that back."""
    if os.geteuid() != 0 and stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR):
        needed = 0o700 if stat.S_ISDIR(status.st_mode) else 0o400
        if status.st_mode & needed != needed:
            os.chmod(path, stat.S_IMODE(status.st_mode) | needed)
            forced.append((path, stat.S_IMODE(status.st_mode)))


def _status(status: os.stat_result, where: str, *, is_top: bool = False) -> dict[str, Any]:
    letter = _LETTERS[stat.S_IFMT(status.st_mode)]
    seen: dict[str, Any] = {
        "type": letter, "uid": status.st_uid, "gid": status.st_gid, "nanoseconds": status.st_mtime_ns,
        "mtime": status.st_mtime_ns / 10**9, "inode": (status.st_dev, status.st_ino),
        "xattrs": {
            name: os.getxattr(where, name, follow_symlinks=is_top)
            for name in os.listxattr(where, follow_symlinks=is_top)
            if not name.startswith(OWNER_XATTRS)  # says what uid and gid would, where there is one id
        },
    }
    if letter != "l":
        seen["mode"] = stat.S_IMODE(status.st_mode)
    if letter == "f":
        seen["size"] = status.st_size
        seen["data"] = Path(where).read_bytes()
    elif letter == "l":
        seen["to"] = os.readlink(where)
    elif letter in "cb":
        seen["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return seen


def in_memory(root: MemoryRoot) -> Observed:
    found: Observed = {}
    for entry in root.walk():
        letter = _KINDS[entry.kind]
        found[entry.path] = seen = {
            "type": letter, "uid": entry.uid, "gid": entry.gid, "nanoseconds": entry.mtime,
            "mtime": entry.mtime / 10**9, "xattrs": dict(entry.xattrs),
            "inode": root.identity(entry.path) or ("alone", entry.path),
        }
        if letter != "l":
            seen["mode"] = entry.mode
        if letter == "f":
            seen["size"] = entry.size
            seen["data"] = root.read(entry.path)
        elif letter == "l":
            seen["to"] = entry.linkname
        elif letter in "cb":
            seen["device"] = (entry.major, entry.minor)
    return found


def linked(tree: Observed) -> set[frozenset[str]]:
    """Names that are one file, each group of more than one."""
    groups: dict[Any, set[str]] = {}
    for path, seen in tree.items():
        groups.setdefault(seen["inode"], set()).add(path)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def comparable(tree: Observed, *without: str) -> dict[str, Any]:
    """For comparing whole trees: inodes become groups of names."""
    left_out = {"inode", "mtime", *without}
    plain = {path: {key: value for key, value in seen.items() if key not in left_out} for path, seen in tree.items()}
    return {"tree": plain, "linked": linked(tree)}
