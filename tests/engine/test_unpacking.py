"""Archives that ADD unpacks, member for member as a model of a filesystem has it."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import oracle
from tests.layer import tarbytes

from lamina.build.placing import CannotReplace, Nothing, Placing, Writing
from lamina.engine.building.copying import _unpacked, write_entries
from lamina.engine.building.unpacking import Unpacking
from lamina.errors import InvalidInput
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import IndexBuilder

# kind, path, and what a link leads to, or a file holds
Member = tuple[str, str, str]
BASE: list[Member] = [
    ("dir", "a", ""), ("file", "a/x", "old"), ("dir", "a/b", ""), ("file", "a/b/y", "older"), ("file", "b", "b"),
    ("dir", "c", ""), ("dir", "c/a", ""), ("file", "c/a/x", "cax"), ("symlink", "c/b", "/a"),
]
TYPES = {"dir": tarbytes.DIR, "symlink": tarbytes.SYM, "hard": tarbytes.HARD}
KINDS = {"file": Kind.FILE, "dir": Kind.DIRECTORY, "symlink": Kind.SYMLINK}

paths = st.lists(st.sampled_from("abxy"), min_size=1, max_size=3).map("/".join)
members = st.one_of(
    st.tuples(st.just("file"), paths, st.text("pq", max_size=2)), st.tuples(st.just("dir"), paths, st.just("")),
    st.tuples(st.just("symlink"), paths, st.just("a")), st.tuples(st.just("hard"), paths, paths),
)


def tar_of(found: Iterable[Member], prefix: str = "") -> bytes:
    parts = []
    for kind, path, text in found:
        if kind == "file":
            parts.append(tarbytes.member(prefix + path, text.encode(), mode=0o640))
        else:
            link = prefix + text if kind == "hard" else text
            parts.append(tarbytes.header(prefix + path, TYPES[kind], link=link, mode=0o710))
    return tarbytes.tar(*parts)


class Base:
    def __init__(self, found: Sequence[Member]) -> None:
        self._entries = {path: Entry(path, KINDS[kind], 0o710, linkname=text if kind == "symlink" else "")
                         for kind, path, text in found}

    def look(self, path: str) -> Entry | None:
        return self._entries.get(path) or Nothing().look(path)


def alone(base: Base, archives: Sequence[BinaryIO], place: str) -> Iterable[Entry]:
    return Unpacking(base, place, Writing(), archives).entries()


def among_others(base: Base, archives: Sequence[BinaryIO], place: str) -> Iterable[Entry]:
    placing = Placing(base, place, Writing())
    for number, archive in enumerate(archives):
        placing.add(_unpacked(archive, number), is_single=False, is_kept=True)
    return placing.entries()


WAYS = (alone, among_others)
Way = Callable[[Base, Sequence[BinaryIO], str], Iterable[Entry]]


def layer_of(way: Way, base: Sequence[Member], archives: Sequence[bytes], place: str, directory: Path) -> bytes:
    """Archives are files, as in earnest: a content is read at its place in them."""
    opened = []
    for number, archive in enumerate(archives):
        (directory / f"{number}").write_bytes(archive)
        opened.append((directory / f"{number}").open("rb"))
    out = io.BytesIO()
    try:
        write_entries(way(Base(base), opened, place), out, IndexBuilder(io.BytesIO()))
    finally:
        for each in opened:
            each.close()
    return out.getvalue()


def is_plain(base: Sequence[Member], archives: Sequence[Sequence[Member]], prefix: str) -> bool:
    """Nothing is written below what is no directory, and links lead to what their archive has at that time."""
    there: dict[str, str] = {path: kind for kind, path, _ in base}
    for archive in archives:
        own: set[str] = set()
        for kind, name, target in archive:
            path = prefix + name
            above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
            if any(there.get(each, "dir") != "dir" for each in above):
                return False
            if kind == "hard":
                if prefix + target not in own or there[prefix + target] == "dir":
                    return False
                if path != prefix + target and (prefix + target).startswith(f"{path}/"):
                    return False
                kind = there[prefix + target]  # noqa: PLW2901 - what it is then
            if not (kind == "dir" and there.get(path) == "dir"):
                gone = {each for each in there if each == path or each.startswith(f"{path}/")}
                there = {each: what for each, what in there.items() if each not in gone}
                own -= gone
            there |= dict.fromkeys(above, "dir") | {path: kind}
            own.add(path)
    return True


def shown(tree: oracle.Tree) -> object:
    """Times of directories that nobody listed are nobody's."""
    values = {path: node.values() for path, node in tree.items()}
    for each in values.values():
        if each["type"] == "directory":
            del each["mtime"]
    return values, {group for group in oracle.linked(tree) if all(tree[name].type == "file" for name in group)}


def insist_same(way: Way, archives: Sequence[Sequence[Member]], prefix: str, directory: Path) -> None:
    base, tars = tar_of(BASE), [tar_of(each) for each in archives]
    try:
        layer = layer_of(way, BASE, tars, f"/{prefix}", directory)
    except (CannotReplace, InvalidInput):
        assert not is_plain(BASE, archives, prefix), "refused for no reason"
        return
    if not is_plain(BASE, archives, prefix):
        return  # into a directory that came to be there later, say
    expected = oracle.union([base])
    for each in archives:
        with tarfile.open(fileobj=io.BytesIO(tar_of(each, prefix))) as tar:
            expected = oracle.apply(expected, tar)
    assert shown(oracle.union([base, layer])) == shown(expected)
    names = tarfile.open(fileobj=io.BytesIO(layer)).getnames()
    assert len(names) == len(set(names)), "docker loads no layer that has a name twice"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix", ["", "c/", "new/er/"])
@given(archive=st.lists(members, max_size=9))
def test_any_archive(
    tmp_path_factory: pytest.TempPathFactory, way: Way, prefix: str, archive: list[Member]
) -> None:
    insist_same(way, [archive], prefix, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("way", WAYS)
@given(archives=st.lists(st.lists(members, max_size=4), min_size=2, max_size=3))
def test_any_archives(tmp_path_factory: pytest.TempPathFactory, way: Way, archives: list[list[Member]]) -> None:
    insist_same(way, archives, "", tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("archive", [
    [("symlink", "a", "x"), ("dir", "a", "")],
    [("file", "a", "1"), ("dir", "a", ""), ("file", "a/n", "n")],
    [("file", "a/n", "n"), ("symlink", "a", "c"), ("dir", "a", ""), ("dir", "a/b", "")],
    [("symlink", "c/a", "x"), ("dir", "c/a", ""), ("file", "c/a/z", "")],
    [("file", "n", "1"), ("hard", "m", "n"), ("file", "n", "2"), ("hard", "o", "m")],
    [("file", "n/f", "1"), ("hard", "m", "n/f"), ("file", "n", "2")],
    [("hard", "n", "n")], [("symlink", "s", "a"), ("hard", "t", "s"), ("dir", "s", "")],
    [("file", "n", "1"), ("hard", "n", "n"), ("hard", "m", "n")],
    [("file", "a/b/y", "1"), ("dir", "a", ""), ("dir", "a/b", "")],
])
def test_what_shows_of_the_base(tmp_path: Path, way: Way, archive: list[Member]) -> None:
    insist_same(way, [archive], "", tmp_path)


def test_a_directory_in_the_place_of_a_link_that_replaced_one_is_marked(tmp_path: Path) -> None:
    for way in WAYS:
        archive = tar_of([("symlink", "a", "x"), ("dir", "a", ""), ("file", "a/n", "n")])
        layer = layer_of(way, BASE, [archive], "/", tmp_path)
        assert set(tarfile.open(fileobj=io.BytesIO(layer)).getnames()) == {"a", "a/.wh..wh..opq", "a/n"}
        layer = layer_of(way, [], [archive], "/", tmp_path)
        assert set(tarfile.open(fileobj=io.BytesIO(layer)).getnames()) == {"a", "a/n"}


def test_very_many_members_take_little_memory(tmp_path: Path) -> None:
    """60,000 of them took 150 MB when each was a value of its own."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text("FROM scratch\nADD a.tar /\n")
    with (tmp_path / "c/a.tar").open("wb") as file:
        for number in range(60_000):
            file.write(tarbytes.header(f"usr/share/package-{number // 200:05}/file-{number:07}.txt"))
        file.write(bytes(1024))
    program = (
        "import re, sys; from lamina.engine.building.options import BuildOptions\n"
        "from lamina.engine.engine import Engine; from lamina.engine.settings import Settings\n"
        "with Engine.open(settings=Settings.load({}, flags={'data-root': sys.argv[1]})) as engine:\n"
        "    engine.build(sys.argv[2], BuildOptions())\n"
        # Not getrusage(2): that begins with what the process had that called exec.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "root"), str(tmp_path / "c")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert int(said) < 85_000
