"""What the kernel tells of a snapshot's changes is what comparing whole trees finds."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.privileged.btrfsdisk import btrfs

from lamina.layer.index import IndexBuilder
from lamina.snapshot import changes
from lamina.snapshot.btrfs.driver import BtrfsSnapshotter
from lamina.snapshot.changes import list_changes, write_layer
from lamina.snapshot.trees import copy_tree, empty_and_remove
from lamina.testing.bench import Bench

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("btrfs difference")]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with btrfs() as disk:
        made = Bench("btrfs", disk / "state")
        yield made
        made.close()


class Whole:
    """The driver without what the kernel knows."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        if name == "holding_difference":
            raise AttributeError(name)
        return getattr(self._driver, name)


# -- what is done to a tree


def opened(path: Path, flags: int, mode: str) -> BinaryIO:
    """A regular file: who opens a pipe waits, and a device is the machine's."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(path)
    return open(descriptor, mode)


def write(one: Path, _two: Path, number: int) -> None:
    with opened(one, os.O_WRONLY | os.O_CREAT, "wb") as file:
        file.truncate(0)
        file.write(b"%d" % number * (number * 300 + 1))


def change_the_middle(one: Path, _two: Path, number: int) -> None:
    with opened(one, os.O_RDWR, "r+b") as file:
        file.seek(number * 100)
        file.write(b"%d" % number)


def truncate(one: Path, _two: Path, number: int) -> None:
    with opened(one, os.O_WRONLY, "wb") as file:
        file.truncate(number * 50)


def grow_a_hole(one: Path, _two: Path, number: int) -> None:
    with opened(one, os.O_WRONLY | os.O_CREAT, "wb") as file:
        file.truncate(number << 16)
        file.seek(0, os.SEEK_END)
        file.write(b"end")


def rewrite_alike(one: Path, _two: Path, _number: int) -> None:
    """Another file of the same content and attributes in its place."""
    copy = one.with_name("copy")
    if one.is_file() and not one.is_symlink():
        shutil.copy2(one, copy)
        os.rename(copy, one)


def change_and_hide(one: Path, _two: Path, number: int) -> None:
    """Content of the same size, and the time as it was."""
    status = one.lstat()
    if stat.S_ISREG(status.st_mode) and status.st_size:
        with opened(one, os.O_WRONLY, "wb") as file:
            file.write(bytes([number]) * status.st_size)
        os.utime(one, ns=(status.st_mtime_ns, status.st_mtime_ns))


def rename(one: Path, two: Path, _number: int) -> None:
    os.rename(one, two)


def exchange(one: Path, two: Path, _number: int) -> None:
    between = one.with_name("between")
    os.rename(one, between)
    with contextlib.suppress(OSError):
        os.rename(two, one)
    os.rename(between, two)


def replace(one: Path, two: Path, _number: int) -> None:
    """Whatever is there goes away for it."""
    if not two.is_relative_to(one) and not one.is_relative_to(two) and one.exists():
        empty_and_remove(two)
        os.rename(one, two)


def copy(one: Path, two: Path, _number: int) -> None:
    """Not into itself, which has no end."""
    if not two.is_relative_to(one):
        copy_tree(one, two)


def become_a_directory(one: Path, _two: Path, number: int) -> None:
    empty_and_remove(one)
    one.mkdir(mode=0o700 | number)
    (one / "b").write_bytes(b"%d" % number)


def touch(one: Path, _two: Path, number: int) -> None:
    os.utime(one, ns=(number, number), follow_symlinks=False)


def make_a_device(one: Path, _two: Path, number: int) -> None:
    """None that there is."""
    os.mknod(one, stat.S_IFCHR | 0o600, os.makedev(510, number))


def make_a_socket(one: Path, _two: Path, _number: int) -> None:
    with socket.socket(socket.AF_UNIX) as made, in_directory(one.parent):
        made.bind(one.name)


@contextlib.contextmanager
def in_directory(path: Path) -> Iterator[None]:
    """The path of a socket is short."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def make_a_subvolume(one: Path, _two: Path, number: int) -> None:
    from lamina.snapshot.btrfs.subvolumes import create

    create(str(one))
    (one / "inside").write_bytes(b"%d" % number)


Act = Callable[[Path, Path, int], object]
ACTS: list[Act] = [
    write, change_the_middle, truncate, grow_a_hole, rewrite_alike, change_and_hide, rename, rename, exchange, replace,
    become_a_directory, touch, make_a_device, make_a_socket, make_a_subvolume,
    lambda one, _two, _number: empty_and_remove(one),
    lambda one, two, _number: os.link(one, two, follow_symlinks=False),
    lambda one, two, _number: os.link(one, two, follow_symlinks=False),
    copy,
    lambda one, _two, _number: one.mkdir(parents=True, exist_ok=True),
    lambda one, two, _number: one.symlink_to(two),
    lambda one, _two, number: one.is_symlink() or os.chmod(one, 0o600 + number),
    lambda one, _two, number: os.chown(one, number, number, follow_symlinks=False),
    lambda one, _two, number: os.setxattr(one, "user.one", b"%d" % number, follow_symlinks=False),
    lambda one, _two, number: os.setxattr(one, f"trusted.{number % 3}", b"1", follow_symlinks=False),
    lambda one, _two, _number: os.removexattr(one, "user.one", follow_symlinks=False),
    lambda one, _two, _number: os.mkfifo(one),
]
# Names of one letter in at most three levels: most acts find something in their way, or to work on.
PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
STEPS = st.lists(st.tuples(st.integers(0, len(ACTS) - 1), PATHS, PATHS, st.integers(0, 7)), max_size=14)
FULL = ["a", "a/a", "b", "b/a", "b/a/c"]


def act(top: Path, steps: list[tuple[int, str, str, int]], acts: list[Act] = ACTS) -> None:
    """What cannot be done is left out."""
    for number, one, two, value in steps:
        with contextlib.suppress(OSError, shutil.Error):
            acts[number](top / one, top / two, value)


def fill(top: Path) -> None:
    """Something to begin with: directories, files, links between directories."""
    for path in FULL:
        (top / path).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(["a/b", "a/a/a", "b/a/c/a", "b/b", "c"]):
        (top / path).write_bytes(b"%d" % number * 500)
    os.link(top / "a/b", top / "b/c")
    os.link(top / "a/b", top / "b/a/b")
    os.link(top / "b/b", top / "a/c")


def both(bench: Bench, before: Callable[[Path], object], after: Callable[[Path], object]) -> tuple[Any, Any]:
    """Lists and layers: as the kernel helps to find them, and as they are."""
    base, key = os.urandom(8).hex(), os.urandom(8).hex()
    bench.write_snapshot(base, "", before)
    with bench.mounted(bench.driver.prepare(key, base)) as path:
        after(path)
    try:
        return found(bench.driver, key), found(Whole(bench.driver), key)
    finally:
        bench.driver.remove(key)
        bench.driver.remove(base)


def found(driver: Any, key: str) -> tuple[list[str], bytes]:
    out = io.BytesIO()
    write_layer(driver, key, out, IndexBuilder(io.BytesIO()))
    return [f"{each.kind} {each.path}" for each in list_changes(driver, key)], out.getvalue()


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(is_full=st.booleans(), before=STEPS, after=STEPS)
def test_both_find_the_same(
    bench: Bench, is_full: bool, before: list[tuple[int, str, str, int]], after: list[tuple[int, str, str, int]]
) -> None:
    def begin(path: Path) -> None:
        if is_full:
            fill(path)
        act(path, before)

    fast, whole = both(bench, begin, lambda path: act(path, after))
    assert fast == whole


@pytest.mark.parametrize("seed", range(6))
def test_both_find_the_same_in_large_trees(bench: Bench, seed: int) -> None:
    """Longer lives than hypothesis likes: orphans of orphans, directories that change places."""
    chance = random.Random(seed)
    names = "abcdefgh"

    def steps(count: int) -> list[tuple[int, str, str, int]]:
        paths = ["/".join(chance.choices(names, k=chance.randint(1, 4))) for _ in range(2 * count)]
        return [(chance.randrange(len(ACTS)), paths[2 * n], paths[2 * n + 1], chance.randrange(8)) for n in range(count)]

    fast, whole = both(bench, lambda path: act(path, steps(600)), lambda path: act(path, steps(250)))
    assert fast == whole


def test_the_kernel_is_really_asked(bench: Bench) -> None:
    """One change in many files: what is looked at is where it is."""
    def begin(path: Path) -> None:
        for directory in range(20):
            (path / f"{directory}").mkdir()
            for number in range(20):
                (path / f"{directory}/{number}").write_bytes(b"x")
        os.link(path / "3/3", path / "4/other")

    bench.write_snapshot("many", "", begin)
    with bench.mounted(bench.driver.prepare("one", "many")) as path:
        (path / "3/3").write_bytes(b"y")
        os.rename(path / "7", path / "8/moved")
    driver = bench.driver
    assert isinstance(driver, BtrfsSnapshotter)
    with driver.holding_difference("one") as difference, ExitStack() as stack:
        assert difference.touched is not None
        assert {"3/3", "4/other"} <= set(difference.touched.paths)
        assert {"7", "8/moved"} <= set(difference.touched.trees)
        narrowed = changes._narrowed(difference, stack)
        assert narrowed is not None
        assert narrowed[0].names("3") == ["3"]
        assert "9" not in narrowed[0].names("")
    assert found(driver, "one")[0] == [
        "C /3", "C /3/3", "C /4", "C /4/other", "D /7", "C /8", "A /8/moved",
        *sorted(f"A /8/moved/{n}" for n in range(20))]
    assert driver.sweep() == 0


def test_a_running_container_stands_still(bench: Bench) -> None:
    bench.write_snapshot("still", "", lambda path: (path / "f").write_bytes(b"1"))
    driver = bench.driver
    assert isinstance(driver, BtrfsSnapshotter)
    with bench.mounted(driver.prepare("moving", "still")) as path:
        (path / "f").write_bytes(b"2")
        with driver.holding_difference("moving") as difference:
            (path / "later").write_bytes(b"3")
            assert not (Path(difference.upper[0].source) / "later").exists()
            assert (Path(difference.upper[0].source) / "f").read_bytes() == b"2"
        assert "A /later" in found(driver, "moving")[0]


def test_subvolumes_inside_are_looked_into(bench: Bench) -> None:
    def change(path: Path) -> None:
        make_a_subvolume(path / "a" / "sub", path, 1)
        make_a_subvolume(path / "a" / "sub" / "deeper", path, 2)
        os.link(path / "a/sub/inside", path / "a/sub/again")
        (path / "b/b").unlink()

    fast, whole = both(bench, fill, change)
    assert fast == whole
    assert "A /a/sub/deeper/inside" in fast[0]


def test_more_names_than_the_kernel_says(bench: Bench) -> None:
    def begin(path: Path) -> None:
        (path / "f").write_bytes(b"1")
        for number in range(100):
            os.link(path / "f", path / f"{number}{'x' * 100}")

    fast, whole = both(bench, begin, lambda path: (path / "f").write_bytes(b"2"))
    assert fast == whole
    assert len(fast[0]) == 101


@pytest.mark.parametrize(("levels", "name"), [(50, "d" * 100), (400, "d")])
def test_paths_that_are_too_much_for_a_stream(bench: Bench, levels: int, name: str) -> None:
    def deep(path: Path) -> None:
        with in_directory(path):
            for _ in range(levels):
                os.mkdir(name)
                os.chdir(name)
            Path("f").write_bytes(b"1")

    fast, whole = both(bench, fill, deep)
    assert fast == whole
    assert fast[0][-1].endswith("/f")
