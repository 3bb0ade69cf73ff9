"""EROFS images as the kernel mounts them: equal to the extracted tar, and stacked under overlayfs."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.layer.indexed import index_of_tar
from tests.layer.observed import Observed, on_disk
from tests.layer.test_erofs import EVERYTHING

from lamina.layer import erofs
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.tree import Tree
from lamina.testing.bench import Bench
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

pytestmark = pytest.mark.privileged

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY = 1
MNT_DETACH = 2


@contextmanager
def mounted(kind: str, source: Path | str, target: Path, options: str) -> Iterator[Path]:
    target.mkdir()
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), MS_RDONLY, options.encode())
    if LIBC.mount(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)}: mount {kind} at {target}")
    try:
        yield target
    finally:
        assert LIBC.umount2(os.fsencode(target), MNT_DETACH) == 0


class Stack:
    """Layers as tars and EROFS images in a directory, mounted while it is open."""

    def __init__(self, top: Path, layers: Sequence[Sequence[Entry]]) -> None:
        self.top = top
        self.tars = [tar_of(layer) for layer in layers]
        self.tree = Tree()
        self.images: list[erofs.ErofsImage] = []
        for number, tar in enumerate(self.tars):
            index = index_of_tar(tar)
            (top / index.diff_id.encoded).write_bytes(tar)
            self.images.append(erofs.build(index, top / f"image{number}", tree_below=self.tree if number else None))
            self.tree.add(index)

    @contextmanager
    def layers(self) -> Iterator[list[Path]]:
        with ExitStack() as stack:
            yield [
                stack.enter_context(mounted(
                    "erofs", self.top / f"image{number}", self.top / f"m{number}",
                    ",".join(f"device={self.top / digest.encoded}" for digest in image.devices),
                ))
                for number, image in enumerate(self.images)
            ]

    @contextmanager
    def union(self) -> Iterator[Path]:
        with self.layers() as lowers:
            options = "lowerdir=" + ":".join(map(str, reversed(lowers)))
            with mounted("overlay", "overlay", self.top / "union", options) as union:
                yield union


def seen_on_disk(top: Path) -> dict[str, tuple[object, ...]]:
    found = on_disk(top)
    return {path: _values(status) for path, status in found.items()}


def _values(status: dict[str, object]) -> tuple[object, ...]:
    fields = ("type", "mode", "uid", "gid", "nanoseconds", "to", "device", "xattrs", "data")
    return tuple(status.get(name) for name in fields)


def seen_in_tree(tree: Tree, tars: Sequence[bytes]) -> dict[str, tuple[object, ...]]:
    letters = dict(zip(Kind, "fdl?cbp", strict=True))
    found = {}
    for node in tree.walk():
        entry, start = node.entry, node.content.data_offset
        letter = letters[entry.kind]
        found[node.path] = (
            letter, None if letter == "l" else entry.mode, entry.uid, entry.gid, entry.mtime,
            entry.linkname if letter == "l" else None, (entry.major, entry.minor) if letter in "cb" else None,
            dict(entry.xattrs),
            tars[node.content_layer][start : start + entry.size] if letter == "f" else None,
        )
    return found


def links(tree: Observed) -> set[frozenset[str]]:
    names: dict[object, set[str]] = {}
    for path, status in tree.items():
        names.setdefault(status["inode"], set()).add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def extracted(tar: bytes, top: Path) -> Path:
    """By GNU tar: somebody else's reading of the same bytes."""
    target = top / "extracted"
    target.mkdir()
    subprocess.run(
        ["tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions", "--delay-directory-restore", "--xattrs", "--xattrs-include=*",
         "--file=-", f"--directory={target}"],
        input=tar, check=True,
    )
    return target


LISTED_ROOT = [directory("", mode=0o711, uid=1, gid=2, mtime=5 * 10**9 + 7)]


@pytest.mark.parametrize("layer", [
    pytest.param(EVERYTHING, id="everything"),
    *(pytest.param([*LISTED_ROOT, *random_layer(random.Random(seed), (), Chances(
        has_devices=True, entries=60, has_whiteouts=False, depth=2))], id=f"seed {seed}") for seed in range(6)),
])
def test_a_mounted_layer_is_the_extracted_tar(layer: list[Entry], tmp_path: Path) -> None:
    stack = Stack(tmp_path, [layer])
    wanted_path = extracted(stack.tars[0], tmp_path)
    with stack.layers() as (mount,):
        found = on_disk(mount)
        assert seen_on_disk(mount) == seen_in_tree(stack.tree, stack.tars)
    wanted = on_disk(wanted_path)
    implied = {path for path, node in ((node.path, node) for node in stack.tree.walk()) if node.entry.mtime == 0}
    for tree in (wanted, found):
        for path in implied:
            tree[path].pop("nanoseconds")
    assert {path: _values(status) for path, status in found.items()} == {
        path: _values(status) for path, status in wanted.items()
    }
    assert links(found) == links(wanted)


def test_names_are_found_one_by_one(tmp_path: Path) -> None:
    """Lookup is by halving inside blocks of names; listing alone would not prove it."""
    layer = [directory("d"), *(file(f"d/{'n' * (number % 200)}{number}", b"%d" % number) for number in range(1000))]
    with Stack(tmp_path, [layer]).layers() as (mount,):
        for entry in layer[1:]:
            assert (mount / entry.path).read_bytes() == entry.open().read()
        assert not (mount / "d/nowhere").exists()
        assert not (mount / "d/.").is_symlink()


STACKS = {
    "whiteouts": [
        [directory("d"), file("d/a", b"1"), file("d/b", b"2"), directory("e"), file("e/x"), file("f")],
        [directory("d"), whiteout("d/a"), whiteout("e"), whiteout("nothing")],
    ],
    "opaque": [
        [directory("d", mode=0o700), file("d/a", b"1"), directory("d/s"), file("d/s/t")],
        [directory("d"), opaque("d"), file("d/b", b"2"), directory("d/s")],
    ],
    "opaque, not listed": [
        [directory("d", mode=0o700, uid=7), file("d/a", b"1")],
        [opaque("d"), file("d/b", b"2")],
    ],
    "removed and made anew": [
        [directory("d"), file("d/a", b"1")], [whiteout("d"), directory("d", mode=0o700), file("d/b")],
    ],
    "resurrected": [[directory("d"), file("d/a")], [whiteout("d")], [directory("d"), file("d/b")]],
    "file between directories": [[directory("d"), file("d/a")], [file("d")], [directory("d"), file("d/b")]],
    "implied parents": [
        [directory("", mode=0o711), directory("a", mode=0o700, uid=3, mtime=77), directory("a/b", mode=0o1777)],
        [file("a/b/c", b"new")], [file("a/x/y")],
    ],
    "whiteout in a directory that is not listed": [
        [directory("a", mode=0o700), directory("a/b", mode=0o711), file("a/b/c"), file("a/b/d")], [whiteout("a/b/c")],
    ],
    "whiteouts of nothing": [[file("a")], [whiteout("x/y/z"), opaque("q/r")]],
    "attributes": [
        [directory("a", mode=0o755), file("a/x", b"1", mode=0o4755)], [directory("a", mode=0o500, uid=9, xattrs={"user.a": b"b"})],
    ],
    "links into lower layers": [
        [file("a", b"base", uid=4)], [file("b", b"middle")],
        [hardlink("c", "a"), hardlink("d", "b"), file("a", b"replaced")], [whiteout("b")],
    ],
    "below a symlink": [
        [directory("usr"), directory("usr/bin", mode=0o711), symlink("bin", "usr/bin")], [file("bin/sh", b"#!")],
    ],
    "everything is replaced": [
        [directory("a"), file("b"), symlink("c", "a"), fifo("d"), device("e", 1, 3), file("f", b"1")],
        [symlink("a", "b"), directory("b"), file("c", b"2"), file("d"), fifo("e"), device("f", 1, 5)],
    ],
    **{f"seed {seed}": random_stack(random.Random(seed), 2 + seed % 4, Chances(has_devices=True, entries=25))
       for seed in range(20)},
}


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS.keys())
def test_a_stack_under_overlayfs_is_the_union(layers: list[list[Entry]], tmp_path: Path) -> None:
    try:
        stack = Stack(tmp_path, layers)
    except InvalidLayer:
        with pytest.raises(InvalidLayer):
            Tree(index_of_tar(tar_of(layer)) for layer in layers)
        return
    with stack.union() as union:
        assert seen_on_disk(union) == seen_in_tree(stack.tree, stack.tars)


def test_a_self_contained_layer_serves_every_stack(tmp_path: Path) -> None:
    upper = [directory("d", mode=0o750), file("d/new", b"1"), whiteout("d/old"), whiteout("gone")]
    for number, lower in enumerate([
        [directory("d"), file("d/old"), file("d/kept")], [file("gone"), file("d")], [file("other")],
    ]):
        top = tmp_path / str(number)
        top.mkdir()
        stack = Stack(top, [lower, upper])
        alone = erofs.build(index_of_tar(stack.tars[1]), top / "image1")
        assert alone.devices == stack.images[1].devices
        with stack.union() as union:
            assert seen_on_disk(union) == seen_in_tree(stack.tree, stack.tars)


def test_a_missing_device_is_an_error_when_mounting(tmp_path: Path) -> None:
    stack = Stack(tmp_path, [[file("a", b"1")]])
    with pytest.raises(OSError, match="Invalid argument"):
        with mounted("erofs", tmp_path / "image0", tmp_path / "m", "device=/dev/null,device=/dev/null"):
            pass
    with stack.layers() as (mount,):
        assert (mount / "a").read_bytes() == b"1"


@pytest.mark.parametrize("at", [1024 + 4, 1024 + 8, 1024 + 16, 1024 + 36, 1024 + 88, 1024 + 128 + 64, 1024 + 511])
def test_the_kernel_refuses_a_superblock_that_is_not_what_was_written(tmp_path: Path, at: int) -> None:
    stack = Stack(tmp_path, [[file("f", b"x" * 700), directory("d", mode=0o700)]])
    image = tmp_path / "image0"
    data = bytearray(image.read_bytes())
    data[at] ^= 0x10
    image.write_bytes(data)
    with pytest.raises(OSError) as refused, stack.layers():
        pass
    assert refused.value.errno in (errno.EBADMSG, errno.EINVAL)


def test_check_finds_a_damaged_image_and_the_next_use_makes_it_again(tmp_path: Path) -> None:
    bench = Bench("erofs", tmp_path / "state")
    try:
        name = bench.stack([file("a", b"one")], [file("b", b"two")])
        assert list(bench.layers.check()) == []
        image = next((tmp_path / "state/layers").glob("*/*/erofs/alone"))
        whole = image.read_bytes()
        image.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        (found,) = bench.layers.check()
        assert (str(found.subject), found.problem) == (f"sha256:{image.parents[1].name}", "its EROFS image alone is damaged")
        (found,) = bench.layers.check(repair=True)
        assert found.repaired
        assert list(bench.layers.check()) == []
        bench.driver.commit_layers([row.diff_id for row in bench.driver.walk() if row.diff_id is not None])
        assert image.read_bytes() == whole
        assert sorted(bench.read(name)) == ["", "a", "b"]
    finally:
        bench.close()
