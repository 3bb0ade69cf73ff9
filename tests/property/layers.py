"""Random layers, drawn from few names so that they hide, replace, link to and lead through each other."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tests.layer import tarbytes

from lamina.layer.entry import NO_XATTRS, Entry, Kind

NAMES = ("a", "b", "c")
MODES = (0o644, 0o755, 0o600, 0o4755, 0o1777, 0o2750, 0o444)
TARGETS = ("a", "b", "../a", "/b", "/a/b", "../../c", "./c", "b/../a", "nowhere", "/")
FLAGS = {"file": tarbytes.FILE, "directory": tarbytes.DIR, "symlink": tarbytes.SYM, "hardlink": tarbytes.HARD,
         "fifo": tarbytes.FIFO}


@dataclass(frozen=True)
class Act:
    kind: str
    path: str
    data: bytes = b""
    mode: int = 0o644
    mtime: int = 0
    target: str = ""
    xattr: bytes | None = None

    def member(self) -> bytes:
        records: dict[str, bytes | str] = {}
        if self.mtime % 10**9:
            records["mtime"] = f"{self.mtime // 10**9}.{self.mtime % 10**9:09d}"
        if self.xattr is not None and self.kind in ("file", "directory"):
            records["SCHILY.xattr.user.x"] = self.xattr
        fields: dict[str, Any] = {"mode": self.mode, "mtime": self.mtime // 10**9}
        before = tarbytes.pax(records) if records else b""
        if self.kind in ("whiteout", "opaque"):
            return tarbytes.member(self.path)
        if self.kind == "file":
            return before + tarbytes.member(self.path, self.data, **fields)
        return before + tarbytes.header(self.path, FLAGS[self.kind], link=self.target, **fields)


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
times = st.sampled_from((0, 10**9, 1_700_000_000_123_456_789, 5 * 10**8))


def _hidden(path: str) -> str:
    parent, _, name = path.rpartition("/")
    return f"{parent}/.wh.{name}" if parent else f".wh.{name}"


def acts(*, symlinks: bool = True) -> st.SearchStrategy[Act]:
    modes = st.sampled_from(MODES)
    kinds = [
        st.builds(Act, st.just("file"), paths, st.sampled_from((b"", b"x", b"y" * 600)), modes, times,
                  xattr=st.sampled_from((None, b"1"))),
        st.builds(Act, st.just("directory"), paths, mode=modes, mtime=times, xattr=st.sampled_from((None, b"2"))),
        st.builds(Act, st.just("hardlink"), paths, target=paths),
        st.builds(Act, st.just("fifo"), paths, mode=modes, mtime=times),
        st.builds(Act, st.just("whiteout"), paths.map(_hidden)),
        st.builds(Act, st.just("opaque"), paths.map(lambda path: f"{path}/.wh..wh..opq")),
    ]
    if symlinks:
        kinds.append(st.builds(Act, st.just("symlink"), paths, mode=st.just(0o777), mtime=times,
                               target=st.sampled_from(TARGETS)))
    return st.one_of(kinds)


def layers(*, symlinks: bool = True) -> st.SearchStrategy[list[Act]]:
    return st.lists(acts(symlinks=symlinks), max_size=8)


def tar_of(layer: list[Act]) -> bytes:
    return tarbytes.tar(*(act.member() for act in layer))


# -- entries that a tar can say

_letters = st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0")
_bytes_names = st.binary(min_size=1, max_size=40).filter(lambda raw: b"/" not in raw and b"\0" not in raw).map(
    lambda raw: raw.decode("utf-8", "surrogateescape"))
_components = st.one_of(st.text(_letters, min_size=1, max_size=60), _bytes_names, st.just("n" * 200)).filter(
    lambda name: name not in (".", "..") and len(name.encode("utf-8", "surrogateescape")) <= 255)
_paths = st.lists(_components, min_size=1, max_size=4).map("/".join)
_ids = st.one_of(st.integers(0, 1000), st.integers(0, 2**32 - 2))
_mtimes = st.one_of(st.integers(0, 2**31).map(lambda seconds: seconds * 10**9), st.integers(-(2**62), 2**62))
_xattrs = st.dictionaries(
    st.text("abcdefgh.", min_size=1, max_size=20).map(lambda name: "user." + name), st.binary(max_size=100), max_size=3)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    entry = Entry(
        draw(_paths), kind, draw(st.integers(0, 0o7777)), draw(_ids), draw(_ids), draw(_mtimes),
        xattrs=draw(_xattrs) or NO_XATTRS,
    )
    if kind is Kind.FILE:
        data = draw(st.binary(max_size=1500))
        entry.size, entry.open = len(data), lambda: io.BytesIO(data)
    elif kind is Kind.HARDLINK:
        entry.linkname = draw(_paths)
    elif kind is Kind.SYMLINK:
        entry.linkname = draw(st.one_of(_paths, st.text(_letters, min_size=1, max_size=300)))
    elif kind in (Kind.CHAR, Kind.BLOCK):
        entry.major, entry.minor = draw(st.integers(1, 4095)), draw(st.integers(0, 2**20 - 1))
    return entry
