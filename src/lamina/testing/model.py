"""What a stack of layers must look like: a slow and simple reading of image-spec's layer.md, for tests.

It shares no code with the product but the names of things: a dictionary of files, and the acts of each
entry on it, one after the other, symlinks above the last name followed inside the root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.owners import OWNER_XATTRS
from lamina.values import dataclass, field


@dataclass
class ModelFile:
    """``what`` is content, link text or device numbers; names of one file share the object."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    what: object = None
    xattrs: dict[str, bytes] = field(default_factory=dict)


class Refused(Exception):
    """A layer that says of one name that it is a directory, and that it is not; or a loop of symlinks."""


def union_of(layers: Iterable[Iterable[Entry]]) -> dict[str, ModelFile]:
    """Path to file, for everything below the root, and the root where a layer lists it."""
    union: dict[str, ModelFile] = {}
    for entries in layers:
        _apply(union, list(entries))
    return union


def _apply(union: dict[str, ModelFile], entries: list[Entry]) -> None:
    removals: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (removals if entry.path.rpartition("/")[2].startswith(".wh.") else others).append(entry)
    lower = dict(union)
    for entry in others:
        # What the layer itself has at a name is what its whiteouts speak of, not a symlink of a lower layer.
        if lower.get(entry.path) is not None and lower[entry.path].kind == "l":
            del lower[entry.path]
    for entry in removals:
        parent, _, name = entry.path.rpartition("/")
        place = _directory(lower, parent, make=False)
        if place is None:
            continue
        if name == ".wh..wh..opq":
            _remove_below(union, place)
        elif not name.startswith(".wh..wh."):
            _remove(union, _join(place, name[4:]))
    own: set[str] = set()
    for entry in others:
        own.add(_put(union, entry, own))


def _put(union: dict[str, ModelFile], entry: Entry, own: set[str]) -> str:
    """Where it went."""
    parent, _, name = entry.path.rpartition("/")
    if not entry.path:
        union[""] = _file(entry, "d")
        return ""
    place = _join(_directory(union, parent, make=True, own=own), name)
    if entry.kind is Kind.HARDLINK:
        above, _, last = entry.linkname.rpartition("/")
        target = union[_join(_directory(union, above, make=False), last)]
        _remove(union, place)
        union[place] = target
        return place
    if entry.kind is Kind.DIRECTORY:
        if place not in union or union[place].kind != "d":
            _remove(union, place)
        union[place] = _file(entry, "d")
        return place
    _remove(union, place)
    if entry.kind is Kind.FILE:
        with entry.open() if entry.open else open(os.devnull, "rb") as data:
            union[place] = _file(entry, "f", data.read())
    elif entry.kind is Kind.SYMLINK:
        union[place] = _file(entry, "l", entry.linkname)
    elif entry.kind is Kind.FIFO:
        union[place] = _file(entry, "p")
    else:
        letter = "c" if entry.kind is Kind.CHAR else "b"
        union[place] = _file(entry, letter, (entry.major, entry.minor))
    return place


def _file(entry: Entry, kind: str, what: object = None) -> ModelFile:
    return ModelFile(kind, entry.mode, entry.uid, entry.gid, entry.mtime, what, dict(entry.xattrs))


def _directory(
    union: dict[str, ModelFile], path: str, *, make: bool, own: Collection[str] = ()
) -> str | None:
    """Where a directory is, following symlinks; made as 0755 of root if it must be."""
    place = ""
    names = path.split("/")[::-1] if path else []
    for _step in range(10_000):
        if not names:
            return place
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = place.rpartition("/")[0]
            continue
        here = _join(place, name)
        found = union.get(here)
        if found is not None and found.kind == "l":
            text = str(found.what)
            if text.startswith("/"):
                place = ""
            names.extend(text.split("/")[::-1])
            continue
        if found is None or found.kind != "d":
            if not make:
                return None
            if here in own:
                raise Refused(here)
            _remove(union, here)  # a file of a lower layer gives way to what lies below its name now
            union[here] = ModelFile("d", 0o755, 0, 0, -1)
        place = here
    if make:
        raise Refused(path)
    return None


def _join(parent: str | None, name: str) -> str:
    assert parent is not None
    return f"{parent}/{name}" if parent else name


def _remove(union: dict[str, ModelFile], path: str) -> None:
    union.pop(path, None)
    _remove_below(union, path)


def _remove_below(union: dict[str, ModelFile], path: str) -> None:
    prefix = f"{path}/" if path else ""
    for each in [each for each in union if each and each.startswith(prefix)]:
        del union[each]


# -- the same of what is on disk


def read_tree(top: Path) -> dict[str, ModelFile]:
    """Everything below a directory, and the directory itself as the root."""
    seen: dict[tuple[int, int], ModelFile] = {}
    union: dict[str, ModelFile] = {}
    with contextlib.ExitStack() as closed:
        waiting = [""]
        while waiting:
            path = waiting.pop()
            status = os.lstat(top / path)
            _open_up(top / path, status, closed)
            key = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode) or key not in seen:
                seen[key] = _read(top / path, status)
            union[path] = seen[key]
            if stat.S_ISDIR(status.st_mode):
                waiting += [f"{path}/{name}" if path else name for name in os.listdir(top / path)]
    return union


def _open_up(path: Path, status: os.stat_result, closed: contextlib.ExitStack) -> None:
    """Where nothing but its mode keeps us out of what is ours, it is changed for a moment."""
    needed = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR
    if os.geteuid() != 0 and not stat.S_ISLNK(status.st_mode) and status.st_mode & needed != needed:
        mode = stat.S_IMODE(status.st_mode)
        path.chmod(mode | needed)
        closed.callback(path.chmod, mode)


_KINDS = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c",
    stat.S_IFBLK: "b", stat.S_IFSOCK: "s",
}


def _read(path: Path, status: os.stat_result) -> ModelFile:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    what: object = None
    if kind == "f":
        what = path.read_bytes()
    elif kind == "l":
        what = os.readlink(path)
    elif kind in "cb":
        what = (os.major(status.st_rdev), os.minor(status.st_rdev))
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(OWNER_XATTRS)
    }
    return ModelFile(
        kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, what, xattrs
    )


def differences(
    expected: dict[str, ModelFile], found: dict[str, ModelFile], *, has_owners: bool = True,
    has_links: bool = True,
) -> list[str]:
    """A line for each path that is not as it should be; empty when they agree.

    The root counts if it is expected. Times of directories that no layer lists are nobody's business.
    """
    lines = [f"missing: {path!r}" for path in sorted(expected.keys() - found.keys())]
    lines += [f"unexpected: {path!r}" for path in sorted(found.keys() - expected.keys() - {""})]
    for path in sorted(expected.keys() & found.keys()):
        lines += _different(path, expected[path], found[path], has_owners=has_owners)
    return lines + (_different_links(expected, found) if has_links else [])


def _different(path: str, wanted: ModelFile, got: ModelFile, *, has_owners: bool) -> list[str]:
    pairs: dict[str, tuple[object, object]] = {
        "kind": (wanted.kind, got.kind), "content": (wanted.what, got.what),
        "xattrs": (wanted.xattrs, got.xattrs),
    }
    if wanted.kind != "l":
        pairs["mode"] = (oct(wanted.mode), oct(got.mode))
    if wanted.mtime >= 0:
        pairs["mtime"] = (wanted.mtime, got.mtime)
    if has_owners:
        pairs["owner"] = ((wanted.uid, wanted.gid), (got.uid, got.gid))
    return [f"{path!r}: {what}: expected {a!r}, got {b!r}" for what, (a, b) in pairs.items() if a != b]


def _different_links(expected: dict[str, ModelFile], found: dict[str, ModelFile]) -> list[str]:
    """Names that share a file must share it, and the others must not."""
    def groups(union: dict[str, ModelFile]) -> set[tuple[str, ...]]:
        names: dict[int, list[str]] = {}
        for path, each in union.items():
            if each.kind != "d":
                names.setdefault(id(each), []).append(path)
        return {tuple(sorted(group)) for group in names.values()}

    return [
        f"names of one file, expected exactly these: {group!r}"
        for group in sorted(groups(expected) - groups(found)) if all(path in found for path in group)
    ]
