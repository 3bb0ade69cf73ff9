"""Where copies land: what a layer says of links, modes and owners, whatever was asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest

from lamina.build.context import Node
from lamina.build.mode import parse_mode
from lamina.build.placing import CannotReplace, Nothing, Placing, Source, Writing
from lamina.layer.entry import Entry, Kind


class Tree:
    """What is there, by path."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def look(self, path: str) -> Entry | None:
        return self._entries.get(path) or Nothing().look(path)


def source(target: str, *, inode: int = 1, links: int = 1, kind: Kind = Kind.FILE, mode: int = 0o640,
           group: int = 0, uid: int = 3) -> Source:
    node = Node(path=target, kind=kind, mode=mode, uid=uid, gid=4, size=1, mtime_ns=5, linkname="", rdev=0, device=1,
                inode=inode, ctime_ns=0, links=links)
    return Source(target=target, node=node, xattrs=dict, open=lambda: io.BytesIO(b"x"), group=(0, group))


def placed(*sources: Source, writing: Writing | None = None, is_kept: bool = False) -> dict[str, Entry]:
    placing = Placing(Nothing(), "/x/", writing or Writing())
    placing.add(sources, is_single=False, is_kept=is_kept)
    return {entry.path: entry for entry in placing.entries()}


def test_names_of_one_file_are_links_within_a_source() -> None:
    found = placed(source("b", links=2), source("a", links=2))
    assert [found["x/a"].kind, found["x/b"].kind] == [Kind.FILE, Kind.HARDLINK]
    assert found["x/b"].linkname == "x/a"


def test_what_two_sources_name_is_two_files() -> None:
    """A command that then writes to one of them must not change the other."""
    found = placed(source("a", links=2, group=0), source("b", links=2, group=1))
    assert [found["x/a"].kind, found["x/b"].kind] == [Kind.FILE, Kind.FILE]


def test_what_replaces_a_link_is_none() -> None:
    found = placed(source("a", links=2), source("b", links=2), source("b", inode=9, group=1))
    assert [found["x/a"].kind, found["x/b"].kind] == [Kind.FILE, Kind.FILE]


def test_the_destination_is_made_whatever_mode_was_asked_for() -> None:
    found = placed(
        source("", kind=Kind.DIRECTORY, mode=0o755), source("d", kind=Kind.DIRECTORY, mode=0o750), source("d/f"),
        writing=Writing(mode=parse_mode("600"), owner=(7, 8)),
    )
    assert [found[path].mode for path in ("x", "x/d", "x/d/f")] == [0o755, 0o600, 0o600]
    assert {(found[path].uid, found[path].gid) for path in ("x", "x/d", "x/d/f")} == {(7, 8)}


def test_directories_below_the_destination_take_what_their_source_says() -> None:
    below = Tree({path: Entry(path, Kind.DIRECTORY, 0o711, 9, 9) for path in ("x", "x/d")})
    sources = [source("", kind=Kind.DIRECTORY, mode=0o755), source("d", kind=Kind.DIRECTORY, mode=0o750)]
    for writing, expected in ((Writing(), (0o750, 3)), (Writing(keeps_directories=True), (0o711, 9))):
        placing = Placing(below, "/x/", writing)
        placing.add([*sources, source("d/f")], is_single=False)
        found = {entry.path: (entry.mode, entry.uid) for entry in placing.entries()}
        assert found["x"] == (0o711, 9)
        assert found["x/d"] == expected


def test_what_was_packed_keeps_owners_and_modes() -> None:
    found = placed(source("f"), writing=Writing(mode=parse_mode("600"), owner=(7, 8)), is_kept=True)
    assert (found["x/f"].mode, found["x/f"].uid, found["x/f"].gid) == (0o640, 3, 4)
    assert (found["x"].mode, found["x"].uid, found["x"].gid) == (0o755, 7, 8)


def test_what_is_packed_replaces_anything_and_what_is_copied_only_its_like() -> None:
    below = Tree({
        "x": Entry("x", Kind.DIRECTORY, 0o711), "x/d": Entry("x/d", Kind.DIRECTORY, 0o711),
        "x/f": Entry("x/f", Kind.FILE, 0o600),
    })
    sources = [source("d"), source("f", kind=Kind.DIRECTORY), source("f/in")]
    placing = Placing(below, "/x/", Writing())
    placing.add(sources, is_single=False, is_kept=True)
    assert [(entry.path, entry.kind) for entry in placing.entries()] == [
        ("x", Kind.DIRECTORY), ("x/d", Kind.FILE), ("x/f", Kind.DIRECTORY), ("x/f/in", Kind.FILE),
    ]
    for one in sources[:2]:
        with pytest.raises(CannotReplace):
            Placing(below, "/x/", Writing()).add([one], is_single=False)


def test_a_file_takes_what_was_packed_below_it_along() -> None:
    placing = Placing(Nothing(), "/x/", Writing())
    placing.add(
        [source("d", kind=Kind.DIRECTORY), source("d/in"), source("d/e/in")], is_single=False, is_kept=True
    )
    placing.add([source("d")], is_single=False, is_kept=True)
    assert [(entry.path, entry.kind) for entry in placing.entries()] == [("x", Kind.DIRECTORY), ("x/d", Kind.FILE)]
    for one in (source("d/in"), source("d/e/in")):
        with pytest.raises(CannotReplace):
            placing.add([one], is_single=False, is_kept=True)


def test_directories_that_an_archive_leaves_out_are_roots() -> None:
    found = placed(source("a/f"), writing=Writing(owner=(7, 8)), is_kept=True)
    assert [(path, entry.uid) for path, entry in found.items()] == [("x", 7), ("x/a", 0), ("x/a/f", 3)]


def test_links_to_what_is_below_the_image_stay_apart() -> None:
    below = Tree({"x": Entry("x", Kind.DIRECTORY, 0o711), "x/a": Entry("x/a", Kind.FILE, 0o600)})
    placing = Placing(below, "/x/", Writing())
    placing.add([source("a", links=2), source("b", links=2)], is_single=False)
    assert [(entry.path, entry.kind, entry.mode) for entry in placing.entries()] == [
        ("x", Kind.DIRECTORY, 0o711), ("x/a", Kind.FILE, 0o640), ("x/b", Kind.HARDLINK, 0o640),
    ]
