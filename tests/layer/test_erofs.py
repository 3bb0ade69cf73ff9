"""EROFS images over tars, read back by a reader of our own. The kernel has its say in tests/privileged."""

from __future__ import annotations

import io
import random
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layer.erofs_reader import Inode, Reader
from tests.layer.indexed import index_of, index_of_tar

from lamina.layer import erofs
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest
from lamina.testing.images import (
    Chances,
    device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    random_layer,
    random_stack,
    symlink,
    tar_of,
    whiteout,
)

TYPES = {
    Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK, Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO,
}
WHITEOUT = (stat.S_IFCHR, (0, 0))


class Made:
    """The image of the last layer of a stack."""

    def __init__(self, *layers: Iterable[Entry]) -> None:
        self.tars = {}
        indexes = []
        for layer in layers:
            tar = tar_of(layer)
            self.tars[Digest.of(tar)] = tar
            indexes.append(index_of_tar(tar))
        below = Tree(indexes[:-1]) if len(indexes) > 1 else None
        with tempfile.TemporaryDirectory() as top:
            self.result = erofs.build(indexes[-1], Path(top, "image"), tree_below=below)
            self.image = Path(top, "image").read_bytes()
        assert len(self.image) == self.result.size
        self.reader = Reader(self.image, [self.tars[digest] for digest in self.result.devices])
        assert self.reader.inodes == self.result.inodes
        self.nodes = dict(self.reader.walk())
        assert len({inode.nid for inode in self.nodes.values()}) == self.reader.inodes

    def data(self, path: str) -> bytes:
        return self.reader.data(self.nodes[path])

    def whiteouts(self) -> set[str]:
        return {path for path, inode in self.nodes.items() if (inode.mode, inode.device) == WHITEOUT}

    def opaques(self) -> set[str]:
        return {path for path, inode in self.nodes.items() if inode.xattrs.get("trusted.overlay.opaque") == b"y"}


def described(inode: Inode, data: bytes) -> tuple[object, ...]:
    is_device = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
    return (inode.mode, inode.uid, inode.gid, inode.mtime, inode.xattrs, inode.device if is_device else None,
            data if stat.S_ISREG(inode.mode) or stat.S_ISLNK(inode.mode) else None)


def expected(entry: Entry, data: bytes) -> tuple[object, ...]:
    if entry.kind is Kind.SYMLINK:
        data = entry.linkname.encode("utf-8", "surrogateescape")
    is_device = entry.kind in (Kind.CHAR, Kind.BLOCK)
    return (TYPES[entry.kind] | entry.mode, entry.uid, entry.gid, entry.mtime, dict(entry.xattrs),
            (entry.major, entry.minor) if is_device else None,
            data if entry.kind in (Kind.FILE, Kind.SYMLINK) else None)


def strip_marks(inode: Inode) -> None:
    for name in ("trusted.overlay.opaque", "trusted.overlay.origin"):
        inode.xattrs.pop(name, None)


def assert_shows_the_union(made: Made, layers: Sequence[Iterable[Entry]]) -> None:
    """For a single layer the image is the union, but for what marks it has."""
    tars = [tar_of(layer) for layer in layers]
    groups = defaultdict(set)
    tree = Tree(map(index_of_tar, tars))
    paths = set()
    for node in tree.walk():
        start = node.content.data_offset
        data = tars[node.content_layer][start : start + node.content.size]
        inode = made.nodes[node.path]
        strip_marks(inode)
        assert described(inode, made.data(node.path)) == expected(node.entry, data), node.path
        paths.add(node.path)
        if node.entry.kind is not Kind.DIRECTORY:
            groups[node.inode].add(node.path)
    assert set(made.nodes) - made.whiteouts() == paths
    for names in groups.values():
        assert {made.nodes[name].nid for name in names} == {made.nodes[min(names)].nid}
        assert made.nodes[min(names)].nlink == len(names)


# Agrees with mode 644, as it does in layers: owner rw, uid 1000 r, group r, mask r, others r.
ACL = bytes.fromhex("02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000400ffffffff")


EVERYTHING = [
    directory("", mode=0o711, mtime=5 * 10**9 + 7),
    directory("d", mode=0o1777, uid=3, gid=4, mtime=123_456_789),
    file("d/data", bytes(range(256)) * 6, mode=0o4755, uid=3_000_000_000, gid=7, mtime=1_714_564_800_123_456_789),
    file("d/empty"),
    file("d/block", b"x" * 512, xattrs={
        "user.foo": b"bar", "security.capability": b"\1\0\0\2\0\4" + bytes(14), "system.posix_acl_access": ACL,
        "trusted.any": b"", "user.long": b"v" * 600,
    }),
    directory("acl", xattrs={"system.posix_acl_default": ACL}),
    symlink("d/short", "data", mtime=-5 * 10**9 + 1),
    *(symlink(f"d/l{length}", "x" * length) for length in (1, 447, 448, 449, 512, 1024, 4095)),
    symlink("d/attributed", "y" * 300, xattrs={"trusted.x": b"z" * 100}),
    hardlink("d/hard", "d/data"),
    hardlink("hard2", "d/hard"),
    hardlink("hardsym", "d/short"),
    device("char", 1, 3),
    device("block", 259, 70_000, kind=Kind.BLOCK),
    device("far", 4095, (1 << 20) - 1),
    fifo("fifo", mode=0o640),
    file("é中文😀", b"u"), file("a\udcff\udcfe", b"raw"), file("n\udc80", b"1"), file("nÿ", b"2"), file("n\ue000", b"3"),
    file("n" * 255, b"long"),
    directory("big"),
    *(file(f"big/{'n' * (number % 240)}{number}", b"%d" % number) for number in range(600)),
    directory("many"),
    *(directory(f"many/{number}") for number in range(100)),
]


def test_everything_a_layer_can_hold() -> None:
    made = Made(EVERYTHING)
    assert_shows_the_union(made, [EVERYTHING])
    assert made.nodes["many"].nlink == 102
    assert made.result.devices == (index_of(EVERYTHING).diff_id,)


def test_blocks_are_512_bytes() -> None:
    """Tar data is aligned to that; with larger blocks the mount would succeed and the content be wrong."""
    assert Made([file("a", b"1")]).reader.block == 512


def test_an_empty_layer() -> None:
    made = Made([])
    assert set(made.nodes) == {""}
    assert made.nodes[""].mode == stat.S_IFDIR | 0o755


@given(st.randoms(use_true_random=False))
def test_random_layers(chance: random.Random) -> None:
    layer = random_layer(chance, (), Chances(has_devices=True, entries=40))
    assert_shows_the_union(Made(layer), [layer])


@pytest.mark.parametrize("count", [0, 1, 12, 13, 37, 38, 39, 40, 41, 100])
@pytest.mark.parametrize("length", [1, 20, 255])
def test_directories_of_every_fill(count: int, length: int) -> None:
    """Around the places where a block is full, and where the last one fits behind the inode."""
    layer = [directory("d"), *(file("d/" + f"{number:03}".rjust(length, "n")[-max(length, 3):]) for number in range(count))]
    made = Made(layer)
    assert {path for path in made.nodes if path.startswith("d/")} == {entry.path for entry in layer[1:]}


def test_xattrs_that_steer_overlayfs_stay_out() -> None:
    made = Made([directory("d", xattrs={"trusted.overlay.opaque": b"y", "user.overlay.x": b"1", "user.a": b"b"})])
    assert made.nodes["d"].xattrs == {"user.a": b"b"}


def test_xattrs_that_erofs_has_no_name_for_stay_out() -> None:
    assert Made([file("a", xattrs={"system.nfs4_acl": b"1", "user.": b"2", "odd": b"3"})]).nodes["a"].xattrs == {}


def test_whiteouts_share_one_inode() -> None:
    made = Made([directory("d"), whiteout("d/x"), whiteout("y"), file("z")])
    assert made.whiteouts() == {"d/x", "y"}
    assert made.nodes["y"].nlink == 2
    assert set(made.nodes) == {"", "d", "d/x", "y", "z"}


def test_directories_with_whiteouts_say_so() -> None:
    """Or overlayfs would list the whiteouts where nothing lies below."""
    made = Made([directory("d", xattrs={"user.a": b"b"}), whiteout("d/x"), directory("e"), opaque("e")])
    assert made.nodes["d"].xattrs == {"user.a": b"b", "trusted.overlay.origin": b""}
    assert made.nodes["e"].xattrs == {"trusted.overlay.opaque": b"y"}


def test_opaque_directories() -> None:
    made = Made([directory("d"), opaque("d"), file("d/x"), directory("e")])
    assert made.opaques() == {"d"}
    assert set(made.nodes) == {"", "d", "d/x", "e"}


def test_a_directory_that_is_removed_and_made_anew_is_opaque() -> None:
    for layer in ([whiteout("d"), directory("d")], [directory("d"), whiteout("d")]):
        made = Made(layer)
        assert made.opaques() == {"d"}
        assert made.whiteouts() == set()


def test_a_file_needs_no_whiteout() -> None:
    assert Made([file("a"), whiteout("a")]).whiteouts() == set()


def test_implied_directories_are_what_they_are_below() -> None:
    below = [directory("d", mode=0o700, uid=5, mtime=7, xattrs={"user.a": b"b"}), directory("d/e", mode=0o1777)]
    made = Made(below, [file("d/e/f", b"new")])
    assert described(made.nodes["d"], b"") == expected(below[0], b"")
    assert made.nodes["d/e"].mode == stat.S_IFDIR | 0o1777
    assert made.nodes["d/e/f"].mode == stat.S_IFREG | 0o644
    assert set(made.nodes) == {"", "d", "d/e", "d/e/f"}


def test_implied_directories_with_nothing_below() -> None:
    made = Made([file("x")], [file("d/f")])
    assert (made.nodes["d"].mode, made.nodes["d"].uid, made.nodes["d"].mtime) == (stat.S_IFDIR | 0o755, 0, 0)


def test_the_root_is_what_it_is_below() -> None:
    assert Made([directory("", mode=0o711)], [file("x")]).nodes[""].mode == stat.S_IFDIR | 0o711


def test_a_whiteout_in_a_directory_that_is_not_listed() -> None:
    made = Made([directory("d", mode=0o700), directory("d/e", mode=0o711), file("d/e/f")], [whiteout("d/e/f")])
    assert made.whiteouts() == {"d/e/f"}
    assert made.nodes["d/e"].mode == stat.S_IFDIR | 0o711
    assert made.nodes["d"].mode == stat.S_IFDIR | 0o700


@pytest.mark.parametrize("layer", [
    [whiteout("no/where")], [opaque("no/where")], [whiteout("f/x")],
    [whiteout("d"), whiteout("d/e/f")], [opaque("d"), whiteout("d/e/f")], [file("d"), whiteout("d/e/f")],
])
def test_marks_make_no_directories(layer: list[Entry]) -> None:
    """Where there is nothing to hide, an empty directory for the mark would be seen."""
    made = Made([file("f"), directory("d"), directory("d/e"), file("d/e/f")], layer)
    assert {path for path, inode in made.nodes.items() if stat.S_ISDIR(inode.mode)} - {"d"} == {""}


def test_a_whiteout_as_deep_as_paths_go() -> None:
    deep = "/".join("d" * 2000)
    made = Made([directory(deep, mode=0o700)], [whiteout(f"{deep}/x")])
    assert made.nodes[deep].mode == stat.S_IFDIR | 0o700
    assert made.whiteouts() == {f"{deep}/x"}


def test_an_opaque_mark_in_a_directory_that_is_not_listed() -> None:
    made = Made([directory("d", mode=0o700), file("d/x")], [opaque("d")])
    assert made.opaques() == {"d"}
    assert made.nodes["d"].mode == stat.S_IFDIR | 0o700


def test_names_below_a_symlink_are_where_it_leads() -> None:
    made = Made([directory("real", mode=0o700), symlink("ln", "real")], [file("ln/x", b"1")])
    assert set(made.nodes) == {"", "real", "real/x"}
    assert made.data("real/x") == b"1"


def test_links_into_lower_layers_bring_their_tars() -> None:
    made = Made(
        [file("a", b"from below", uid=5, mtime=9)], [file("b", b"middle")], [file("c", b"own"), hardlink("d", "a"), hardlink("e", "b"),
         hardlink("f", "d")],
    )
    assert len(made.result.devices) == 3
    assert made.result.devices[0] == list(made.tars)[2]
    assert [made.data(path) for path in "cdef"] == [b"own", b"from below", b"middle", b"from below"]
    assert made.nodes["d"].nid == made.nodes["f"].nid
    assert (made.nodes["d"].uid, made.nodes["d"].mtime) == (5, 9)


def test_links_to_what_is_no_file_below_need_no_tar() -> None:
    made = Made([symlink("a", "x"), device("dev", 1, 3)], [hardlink("b", "a"), hardlink("c", "dev")])
    assert made.data("b") == b"x"
    assert made.nodes["c"].device == (1, 3)
    assert made.result.devices == (list(made.tars)[1],)


@given(st.randoms(use_true_random=False), st.integers(2, 4))
def test_random_stacks_place_every_layer_whole(chance: random.Random, count: int) -> None:
    """Each path of the union is in the image of the layer that made it, as the union shows it."""
    stack = random_stack(chance, count)
    tars = [tar_of(layer) for layer in stack]
    try:
        tree = Tree(map(index_of_tar, tars))
    except InvalidLayer:
        return
    images = [Made(*stack[: number + 1]) for number in range(count)]
    for node in tree.walk():
        made = images[node.layer]
        inode = made.nodes[node.path]
        strip_marks(inode)
        start = node.content.data_offset
        data = tars[node.content_layer][start : start + node.content.size]
        assert described(inode, made.data(node.path)) == expected(node.entry, data)


def unread(entries: list[Entry]) -> LayerIndex:
    """What the tar reader would refuse, for the image's own limits."""
    out = io.BytesIO()
    builder = IndexBuilder(out)
    for entry in entries:
        builder.add(entry)
    builder.finish(Digest.of(b"unread"), 0)
    return LayerIndex.from_bytes(out.getvalue())


@pytest.mark.parametrize("entry", [
    symlink("a", ""), symlink("a", "x" * 4096), file("n" * 256), device("a", 4096, 0), device("a", 0, 1 << 20),
    file("a", xattrs={"user." + "n" * 256: b""}), file("a", xattrs={"user.a": bytes(65536)}),
    file("a", xattrs={f"user.{number}": bytes(60000) for number in range(5)}),
], ids=["empty link", "long link", "long name", "major", "minor", "xattr name", "xattr value", "xattrs"])
def test_what_no_filesystem_holds_is_refused(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(InvalidLayer):
        erofs.build(unread([entry]), tmp_path / "image")


def test_tars_beyond_32_bits_of_blocks_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    IndexBuilder(out).finish(Digest.of(b"large"), 1 << 41)
    with pytest.raises(erofs.TarTooLarge, match="2 TiB"):
        erofs.build(LayerIndex.from_bytes(out.getvalue()), tmp_path / "image")


def test_whiteouts_can_be_left_out(tmp_path: Path) -> None:
    index = index_of([directory("d"), whiteout("d/x"), whiteout("y")])
    erofs.build(index, tmp_path / "image", without={"d/x"})
    nodes = dict(Reader((tmp_path / "image").read_bytes(), [tar_of([directory("d"), whiteout("d/x"), whiteout("y")])]).walk())
    assert set(nodes) == {"", "d", "y"}
