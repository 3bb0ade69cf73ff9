"""A way through symlinks ends where the kernel's own does, when it stays inside a root (openat2, RESOLVE_IN_ROOT)."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lamina.layer.way import Way
from lamina.snapshot.syscalls import open_in_root

_NAMES = st.sampled_from(["a", "b", "c", "..", ".", ""])
_PATHS = st.lists(_NAMES, min_size=1, max_size=5).map("/".join)
_TEXTS = st.tuples(st.sampled_from(["", "/"]), _PATHS).map("".join).filter(bool)
# What is made at each place where it can be: a symlink with its text, a directory, a file.
_KINDS = st.one_of(_TEXTS, st.just(None), st.just(True))
_TREES = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join), _KINDS, max_size=10)


def make(top: Path, tree: dict[str, str | bool | None]) -> None:
    for path, kind in sorted(tree.items()):
        place = top / path
        if not place.parent.is_dir() or any(each.is_symlink() for each in place.parents):
            continue
        if kind is None:
            place.mkdir()
        elif kind is True:
            place.write_bytes(b"")
        else:
            place.symlink_to(str(kind))


def walked(top: Path, path: str) -> str | None:
    way = Way(path)
    for here in way:
        place = top / here
        if place.is_symlink():
            if not way.follow(os.readlink(place)):
                return None
            continue
        if not place.exists() or (not place.is_dir() and way.has_more):
            return None
        way.enter(here)
    return way.place


def by_the_kernel(top: Path, path: str) -> str | None:
    directory = os.open(top, os.O_PATH)
    try:
        found = open_in_root(directory, path, os.O_PATH)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None
    finally:
        os.close(directory)
    try:
        there = os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)
    return os.path.relpath(there, os.path.realpath(top)).removeprefix(".")


@given(tree=_TREES, path=_PATHS.filter(bool))
def test_it_ends_where_the_kernels_does(tree: dict[str, str | bool | None], path: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        make(top, tree)
        assert walked(top, path) == by_the_kernel(top, path)


def test_a_circle_ends() -> None:
    way = Way("loop/x")
    hops = 0
    for here in way:
        assert here == "loop"
        if not way.follow("loop"):
            break
        hops += 1
    assert hops == 40
