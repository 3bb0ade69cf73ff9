"""Cases about stacks of layers: what is mounted must be what image-spec says, as the model reads it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

from lamina.errors import InvalidInput
from lamina.layer.entry import Entry
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot.changes import Change, list_changes
from lamina.snapshot.snapshotter import TooManyLayers
from lamina.testing.bench import Bench, Layer, case, insist_raises
from lamina.testing.images import (
    Chances,
    device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    random_stack,
    symlink,
    tar_of,
    whiteout,
)
from lamina.testing.model import Refused, read_tree, union_of

BASE: Layer = [
    directory("bin"), file("bin/sh", b"#!", mode=0o755), directory("etc"), file("etc/passwd", b"root"),
    file("etc/group", b"wheel"), directory("var"), directory("var/lib"), file("var/lib/db", b"1" * 5000),
    symlink("sh", "bin/sh"),
]


@case
def one_layer(bench: Bench) -> None:
    name = bench.check(BASE)
    assert bench.driver.stat(name).diff_id == Digest.of(tar_of(BASE)) == name


@case
def an_empty_layer(bench: Bench) -> None:
    bench.check([])
    bench.check(BASE, [])


@case
def layers_replace_files(bench: Bench) -> None:
    bench.check(
        BASE,
        [directory("etc", mode=0o700), file("etc/passwd", b"root and me"), file("bin", b"no directory now"),
         directory("sh"), file("sh/x", b"y"), symlink("var", "etc")],
        [directory("bin"), file("bin/new", b"n")],
    )


@case
def whiteouts_remove(bench: Bench) -> None:
    bench.check(
        [*BASE, file(".baz", b"1"), file("baz", b"2")],
        [directory("etc"), whiteout("etc/passwd"), whiteout("var"), whiteout("sh"), whiteout("nothing there"),
         whiteout(".baz")],
        [directory("var"), directory("var/lib"), file("var/lib/new", b"x")],
    )


@case
def whiteouts_beside_new_files(bench: Bench) -> None:
    bench.check(
        BASE,
        [whiteout("sh"), file("sh", b"a file now"), directory("etc"), file("etc/group", b"new"),
         whiteout("etc/group"), whiteout("var"), directory("var"), file("var/run", b"r")],
    )


@case
def a_base_shows_no_whiteouts(bench: Bench) -> None:
    bench.check([
        directory("a"), whiteout("a/x"), file("a/y", b"y"), whiteout("b"), directory("c"), opaque("c"),
        directory("d"), directory("d/e"), whiteout("d/e/f"),
    ])
    # Over another base, in which some of those directories exist.
    bench.check(
        [directory("a"), file("a/x", b"x"), file("d", b"no directory")],
        [directory("a"), whiteout("a/x"), directory("d"), whiteout("d/e"), directory("g"), whiteout("g/h")],
        [directory("g"), whiteout("g/h"), whiteout("g/i")],
    )


@case
def opaque_directories_hide(bench: Bench) -> None:
    bench.check(
        [*BASE, directory("f"), file("f/.abc", b"1"), directory("f/c"), file("f/c/def", b"2"),
         file("f/c/efg", b"3")],
        [directory("var"), opaque("var"), file("var/new", b"n"), directory("etc"), file("etc/x", b"x"),
         opaque("etc"), directory("f"), file("f/.bce", b"4"), opaque("f"), directory("f/c"),
         file("f/c/efg", b"5")],
    )


@case
def an_opaque_root_cuts_the_stack(bench: Bench) -> None:
    bench.check(BASE, [file("new", b"n"), opaque("")], [file("top", b"t")])
    bench.check(BASE, [opaque(""), file("new", b"m")])
    bench.check([opaque(""), file("new", b"o")])


@case
def hard_links_are_one_file(bench: Bench) -> None:
    bench.check(
        [file("a", b"1", mode=0o600), hardlink("b", "a"), directory("d"), hardlink("d/c", "b"),
         symlink("s", "a"), hardlink("t", "s")],
        [file("a", b"2")],
        [whiteout("b")],
    )


@case
def hard_links_to_lower_layers(bench: Bench) -> None:
    """Whether the two names share an inode is up to the driver: EROFS images are filesystems each."""
    bench.check(
        [directory("d"), file("d/a", b"1", mode=0o640, uid=3, gid=4)],
        [hardlink("b", "d/a"), directory("e"), hardlink("e/c", "b")],
        [file("d/a", b"2")],
        has_links=False,
    )


@case
def attributes_survive(bench: Bench) -> None:
    bench.check([
        file("su", b"1", mode=0o4755), file("sg", b"1", mode=0o2755), directory("st", mode=0o1777),
        file("owned", b"1", mode=0o4711, uid=1000, gid=1001), directory("dir", uid=33, gid=34, mode=0o2750),
        file("dir/none", b"1", mode=0), symlink("link", "x", uid=7, gid=8),
        file("old", b"", mtime=0), file("precise", b"", mtime=1_700_000_000_123_456_789),
        file("before", b"", mtime=-5 * 10**9), directory("closed", mode=0), fifo("pipe", mode=0o622),
        file("closed/in", b"deep"),
    ])


@case
def layers_change_attributes(bench: Bench) -> None:
    bench.check(
        [*BASE, directory("a", mode=0o711, uid=5, gid=6), file("a/x", b"1")],
        [directory("a", mode=0o700, uid=7, gid=8), directory("etc", mode=0o1777)],
    )


@case
def extended_attributes(bench: Bench) -> None:
    # security.capability, version 2, cap_net_bind_service=ep (linux/capability.h)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    system = {"security.capability": capability} if bench.has_devices else {}
    bench.check(
        [file("f", b"1", xattrs={"user.one": b"\0\1", "user.two": b"2"}),
         file("ping", b"2", mode=0o755, xattrs=system), directory("d", xattrs={"user.dir": b"3"})],
        [directory("d", xattrs={"user.other": b"4"}), file("f", b"3")],
    )


@case
def layers_cannot_steer_overlayfs(bench: Bench) -> None:
    name = bench.stack(
        [directory("a"), file("a/x", b"1"), directory("secret"), file("secret/y", b"2")],
        [directory("a", xattrs={"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"y"}),
         directory("b", xattrs={f"{name}.overlay.redirect": b"/secret" for name in ("trusted", "user")})],
    )
    found = bench.read(name)
    assert found["a/x"].what == b"1"
    assert "b/y" not in found
    assert not any("overlay" in xattr for each in found.values() for xattr in each.xattrs)


@case
def implied_directories_keep_what_they_are(bench: Bench) -> None:
    lower: Layer = [
        directory("x", mode=0o711, uid=5, gid=6), directory("x/y", mode=0o750, xattrs={"user.a": b"1"}),
    ]
    upper: Layer = [file("x/y/z/f", b"1"), file("n/m", b"2")]
    bench.check(lower, upper)
    # The same layer over another base: the first stack must not show through.
    bench.check([directory("x", mode=0o700, uid=9, gid=9)], upper)
    bench.check(upper)
    bench.check(upper, lower)
    bench.check(lower, upper, [directory("x/y/z", mode=0o500)], [whiteout("x/y/z/f")])
    bench.check(lower, [file("x/y/z/f", b"1"), opaque("x/y")])


@case
def entries_below_symlinks(bench: Bench) -> None:
    bench.check(
        [directory("real", mode=0o710), symlink("ln", "real")], [file("ln/x", b"1"), whiteout("ln/gone")]
    )
    bench.check(
        [directory("e", mode=0o700), file("e/gone", b"1"), file("e/kept", b"2"), symlink("le", "/e")],
        [file("le/new", b"3"), whiteout("le/gone"), hardlink("le/link", "le/kept")],
        has_links=False,
    )
    bench.check([directory("e"), symlink("le", "../../e"), file("le/in", b"1")])


@case
def devices_and_pipes(bench: Bench) -> None:
    layer: list[Entry] = [directory("dev"), fifo("dev/pipe", mode=0o600)]
    if bench.has_devices:
        layer += [device("dev/null", 1, 3, mode=0o666), device("dev/big", 259, 70_000, mode=0o600)]
    bench.check(layer)


@case
def strange_names(bench: Bench) -> None:
    deep = "/".join(["d" * 20] * 60)
    bench.check([
        file("new\nline", b"1"), file("quote\"'\\", b"2"), file("é中文😀", b"3"), file("a\udcff\udcfe", b"4"),
        file("colon:comma,equals=", b"5"), file(" space ", b"6"), file("n" * 255, b"7"),
        file(f"{deep}/f", b"8"),
        file(".whatever", b"9"), symlink("sym", "l" * 2000), file("-rf", b"10"), directory("..."),
    ])


@case
def the_root_is_what_a_layer_says(bench: Bench) -> None:
    root = directory("", mode=0o711, uid=11, gid=12, xattrs={"user.root": b"r"})
    for stack in ([[root, file("a", b"1")]], [[root, file("a", b"1")], [file("b", b"2")]],
                  [[file("a", b"1")], [root, file("b", b"2")], [file("c", b"3")], [file("d", b"3")]]):
        name = bench.check(*stack)
        with bench.mounted(bench.driver.prepare(f"key {name}", name)) as path:
            found = read_tree(path)[""]
            assert found.mode == 0o711
            assert found.xattrs == {"user.root": b"r"}
            assert not bench.has_owners or (found.uid, found.gid) == (11, 12)
    # What somebody makes of the root is what those see who build on it.
    bench.write_snapshot("mine", name, lambda path: path.chmod(0o1700))
    assert bench.read("mine")[""].mode == 0o1700
    with bench.mounted(bench.driver.prepare("on mine", "mine")) as path:
        found = read_tree(path)[""]
        assert found.mode == 0o1700
        assert found.xattrs == {"user.root": b"r"}


@case
def a_root_that_no_layer_lists(bench: Bench) -> None:
    """It looks the same whenever, and under whatever umask, somebody unpacked the layers."""
    old = os.umask(0o077)
    try:
        one: Layer = [file("a", b"1")]
        for stack in ([one], [one, [file("n/b", b"2"), directory("c", mode=0o777)]],
                      [[directory("x"), whiteout("x/y")], [file("x/z", b"3", mode=0o666)]]):
            name = bench.check(*stack)
            root = bench.read(name)[""]
            assert (root.mode, root.mtime) == (0o755, 0)
            with bench.mounted(bench.driver.prepare(f"key {name}", name)) as path:
                assert read_tree(path)[""].mode == 0o755
    finally:
        os.umask(old)


@case
def a_layer_that_comes_twice(bench: Bench) -> None:
    one: Layer = [file("a", b"1"), directory("d"), file("d/x", b"x")]
    two: Layer = [whiteout("a"), whiteout("d"), file("b", b"2")]
    bench.check(one, two, one)
    bench.check(one, two, one, two)
    bench.check(one, one, one)


@case
def stacks_share_layers(bench: Bench) -> None:
    base = bench.stack(BASE)
    one = bench.stack(BASE, [file("one", b"1")])
    two = bench.stack(BASE, [file("two", b"2")])
    assert bench.driver.stat(one).diff_id != bench.driver.stat(two).diff_id
    assert "one" not in bench.read(two)
    assert "two" not in bench.read(one)
    assert "one" not in bench.read(base)
    with bench.mounted(bench.driver.prepare("key", one)) as path:
        shutil.rmtree(path / "etc")
        (path / "bin/sh").write_text("changed")
    assert bench.read(two)["bin/sh"].what == b"#!"
    assert "etc/passwd" in bench.read(two)


@case
def committing_layers_again_is_free(bench: Bench) -> None:
    name = bench.stack(BASE, [file("x", b"1")])
    before = list(bench.driver.walk())
    assert bench.stack(BASE, [file("x", b"1")]) == name
    assert list(bench.driver.walk()) == before
    assert name == list(chain_ids([Digest.of(tar_of(BASE)), Digest.of(tar_of([file("x", b"1")]))]))[-1]


@case
def writing_over_layers(bench: Bench) -> None:
    name = bench.stack(BASE, [directory("etc"), whiteout("etc/group"), directory("opt"), file("opt/f", b"1")])

    def write(path: Path) -> None:
        assert not (path / "etc/group").exists()
        (path / "etc/group").write_text("mine")
        (path / "etc/passwd").unlink()
        os.chmod(path / "bin", 0o700)
        with open(path / "var/lib/db", "r+b") as database:
            database.seek(2500)
            database.write(b"2")
        os.rename(path / "opt/f", path / "moved")

    bench.write_snapshot("mine", name, write)
    found = bench.read("mine")
    assert found["etc/group"].what == b"mine"
    assert "etc/passwd" not in found
    assert found["bin"].mode == 0o700
    assert found["var/lib/db"].what == b"1" * 2500 + b"2" + b"1" * 2499
    assert found["moved"].what == b"1"
    assert "opt/f" not in found
    assert bench.driver.stat("mine").parent == name
    assert bench.read(name)["var/lib/db"].what == b"1" * 5000
    with bench.mounted(bench.driver.prepare("next", "mine")) as path:
        assert (path / "moved").read_bytes() == b"1"
        (path / "moved").unlink()


@case
def opening_a_file_changes_nothing(bench: Bench) -> None:
    """Also where a layer has a form of its own for this stack, and forms share files."""
    lower: Layer = [directory("x", mode=0o711), file("x/plain", b"0"), file("x/other", b"0")]
    upper: Layer = [file("x/y/implied", b"1" * 5000), file("x/y/written", b"1")]
    bench.stack(upper)
    name = bench.stack(lower, upper)

    def write(path: Path) -> None:
        for opened in ("x/plain", "x/y/implied"):
            with open(path / opened, "r+b") as stream:
                assert stream.read(1)
        (path / "x/y/written").write_bytes(b"2")

    with bench.mounted(bench.driver.prepare("mine", name)) as path:
        write(path)
    # Directories above a change are listed, and may be where a file was only copied.
    found = [change for change in list_changes(bench.driver, "mine") if change.path not in ("/x", "/x/y")]
    assert found == [Change(kind="C", path="/x/y/written")], found


def _tower(height: int) -> list[Layer]:
    return [[directory("d"), file(f"d/{number}", b"%d" % number), file("last", b"%d" % number)]
            for number in range(height)]


@case
def a_hundred_and_thirty_layers(bench: Bench) -> None:
    """One more than mount(2)'s page of options takes."""
    name = bench.check(*_tower(130))
    with bench.mounted(bench.driver.prepare("key", name)) as path:
        (path / "d/129").unlink()
        assert len(os.listdir(path / "d")) == 129
        assert (path / "last").read_text() == "129"


@case
def five_hundred_layers(bench: Bench) -> None:
    """As many as overlayfs takes, unless the bench says fewer (``Bench.height``)."""
    tower = _tower(bench.height)
    name = bench.stack(*tower)
    with bench.viewed(name) as path:
        assert len(os.listdir(path / "d")) == bench.height
        assert (path / "last").read_text() == str(bench.height - 1)
    name = bench.stack(*tower, [file("one too many", b"")])
    if bench.has_limit:
        error = insist_raises(TooManyLayers, lambda: bench.read(name))
        assert "501" in str(error)
    else:
        assert "one too many" in bench.read(name)


def _check_if_possible(bench: Bench, stack: Sequence[Layer]) -> None:
    try:
        union_of(stack)
    except Refused:
        insist_raises(InvalidInput, lambda: bench.stack(*stack))
    else:
        bench.check(*stack)


@case
def random_stacks(bench: Bench) -> None:
    """Whatever the layers hold, what is mounted is what the model says."""
    chances = Chances(has_owners=True, has_devices=bench.has_devices)
    for seed in range(40):
        stack = random_stack(Random(seed), 4, chances)  # noqa: S311 - the same every time
        try:
            _check_if_possible(bench, stack)
        except AssertionError as error:
            error.add_note(f"random stack of seed {seed}")
            raise
