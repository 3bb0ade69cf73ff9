"""Files of build contexts as values, and one tree of them that has something of everything."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """Without ``data`` a directory."""

    data: bytes | None
    mode: int = 0o644
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    text: str


@dataclass(frozen=True)
class Hard:
    """Another name of a file that was listed before."""

    name: str


Made = str | File | Link | Hard


def folder(mode: int = 0o755) -> File:
    return File(None, mode)


def archive(compress: Callable[[bytes], bytes] = bytes) -> bytes:
    """Files with owners, modes, times and links; the same bytes each time."""
    return compress(tar_of([
        ("in", None, {"mode": 0o751, "uid": 11, "gid": 12}),
        ("in/file", b"packed\n", {"mode": 0o640, "uid": 11, "gid": 12}),
        ("in/setid", b"#!/bin/sh\n", {"mode": 0o4755}),
        ("in/same", b"", {"type": tarfile.LNKTYPE, "linkname": "in/file", "mode": 0o640, "uid": 11, "gid": 12}),
        ("in/link", b"", {"type": tarfile.SYMTYPE, "linkname": "file"}),
        ("f", b"packed f\n", {"mode": 0o600, "uid": 13, "gid": 14}),
    ]))


def tar_of(members: Iterable[tuple[str, bytes | None] | tuple[str, bytes | None, Mapping[str, object]]]) -> bytes:
    """Without data a directory; the third is what differs from what ``TarInfo`` says by itself."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, *more in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = (tarfile.DIRTYPE, 0o755) if data is None else (tarfile.REGTYPE, 0o644)
            member.size, member.mtime = len(data or b""), 1_600_000_000
            for key, value in (more[0] if more else {}).items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


TREE: Mapping[str, Made] = {
    "f": "f\n", "g": "g\n", "exec": File(b"#!/bin/sh\necho run\n", 0o755), "own": File(b"own\n", 0o600),
    "zero": File(b"", 0o666),
    "d/a": "a\n", "d/b.txt": "b\n", "d/sub/c": "c\n", "d/sub/.d": "dot\n", "d/empty": folder(0o700),
    "d/.hidden": "hidden\n", "d/link": Link("a"), "d/up": Link("../f"), "d/sub/exec": File(b"x\n", 0o755),
    "closed": folder(0o700), "closed/k": File(b"k\n", 0o400), "sticky": folder(0o1777), "sticky/s": "s\n",
    "hard/one": "hard\n", "hard/two": Hard("hard/one"), "hard/three/four": Hard("hard/one"),
    "lf": Link("f"), "ld": Link("d"), "lout": Link("/etc/passwd"), "lost": Link("nowhere"), "lup": Link("../../f"),
    "sp ace": "space\n", "gl[o]b": "glob\n", "wéird": "weird\n", "x1.txt": "x1\n", "x2.txt": "x2\n", "x3.md": "x3\n",
    "de/ep/er/z": "z\n", "de/ep/y": "y\n", "de/x.txt": "x\n", "dollar$f": "dollar\n", "tree/f/inner": "in f\n",
    "clash/a/deep": "deep\n", "over/dir": "over\n", "over/two": "other two\n", "clash/kept/deep": "deep\n",
}
