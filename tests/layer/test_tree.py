"""The union of a stack: what a container sees, and what lies below it."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator

import pytest
from tests.layer.indexed import index_of, index_of_tar, tree_of

from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.index import LayerIndex
from lamina.layer.tree import Hider, LayerCounts, Reason, Tree
from lamina.testing.images import (
    device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    tar_of,
    whiteout,
)


def seen(tree: Tree) -> dict[str, str]:
    """Path to one word: a directory's mode, a link's text, a file's layer and number, or its kind."""
    words = {}
    for node in tree.walk():
        entry = node.entry
        assert entry.path == node.path
        if entry.kind is Kind.DIRECTORY:
            words[node.path] = f"{entry.mode:o}/"
        elif entry.kind is Kind.SYMLINK:
            words[node.path] = f"->{entry.linkname}"
        elif entry.kind is Kind.FILE:
            words[node.path] = f"{node.content_layer}:{node.content.path}:{entry.size}"
        else:
            words[node.path] = entry.kind.name.lower()
    return words


def union(*layers: Iterable[Entry]) -> dict[str, str]:
    found = seen(tree_of(*layers))
    assert found.pop("") == "755/"
    return found


def obscured(*layers: Iterable[Entry]) -> list[tuple[str, int, int, int, str]]:
    return [
        (hidden.entry.path, hidden.layer, hidden.size, hidden.hidden_by.layer, str(hidden.hidden_by.reason))
        for hidden in tree_of(*layers).obscured()
    ]


e_passwd = [directory("e"), file("e/passwd", b"in")]


# Numbers are rows of the layer edge cases; words are what `seen` says.
@pytest.mark.parametrize(("layers", "expected"), [
    pytest.param([[directory("e"), symlink("le", "/e"), file("le/unbroken")]],
                 {"e": "755/", "le": "->/e", "e/unbroken": "0:le/unbroken:0"}, id="1"),
    pytest.param([[directory("e"), directory("dummy"), symlink("le", "/dummy/../e"), file("le/unbroken")]],
                 {"e": "755/", "dummy": "755/", "le": "->/dummy/../e", "e/unbroken": "0:le/unbroken:0"}, id="2"),
    pytest.param([[directory("e"), directory("dummy"), symlink("dummy/e", "/e"), symlink("le", "/dummy/e"),
                   file("dummy/e/unbroken")]],
                 {"e": "755/", "dummy": "755/", "dummy/e": "->/e", "le": "->/dummy/e",
                  "e/unbroken": "0:dummy/e/unbroken:0"}, id="3"),
    pytest.param([[directory("e"), directory("dummy"), symlink("dummy/e", "/e"), symlink("le", "./dummy/e"),
                   file("le/unbroken")]],
                 {"e": "755/", "dummy": "755/", "dummy/e": "->/e", "le": "->./dummy/e",
                  "e/unbroken": "0:le/unbroken:0"}, id="4"),
    pytest.param([[directory("e"), file("e/emptied", b"full"), symlink("le", "/e"), file("le/emptied")]],
                 {"e": "755/", "le": "->/e", "e/emptied": "0:le/emptied:0"}, id="5"),
    pytest.param([[*e_passwd, directory("b"), symlink("b/d1", "../../e"), hardlink("b/mine", "b/d1/passwd")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "b": "755/", "b/d1": "->../../e",
                  "b/mine": "0:e/passwd:2"}, id="6"),
    pytest.param([[*e_passwd, symlink("le", "../../../../../../../e"), hardlink("lp", "le/passwd")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "le": "->../../../../../../../e",
                  "lp": "0:e/passwd:2"}, id="9"),
    pytest.param([[*e_passwd, directory("le")], [symlink("le", "/e"), hardlink("le/lp", "e/passwd")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "le": "->/e", "e/lp": "0:e/passwd:2"}, id="17"),
    pytest.param([[*e_passwd, symlink("le", "/e")], [directory("le"), file("le/lp", b"x")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "le": "755/", "le/lp": "1:le/lp:1"}, id="19"),
    pytest.param([[*e_passwd, symlink("le", "/e")], [whiteout("le")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2"}, id="25"),
    pytest.param([[*e_passwd, file("e/gone"), symlink("le", "/e")], [whiteout("le/gone")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "le": "->/e"}, id="26"),
    pytest.param([e_passwd, [file(".wh.e/somefile")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", ".wh.e": "755/", ".wh.e/somefile": "1:.wh.e/somefile:0"},
                 id="27"),
    pytest.param([[*e_passwd, symlink("le", "/dne")], [whiteout("le/e")]],
                 {"e": "755/", "e/passwd": "0:e/passwd:2", "le": "->/dne"}, id="28"),
    pytest.param([[directory("foo"), directory("foo/t"), file("foo/t/b"), symlink("foo", "/"), file("foo/t/b", b"2"),
                   directory("foo"), directory("foo/t"), file("foo/t/b", b"678")]],
                 {"foo": "755/", "foo/t": "755/", "foo/t/b": "0:foo/t/b:3", "t": "755/", "t/b": "0:foo/t/b:1"},
                 id="30"),
    pytest.param([[directory("e", mode=0o770), symlink("lp", "/e/passwd"), hardlink("lpd", "lp"),
                   file("e/passwd", b"after")]],
                 {"e": "770/", "lp": "->/e/passwd", "lpd": "->/e/passwd", "e/passwd": "0:e/passwd:5"}, id="31"),
    pytest.param([[directory("a"), file("a/x")], [symlink("a", "/HOST"), opaque("a")]], {"a": "->/HOST"}, id="47"),
    pytest.param([[directory("a"), file("a/x"), file("a/y")], [directory("a"), whiteout("a/x")]],
                 {"a": "755/", "a/y": "0:a/y:0"}, id="48"),
    pytest.param([[directory("a"), directory("a/s"), file("a/s/x"), file("k")], [whiteout("a")]],
                 {"k": "0:k:0"}, id="49"),
    pytest.param([[file("k")], [whiteout("nope")]], {"k": "0:k:0"}, id="50"),
    pytest.param([[file(".baz"), file("baz")], [whiteout(".baz")]], {"baz": "0:baz:0"}, id="52"),
    pytest.param([[file("a")], [whiteout("a"), file("a", b"new")]], {"a": "1:a:3"}, id="53"),
    pytest.param([[file("a")], [file("a", b"new"), whiteout("a")]], {"a": "1:a:3"}, id="54"),
    pytest.param([[directory("a"), file("a/x"), directory("a/s"), file("a/s/z")],
                  [directory("a"), opaque("a"), file("a/y")]], {"a": "755/", "a/y": "1:a/y:0"}, id="55"),
    pytest.param([[directory("a"), file("a/x")], [directory("a"), file("a/y"), opaque("a")]],
                 {"a": "755/", "a/y": "1:a/y:0"}, id="56"),
    pytest.param([[directory("f"), file("f/.abc"), directory("f/c"), file("f/c/def"), file("f/c/efg")],
                  [file("f/.bce"), opaque("f"), directory("f/c"), file("f/c/efg", b"new")]],
                 {"f": "755/", "f/.bce": "1:f/.bce:0", "f/c": "755/", "f/c/efg": "1:f/c/efg:3"}, id="57"),
    pytest.param([[file("a"), directory("b"), file("b/c")], [file(".abc"), opaque(""), file("foobar")]],
                 {".abc": "1:.abc:0", "foobar": "1:foobar:0"}, id="58"),
    pytest.param([[file("k")], [opaque("n"), file("n/y")]], {"k": "0:k:0", "n": "755/", "n/y": "1:n/y:0"}, id="59"),
    pytest.param([[directory("a", mode=0o700), file("a/x")], [opaque("a"), file("a/y")]],
                 {"a": "700/", "a/y": "1:a/y:0"}, id="60"),
    pytest.param([[directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs"), file("a")]],
                 {"a": "0:a:0"}, id="61"),
    pytest.param([[directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"data"), hardlink("a", ".wh..wh.plnk/1.2")]],
                 {"a": "0:.wh..wh.plnk/1.2:4"}, id="62"),
    pytest.param([[file("a")], [directory("a"), file("a/b")]], {"a": "755/", "a/b": "1:a/b:0"}, id="63"),
    pytest.param([[directory("a"), file("a/b")], [file("a")]], {"a": "1:a:0"}, id="64"),
    pytest.param([[directory("a"), file("a/b"), directory("z")], [symlink("a", "z")]],
                 {"a": "->z", "z": "755/"}, id="65"),
    pytest.param([[file("t", b"target"), symlink("a", "t")], [file("a", b"new")]],
                 {"t": "0:t:6", "a": "1:a:3"}, id="66"),
    pytest.param([[file("a"), file("b")], [file("a", b"1"), hardlink("b", "a")]],
                 {"a": "1:a:1", "b": "1:a:1"}, id="68"),
    pytest.param([[file("a")], [fifo("a"), device("c", 1, 3)]], {"a": "fifo", "c": "char"}, id="69"),
    pytest.param([[directory("a"), file("a/x")], [directory("a", mode=0o700)]], {"a": "700/", "a/x": "0:a/x:0"}, id="70"),
    pytest.param([[file("x/y/z")]], {"x": "755/", "x/y": "755/", "x/y/z": "0:x/y/z:0"}, id="72"),
    pytest.param([[directory("x", mode=0o711)], [file("x/y/f")]],
                 {"x": "711/", "x/y": "755/", "x/y/f": "1:x/y/f:0"}, id="73"),
    pytest.param([[file("a/b"), directory("a", mode=0o750)]], {"a": "750/", "a/b": "0:a/b:0"}, id="74"),
    pytest.param([[file("a", b"1"), file("a", b"22")]], {"a": "0:a:2"}, id="75"),
    pytest.param([[directory("a", mode=0o700), file("a/x"), directory("a")]], {"a": "755/", "a/x": "0:a/x:0"}, id="76"),
    pytest.param([[file("a")], [file("a/b")]], {"a": "755/", "a/b": "1:a/b:0"}, id="78"),
    pytest.param([[directory("d"), file("d/a", b"1")], [hardlink("b", "d/a")]],
                 {"d": "755/", "d/a": "0:d/a:1", "b": "0:d/a:1"}, id="81"),
    pytest.param([[file("a"), hardlink("b", "a"), hardlink("c", "b")]],
                 {"a": "0:a:0", "b": "0:a:0", "c": "0:a:0"}, id="82"),
    pytest.param([[file("a", b"1"), hardlink("b", "a")], [file("a", b"22")]], {"a": "1:a:2", "b": "0:a:1"}, id="84"),
    pytest.param([[file("a", b"1"), hardlink("b", "a")], [whiteout("a")]], {"b": "0:a:1"}, id="85"),
    pytest.param([[directory("a"), file("a/x")], [whiteout("a")], [directory("a"), file("a/y")]],
                 {"a": "755/", "a/y": "2:a/y:0"}, id="110"),
    pytest.param([[directory("a"), file("a/x")], [file("a")], [directory("a"), file("a/y")]],
                 {"a": "755/", "a/y": "2:a/y:0"}, id="111"),
    pytest.param([[directory("real"), symlink("ln", "real")], [file("ln/x")]],
                 {"real": "755/", "ln": "->real", "real/x": "1:ln/x:0"}, id="112"),
    # What the table does not have.
    pytest.param([[directory("a", mode=0o700), file("a/x")], [whiteout("a"), file("a/y")]],
                 {"a": "755/", "a/y": "1:a/y:0"}, id="removed, then implied anew"),
    pytest.param([[directory("a"), file("a/x")], [file("a"), directory("a")]],
                 {"a": "755/"}, id="replaced and back within a layer hides what was below"),
    pytest.param([[directory("a"), file("a/x"), file("a")]], {"a": "0:a:0"}, id="file over a directory of its own layer"),
    pytest.param([[directory("r"), symlink("ln", "r")], [symlink("ln", "s"), file("ln/x")]],
                 {"r": "755/", "ln": "->s", "s": "755/", "s/x": "1:ln/x:0"}, id="the layer's own symlink counts"),
    pytest.param([[file("a", b"1")], [hardlink("b", "a"), file("a", b"22")]],
                 {"a": "1:a:2", "b": "0:a:1"}, id="linked below before it is replaced"),
    pytest.param([[file("a", b"1")], [hardlink("b", "a")], [hardlink("c", "b")], [whiteout("a"), whiteout("b")]],
                 {"c": "0:a:1"}, id="links through layers"),
    pytest.param([[directory("a"), file("a/x")], [opaque("")], [file("b")]], {"b": "2:b:0"}, id="an opaque root"),
    pytest.param([[file("a", b"1"), hardlink("b", "a")], [hardlink("a", "a")]],
                 {"a": "0:a:1", "b": "0:a:1"}, id="a link to itself"),
])
def test_what_is_seen(layers: list[list[Entry]], expected: dict[str, str]) -> None:
    assert union(*layers) == expected


@pytest.mark.parametrize("layers", [
    pytest.param([[file("a"), file("a/b")]], id="77: a file of the same layer is no parent"),
    pytest.param([[hardlink("b", "a"), file("a")]], id="79: a link before its target"),
    pytest.param([[file("a"), hardlink("b", "nope")]], id="80: a link to nothing"),
    pytest.param([[directory("a"), hardlink("b", "a")]], id="a link to a directory"),
    pytest.param([[directory("a")], [hardlink("b", "a")]], id="a link to a directory below"),
    pytest.param([[directory("a")], [file("a/x"), hardlink("b", "a")]], id="a link to an implied directory"),
    pytest.param([[file("a")], [whiteout("a"), hardlink("b", "a")]], id="a link to what the layer removes"),
    pytest.param([[directory("a"), file("a/x")], [opaque("a"), hardlink("b", "a/x")]], id="a link below an opaque mark"),
    pytest.param([[directory("a"), file("a/x"), hardlink("a", "a/x")]], id="a link to what it replaces"),
    pytest.param([[symlink("a", "b"), symlink("b", "a"), file("a/x")]], id="symlinks in a circle"),
    pytest.param([[file("a")], [file(".wh..")]], id="21-24: a whiteout of the directory itself"),
])
def test_what_is_refused(layers: list[list[Entry]]) -> None:
    with pytest.raises(InvalidLayer):
        tree_of(*layers)


def test_a_refused_layer_leaves_the_tree_as_it_was() -> None:
    tree = tree_of([file("a")])
    with pytest.raises(InvalidLayer):
        tree.add(index_of([file("b"), hardlink("c", "nope")]))
    assert len(tree) == 1
    assert list(seen(tree)) == ["", "a"]


def test_an_empty_stack_has_a_root() -> None:
    assert seen(Tree()) == {"": "755/"}
    assert seen(tree_of([])) == {"": "755/"}
    assert list(Tree().live_entries()) == []


def test_the_root_is_what_the_highest_layer_that_lists_it_says() -> None:
    tree = tree_of([directory("", mode=0o711)], [directory("", mode=0o700)], [file("a")])
    node = tree.lookup("", follow=False)
    assert node is not None
    assert (node.entry.mode, node.layer) == (0o700, 1)
    assert [entry.path for entry, _layer, _content in tree.live_entries()] == ["", "a"]


def test_xattrs_that_steer_overlayfs_are_not_shown() -> None:
    """LAYER-CASES 91."""
    hostile = {"trusted.overlay.opaque": b"y", "user.overlay.redirect": b"/x", "user.fine": b"1"}
    node = tree_of([directory("a", xattrs=hostile)]).lookup("a", follow=False)
    assert node is not None
    assert node.entry.xattrs == {"user.fine": b"1"}


def test_names_of_one_file_have_one_inode() -> None:
    tree = tree_of([file("a", b"1"), hardlink("b", "a")], [hardlink("c", "a"), file("d", b"1")])
    inodes = {node.path: node.inode for node in tree.walk()}
    assert inodes["a"] == inodes["b"] == inodes["c"] == (0, 0)
    assert inodes["d"] == (1, 1)


def test_duplicates_are_two_files() -> None:
    tree = tree_of([file("a", b"1"), hardlink("b", "a"), file("a", b"22")])
    inodes = {node.path: node.inode for node in tree.walk()}
    assert inodes["a"] != inodes["b"]


def test_walking_goes_parents_first() -> None:
    tree = tree_of([file("b/c/d"), file("b.x"), file("a")], [file("b/a"), directory("b", mode=0o700)])
    assert [node.path for node in tree.walk()] == ["", "a", "b", "b.x", "b/a", "b/c", "b/c/d"]
    assert [node.path for node in tree.walk("b")] == ["b", "b/a", "b/c", "b/c/d"]
    assert [node.path for node in tree.walk("b/c/d")] == ["b/c/d"]
    assert list(tree.walk("nowhere")) == []


def test_a_directory_lists_what_is_seen_in_it() -> None:
    tree = tree_of([file("b/c/d"), file("b/x"), file("a")], [whiteout("b/x"), file("b/y")])
    assert [node.path for node in tree.listdir("b")] == ["b/c", "b/y"]
    assert [node.path for node in tree.listdir("")] == ["a", "b"]
    assert list(tree.listdir("a")) == []
    tree.add(index_of([file("b/z")]))
    assert [node.path for node in tree.listdir("b")] == ["b/c", "b/y", "b/z"]


@pytest.mark.parametrize(("path", "follow", "found"), [
    ("", True, ""), ("usr/bin/sh", True, "usr/bin/busybox"), ("usr/bin/sh", False, "usr/bin/sh"),
    ("bin/sh", False, "usr/bin/sh"), ("bin/sh", True, "usr/bin/busybox"), ("bin", True, "usr/bin"),
    ("bin", False, "bin"), ("/bin/../bin/./sh", True, "usr/bin/busybox"), ("loop", True, None),
    ("loop", False, "loop"), ("loop/x", False, None), ("dangling", True, None), ("dangling", False, "dangling"),
    ("out", True, "usr"), ("usr/bin/busybox/x", True, None), ("nowhere", True, None), ("gone", True, None),
])
def test_looking_up_follows_links_inside_the_root(path: str, follow: bool, found: str | None) -> None:
    tree = tree_of(
        [directory("usr"), directory("usr/bin"), file("usr/bin/busybox"), symlink("usr/bin/sh", "busybox"), file("gone")],
        [symlink("bin", "usr/bin"), symlink("loop", "/loop"), symlink("dangling", "nowhere"),
         symlink("out", "../../../usr"), whiteout("gone")],
    )
    node = tree.lookup(path, follow=follow)
    assert (None if node is None else node.path) == found


def test_the_union_as_one_layer() -> None:
    tree = tree_of(
        [file("b", b"1"), hardlink("a", "b"), file("x")], [whiteout("x"), hardlink("c", "a"), symlink("s", "a")],
    )
    found = {entry.path: (entry.kind, entry.linkname, layer, content.path)
             for entry, layer, content in tree.live_entries()}
    assert found == {
        "a": (Kind.FILE, "", 0, "b"), "b": (Kind.HARDLINK, "a", 0, "b"), "c": (Kind.HARDLINK, "a", 0, "b"),
        "s": (Kind.SYMLINK, "a", 1, "s"),
    }


def test_the_union_as_one_layer_is_the_same_union() -> None:
    below = [directory("d", mode=0o700), file("d/f", b"1"), hardlink("d/g", "d/f"), symlink("l", "d")]
    tree = tree_of(below, [file("l/new", b"22"), whiteout("d/f")])
    flat = Tree([index_of_tar(tar_of(_with_content(tree)))])
    assert {path: word.rpartition(":")[2] for path, word in seen(flat).items()} == {
        path: word.rpartition(":")[2] for path, word in seen(tree).items()
    }


def _with_content(tree: Tree) -> Iterable[Entry]:
    for entry, _layer, _content in tree.live_entries():
        entry.open = lambda size=entry.size: io.BytesIO(bytes(size))
        yield entry


def test_what_is_hidden_and_why() -> None:
    assert obscured(
        [directory("d"), file("d/x", b"1"), file("d/y", b"22"), directory("o"), file("o/z", b"333"),
         directory("r"), file("r/w", b"4444"), file("f", b"55555"), symlink("s", "f"), file("kept", b"6")],
        [whiteout("d/x"), opaque("o"), file("r"), file("f")],
        [whiteout("d"), whiteout("f"), whiteout("s")],
    ) == [
        ("d/x", 0, 1, 1, "deleted"),
        ("d/y", 0, 2, 2, "deleted"),
        ("f", 0, 5, 1, "replaced"),
        ("f", 1, 0, 2, "deleted"),
        ("o/z", 0, 3, 1, "opaque"),
        ("r/w", 0, 4, 1, "directory replaced"),
        ("s", 0, 0, 2, "deleted"),
    ]


def test_what_was_hidden_stays_hidden_when_its_directory_comes_back() -> None:
    assert obscured([directory("a"), file("a/x", b"1")], [whiteout("a")], [directory("a"), file("a/x", b"22")]) == [
        ("a/x", 0, 1, 1, "deleted"),
    ]


def test_bytes_that_another_name_shows_are_not_hidden() -> None:
    layers = [[file("a", b"12345"), hardlink("b", "a")], [whiteout("a")]]
    assert obscured(*layers) == [("a", 0, 0, 1, "deleted")]
    assert obscured(*layers, [whiteout("b")]) == [("a", 0, 5, 1, "deleted"), ("b", 0, 0, 2, "deleted")]


def test_a_layer_can_hide_its_own_files() -> None:
    assert obscured([file("a", b"1"), file("a", b"22"), directory("d"), file("d/x", b"333"), file("d")]) == [
        ("a", 0, 1, 0, "replaced"), ("d/x", 0, 3, 0, "replaced"),
    ]


def test_counts() -> None:
    tree = tree_of(
        [directory("d"), file("d/x", b"1"), file("d/y", b"22"), file("f", b"333"), symlink("s", "f")],
        [whiteout("d/x"), file("f", b"4444"), file("new"), file("d/y/z")],
        [file("d/x", b"back"), directory("d", mode=0o700)],
    )
    assert tree.counts() == (
        LayerCounts(files_added=4, content_size=6),
        LayerCounts(files_added=2, files_changed=1, files_hidden=3, bytes_hidden=6, content_size=4),
        LayerCounts(files_added=1, content_size=4),
    )


def test_history_of_a_path() -> None:
    tree = tree_of(
        [directory("etc"), file("etc/conf", b"1")], [file("etc/conf", b"22")], [whiteout("etc")], [file("etc/conf", b"333")],
    )
    traces = tree.history_of("etc/conf")
    assert [(trace.layer, trace.entry.size, trace.hidden_by) for trace in traces] == [
        (0, 1, Hider(layer=1, reason=Reason.REPLACED, path="etc/conf")),
        (1, 2, Hider(layer=2, reason=Reason.DELETED, path="etc")),
        (3, 3, None),
    ]
    assert [(trace.layer, trace.hidden_by) for trace in tree.history_of("etc")] == [
        (0, Hider(layer=2, reason=Reason.DELETED, path="etc")), (3, None),
    ]
    assert tree.history_of("nowhere") == ()
    assert [trace.entry.kind for trace in tree.history_of("")] == [Kind.DIRECTORY]


def test_growing_a_tree_gives_the_same_union() -> None:
    layers = [
        [directory("a"), file("a/x"), symlink("l", "a")], [whiteout("a/x"), file("l/y")], [opaque("a"), file("a/z/q")],
    ]
    tree = Tree()
    for number, layer in enumerate(layers, 1):
        tree.add(index_of(layer))
        assert list(tree.walk())  # questions in between leave no stale answers
        assert seen(tree) == seen(tree_of(*layers[:number]))


def test_a_chain_of_symlinks_is_followed_as_far_as_the_kernel_would() -> None:
    chain = [directory("l0"), *(symlink(f"l{number + 1}", f"l{number}") for number in range(41))]
    assert "l0/x" in union([*chain, file("l40/x")])
    with pytest.raises(InvalidLayer):
        tree_of([*chain, file("l41/x")])


def test_symlinks_cannot_cost_without_end() -> None:
    """Every entry changes a symlink on the way, so that nothing of the way can be remembered."""
    far = "d/" * 1000
    attack = [directory(far + "e"), symlink("far", far + "e/../l")]
    for number in range(300):
        attack += [symlink(far + "l", f"/{number % 2}"), file(f"far/{number}")]
    with pytest.raises(InvalidLayer, match="too many symlinks"):
        tree_of(attack)


def test_a_hidden_file_is_never_what_a_layer_index_says_of_itself() -> None:
    index: LayerIndex = index_of([file("a", b"1"), whiteout("b")])
    tree = Tree([index])
    assert [each.diff_id for each in tree.indexes] == [index.diff_id]
    assert tree.lookup(".wh.b", follow=False) is None


def test_many_threads_list_all_of_it(switching: None) -> None:
    """Stages of a build copy from one tree at once; its children are gathered when first asked for."""
    layer = [directory("d"), *(file(f"d/f{number:04}") for number in range(2000))]
    for _ in range(5):
        tree = tree_of(layer)
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(len(list(tree.listdir("d"))))) for _ in range(4)]  # noqa: B023 - joined below
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [2000] * 4


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
