"""overlay2 where the kernel is old, where a sandbox forbids calls, and where an upper directory is not whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import Place, busybox_layer, make_layout, owned_directory

from lamina.layer.tarstream import read_entries
from lamina.snapshot.changes import list_changes
from lamina.snapshot.foreign import ForeignMark
from lamina.testing.bench import Bench
from lamina.testing.images import directory, file

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("overlay2")]

# Nobody in here has heard of them.
NEW_CALLS = ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr")
SANDBOXED = f"""
import sys
from lamina.runtime.bpf import compile_filter, install
from lamina.testing.conformance import main
install(compile_filter({{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {{"names": {list(NEW_CALLS)}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}},
]}}))
sys.exit(main(sys.argv[1:]))
"""
CASES = ("a_hundred_and_thirty_layers", "five_hundred_layers", "writing_over_layers", "whiteouts_remove",
         "the_root_is_what_a_layer_says", "strange_names", "a_view_changes_nothing", "what_is_mounted_stays")


def test_a_kernel_without_the_new_mount_calls() -> None:
    with owned_directory(None) as path:
        words = [word for name in CASES for word in ("--case", name)]
        done = subprocess.run(
            [sys.executable, "-c", SANDBOXED, "overlay2", "--root", path, "--json", *words],
            capture_output=True, text=True, check=False,
        )
        found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
        assert found == dict.fromkeys(CASES, ""), done.stderr


@pytest.fixture
def bench() -> Iterator[Bench]:
    with owned_directory(None) as path:
        made = Bench("overlay2", path / "state")
        try:
            yield made
        finally:
            made.close()


BASE = [directory("d"), file("d/x", b"x"), file("big", b"b" * 300_000)]
FOREIGN = ("metacopy=on", "redirect_dir=on", "index=off")


@pytest.mark.parametrize(("act", "mark"), [
    (lambda path: os.chmod(path / "big", 0o600), "'big': its content is elsewhere (trusted.overlay.metacopy)"),
    (lambda path: os.rename(path / "d", path / "e"), "'e': its content is elsewhere (trusted.overlay.redirect)"),
])
def test_an_upper_directory_that_somebody_mounted_otherwise(bench: Bench, act: object, mark: str) -> None:
    name = bench.stack(BASE)
    (mount,) = bench.driver.prepare("key", name)
    places = tuple(option for option in mount.options if option.startswith(("upperdir=", "workdir=")))
    theirs = type(mount)(type="overlay", source="overlay", options=(*places, *FOREIGN), layers=mount.layers)
    with bench.mounted([theirs]) as path:
        assert callable(act)
        act(path)
    for tell in (lambda: list_changes(bench.driver, "key"), lambda: bench.driver.commit("mine", "key")):
        with pytest.raises(ForeignMark) as told:
            tell()
        assert str(told.value).startswith(mark)
    bench.driver.remove("key")
    assert [info.key for info in bench.driver.walk()] == [name]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", None, "overlay2", "embedded")
        made.say("load", "-q", "-i", make_layout(path / "layout", [[*busybox_layer(), *BASE]]))
        try:
            yield made
        finally:
            made.clear()


def test_a_container_that_sets_the_marks_itself(place: Place) -> None:
    """With the right to, which a default one has not: the kernel keeps them apart from its own."""
    script = (
        "setfattr -n trusted.overlay.redirect -v /bin /d; setfattr -n user.overlay.redirect -v /bin /d;"
        " setfattr -n trusted.overlay.metacopy -v x /big; setfattr -n trusted.overlay.opaque -v y /d;"
        " setfattr -n user.kept -v 1 /d; echo more >>/big; true"
    )
    rights = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--network", "none")
    place.run("run", "--name", "one", *rights, "base:1", "sh", "-c", script)
    assert set(place.lines("diff", "one")) == {"C /big", "C /d"}
    place.say("commit", "one", "result:1")
    digest = place.say("inspect", "--format", "{{range .RootFS.Layers}}{{println .}}{{end}}", "result:1").split()[-1]
    with (place.root / "blobs" / "sha256" / digest.partition(":")[2]).open("rb") as stream:
        found = {each.path: (dict(each.xattrs), each.size) for each in read_entries(stream)}
    assert found["d"][0] == {"user.kept": b"1"}
    assert found["big"] == ({}, 300_005)
    look = "ls /d; tail -c 5 /big; head -c 3 /big"
    assert place.say("run", "--rm", "--network", "none", "result:1", "sh", "-c", look) == "x\nmore\nbbb"


def test_marks_on_an_upper_directory_that_lies_over_nothing(bench: Bench) -> None:
    """It is mounted as it is, so its files are whole whatever is said of them; but a stack could not show them."""
    with bench.mounted(bench.driver.prepare("key")) as path:
        (path / "f").write_bytes(b"content")
        (path / "d").mkdir()
        os.setxattr(path / "f", "trusted.overlay.metacopy", b"")
        os.setxattr(path / "d", "trusted.overlay.redirect", b"/elsewhere")
    assert [f"{each.kind} {each.path}" for each in list_changes(bench.driver, "key")] == ["A /d", "A /f"]
    with pytest.raises(ForeignMark):
        bench.driver.commit("mine", "key")


def test_our_mounts_follow_no_such_mark(bench: Bench) -> None:
    """Whoever can write to the disk may put one there: the kernel refuses to go where it leads."""
    name = bench.stack(BASE)
    (mount,) = bench.driver.prepare("key", name)
    upper = next(Path(option.partition("=")[2]) for option in mount.options if option.startswith("upperdir="))
    (upper / "e").mkdir()
    os.setxattr(upper / "e", "trusted.overlay.redirect", b"/d")
    with bench.mounted([mount]) as path, pytest.raises(PermissionError):
        os.listdir(path / "e")
