"""What squashing must get right, one by one: the failures of other squashers, and what their users asked for."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

import pytest
from tests import oracle
from tests.layer import tarbytes
from tests.layer.indexed import index_of_tar
from tests.layer.squashing import squash, squashed_stack

from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.squash import merge
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

SECOND = 10**9


def stack(*layers: Iterable[Entry]) -> list[bytes]:
    return [tar_of(layer) for layer in layers]


def members(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        found = opened.getmembers()
    assert len({member.name for member in found}) == len(found), "a name twice"
    return {member.name: member for member in found}


def content(tar: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        stream = opened.extractfile(name)
        assert stream is not None
        return stream.read()


def same_union(tars: list[bytes], made: list[bytes]) -> bool:
    before, after = oracle.union(tars), oracle.union(made)
    return (
        {path: node.values() for path, node in before.items()} == {path: node.values() for path, node in after.items()}
        and oracle.linked(before) == oracle.linked(after)
    )


# -- named for what the squasher on PyPI gets wrong


def test_a_file_deleted_and_created_again_is_the_new_one() -> None:
    tars = stack([file("base")], [directory("d"), file("d/x", b"old"), file("d/gone", b"secret")], [whiteout("d")],
                 [directory("d"), file("d/x", b"new")])
    made = squash(tars, 1, 3)
    assert list(members(made)) == ["d", "d/x"]
    assert content(made, "d/x") == b"new"
    assert b"secret" not in made


def test_a_hard_link_keeps_its_content_when_its_other_name_is_rewritten() -> None:
    tars = stack([directory("d"), file("d/a", b"first"), hardlink("d/b", "d/a")], [directory("d"), file("d/a", b"second")])
    made = squash(tars, 0, 1)
    assert (content(made, "d/a"), content(made, "d/b")) == (b"second", b"first")
    assert members(made)["d/b"].isfile()


def test_a_hard_link_survives_the_deletion_of_its_target() -> None:
    tars = stack([file("a", b"data"), hardlink("b", "a"), hardlink("c", "a")], [whiteout("a")])
    made = squash(tars, 0, 1)
    assert list(members(made)) == ["b", "c"]
    assert content(made, "c") == b"data"
    assert members(made)["c"].islnk(), "the two names that are left are still one file"
    assert same_union(tars, [made])


def test_a_hard_link_into_the_kept_base_brings_its_file_along() -> None:
    tars = stack([file("a", b"data"), file("other")], [hardlink("b", "a")], [file("c", b"more")])
    made = squashed_stack(tars, 1, 2)
    assert list(members(made[1])) == ["a", "b", "c"]
    assert members(made[1])["b"].linkname == "a"
    assert same_union(tars, made)


def test_a_hard_link_in_the_base_whose_other_name_is_rewritten_stays_in_the_base() -> None:
    tars = stack([file("a", b"data"), hardlink("b", "a")], [file("a", b"new")], [file("c")])
    made = squashed_stack(tars, 1, 2)
    assert list(members(made[1])) == ["a", "c"]
    assert same_union(tars, made)


def test_dot_wh_in_the_middle_of_a_name_is_a_name() -> None:
    tars = stack([file("base")], [directory("notes"), file("notes/doc.wh.txt", b"read me"), file("notes/txt", b"1")],
                 [file("x.wh.", b"2")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == ["notes", "notes/doc.wh.txt", "notes/txt", "x.wh."]
    assert content(made, "notes/doc.wh.txt") == b"read me"


# -- against a kept base


def test_whiteouts_are_kept_only_for_what_the_base_has() -> None:
    tars = stack([file("theirs"), file("stays")], [file("mine", b"secret")], [whiteout("mine"), whiteout("theirs")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == [".wh.theirs"], "not even the name of what never left the range"
    assert same_union(tars, [tars[0], made])


def test_a_directory_deleted_and_created_again_hides_the_base() -> None:
    tars = stack([directory("a"), file("a/x"), directory("a/s"), file("a/s/z")], [whiteout("a")],
                 [directory("a", mode=0o700), directory("a/s"), file("a/y", b"2")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == ["a", "a/.wh..wh..opq", "a/s", "a/y"]
    assert members(made)["a"].mode == 0o700
    assert same_union(tars, [tars[0], made])


def test_the_same_flattened_has_no_marks() -> None:
    tars = stack([directory("a"), file("a/x")], [whiteout("a")], [directory("a"), opaque("a"), file("a/y")])
    assert list(members(squash(tars, 0, 2))) == ["a", "a/y"]


def test_an_opaque_marker_is_kept_where_it_hides_something() -> None:
    tars = stack([directory("a"), file("a/x"), directory("b")], [directory("a"), opaque("a"), directory("b"), opaque("b")],
                 [file("c")])
    assert list(members(squash(tars, 1, 2))) == ["a", "a/.wh..wh..opq", "b", "c"]


def test_an_opaque_root_becomes_whiteouts() -> None:
    tars = stack([file("a"), directory("b"), file("b/x"), directory("c"), file("c/z")], [opaque(""), directory("b"), file("new")],
                 [file("more")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == [".wh.a", ".wh.c", "b", "b/.wh..wh..opq", "new", "more"]
    assert same_union(tars, [tars[0], made])


@pytest.mark.parametrize("name", [".wh.e/f", "n" * 252, "\u00e9" * 126])
def test_an_opaque_root_stays_where_a_name_has_no_whiteout(name: str) -> None:
    """`.wh..wh.e` would be AUFS's own, and no filesystem has names of 256 bytes."""
    tars = stack([file(name), file("a")], [opaque(""), file("new")], [file("more")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == [".wh..wh..opq", ".wh.a", "new", "more"]
    assert same_union(tars, [tars[0], made])


def test_layers_above_the_range_still_mean_the_same() -> None:
    tars = stack([directory("a"), file("a/x")], [directory("l"), file("l/f", b"1")], [symlink("ln", "l")],
                 [file("ln/g", b"2"), hardlink("h", "l/f"), whiteout("a")])
    made = squashed_stack(tars, 1, 2)
    assert same_union(tars, made)


@pytest.mark.parametrize(("before", "after"), [
    ([file("a", b"1")], [directory("a"), file("a/b")]),
    ([directory("a"), file("a/b")], [file("a", b"1")]),
    ([directory("a"), file("a/b"), directory("z")], [symlink("a", "z")]),
    ([symlink("a", "z"), directory("z"), file("z/b")], [directory("a"), file("a/c")]),
    ([symlink("a", "x")], [file("a", b"1")]),
    ([file("a", b"1")], [symlink("a", "b")]),
    ([file("a", b"1")], [fifo("a")]),
    ([fifo("a")], [device("a", 1, 3)]),
])
@pytest.mark.parametrize("first", [0, 1])
def test_one_kind_takes_the_place_of_another(before: list[Entry], after: list[Entry], first: int) -> None:
    tars = stack([file("base")], before, after, [file("end")])
    for low, high in ((first, 3), (first, 2), (2, 3)):
        assert same_union(tars, squashed_stack(tars, low, high))


def test_parents_that_no_layer_lists_are_listed_with_what_the_union_says() -> None:
    """docker and podman unpack an unlisted parent as 0755 of root, whatever a layer below says of it."""
    tars = stack([directory("x", mode=0o711, uid=5, gid=6)], [file("x/y/f", b"1")], [file("x/g")])
    made = members(squash(tars, 1, 2))
    assert list(made) == ["x", "x/y", "x/y/f", "x/g"]
    assert (made["x"].mode, made["x"].uid, made["x"].gid) == (0o711, 5, 6)
    assert (made["x/y"].mode, made["x/y"].uid) == (0o755, 0)


def test_parents_of_a_listed_directory_are_listed_too() -> None:
    tars = stack([directory("x", mode=0o711), directory("x/y", mode=0o700)], [directory("x/y/z")], [file("x/y/z/f", b"1")])
    made = members(squash(tars, 1, 2))
    assert list(made) == ["x", "x/y", "x/y/z", "x/y/z/f"]
    assert (made["x"].mode, made["x/y"].mode) == (0o711, 0o700)


def test_a_directory_that_looks_like_a_whiteout_does_not_become_one() -> None:
    tars = stack([directory("e"), file("e/passwd")], [file(".wh.e/somefile", b"1")], [file("more")])
    made = squash(tars, 1, 2)
    assert list(members(made)) == [".wh.e/somefile", "more"]
    assert same_union(tars, [tars[0], made])


# -- what an entry says


def test_everything_that_an_entry_says_is_kept() -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    old = 1_700_000_000 * SECOND + 123_456_789
    tars = stack([file("base")], [
        directory("d", mode=0o1777, uid=3_000_000_000, gid=7, mtime=old),
        file("d/su", b"x", mode=0o4755, uid=1000, gid=1000, mtime=old, xattrs={"security.capability": capability}),
        file("d/" + "n" * 200, b"long", mtime=-1),
        symlink("d/far", "t" * 300), device("d/null", 1, 3, mode=0o666), device("d/disk", 7, 0, kind=Kind.BLOCK),
        fifo("d/pipe"), file("d/\udcff\udcfe", b"bytes"), file("é中文😀", b"1"), file('a\n"b', b"2"),
    ], [file("end")])
    made = squashed_stack(tars, 1, 2)
    assert same_union(tars, made)


def test_duplicate_entries_the_last_wins_and_the_first_is_gone() -> None:
    twice = tarbytes.tar(tarbytes.member("a", b"one"), tarbytes.member("a", b"two"))
    made = squash([twice, tar_of([file("b")])], 0, 1)
    assert content(made, "a") == b"two"
    assert b"one" not in made


def test_nothing_that_is_no_entry_is_copied() -> None:
    """Padding, comments of PAX headers and what follows the end may hold anything; none of it survives."""
    padding = bytearray(tarbytes.tar(tarbytes.pax({"comment": b"secret-1"}) + tarbytes.member("a", b"data"))
                        + b"secret-3".ljust(512, b"\0"))
    at = padding.index(b"data") + 4
    padding[at : at + 8] = b"secret-2"
    tars = [bytes(padding), tar_of([file("b")])]
    assert all(b"secret-%d" % number in tars[0] for number in (1, 2, 3))
    made = squash(tars, 0, 1)
    assert b"secret" not in made
    assert content(made, "a") == b"data"


def test_a_range_that_changes_nothing_is_an_empty_layer() -> None:
    tars = stack([file("a")], [file("b")], [whiteout("b")])
    assert squash(tars, 1, 2) == bytes(1024)


def test_the_root_is_listed_where_a_layer_lists_it() -> None:
    made = squash(stack([directory("", mode=0o711), file("a")], [file("b")]), 0, 1)
    assert members(made)["."].mode == 0o711
    assert "." not in members(squash(stack([directory("", mode=0o711)], [file("a")], [file("b")]), 1, 2))


def test_each_layer_is_read_front_to_back() -> None:
    tars = stack([file("z", b"1" * 600), file("a", b"2" * 600)], [file("m", b"3" * 600), file("b", b"4" * 600)])
    assert list(members(squash(tars, 0, 1))) == ["z", "a", "m", "b"]


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (1, 0), (0, 2)])
def test_no_such_range(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="layers"):
        merge([index_of_tar(tar) for tar in stack([file("a")], [file("b")])], first, last)


def test_layers_that_cannot_be_stacked_are_refused() -> None:
    with pytest.raises(InvalidLayer, match="does not exist"):
        squash(stack([file("a")], [hardlink("b", "nowhere")]), 0, 1)
