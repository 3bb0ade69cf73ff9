"""Layers extracted each into a directory of its own, stacked by the kernel's overlayfs: the same union."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.layer import tarbytes
from tests.layer.observed import comparable, in_memory, on_disk
from tests.property.layers import Act, acts, paths, tar_of

from lamina.layer.apply import apply
from lamina.layer.entry import InvalidLayer, Kind
from lamina.layer.extract import extract
from lamina.layer.root import DirectoryRoot, MemoryRoot, WhiteoutStyle
from lamina.layer.tarstream import TarReader

pytestmark = pytest.mark.privileged

STYLES = {"": WhiteoutStyle.OVERLAY_TRUSTED, "userxattr,": WhiteoutStyle.OVERLAY_USER}


def listed(layer: list[Act]) -> list[Act]:
    """The layer with every directory that it writes below listed first, as most layers have them."""
    parents = {act.path[:at] for act in layer for at, letter in enumerate(act.path) if letter == "/"}
    return [Act("directory", parent, mode=0o750, mtime=10**9) for parent in sorted(parents)] + layer


symlinks = st.builds(Act, st.just("symlink"), paths.map(lambda path: path + "/l"), mode=st.just(0o777),
                     target=st.sampled_from(("a", "/b", "../c")))
stacks = st.lists(
    st.lists(st.one_of(acts(symlinks=False), symlinks), max_size=6).map(listed), min_size=1, max_size=3)


@contextmanager
def mounted(lowers: list[Path], options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as target:
        below = ":".join(map(str, reversed(lowers)))
        subprocess.run(["mount", "-t", "overlay", "-o", f"{options}lowerdir={below}", "overlay", target], check=True)
        try:
            yield Path(target)
        finally:
            subprocess.run(["umount", "--lazy", target], check=True)


def is_alone_in(stack: list[bytes]) -> bool:
    """Whether each layer can be had without those below it: nothing refused, no link leads down."""
    try:
        for tar in stack:
            apply(TarReader(io.BytesIO(tar)), MemoryRoot())
    except InvalidLayer:
        return False
    return True


def is_idle(act: Act, below: MemoryRoot) -> bool:
    """A whiteout in a directory that no lower layer has: overlayfs shows its name, leading nowhere."""
    return act.kind == "whiteout" and below.kind(act.path.rpartition("/")[0]) is not Kind.DIRECTORY


@pytest.mark.parametrize("options", STYLES)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(stacks)
@example([[Act("directory", "a"), Act("file", "a/x")], [Act("whiteout", ".wh.a"), Act("directory", "a")]])
@example([[Act("directory", "a"), Act("file", "a/x")], [Act("directory", "a"), Act("whiteout", ".wh.a")]])
@example([[Act("directory", "a"), Act("file", "a/x")], [Act("file", "a"), Act("directory", "a")]])
@example([[Act("directory", "a"), Act("file", "a/x")], [Act("whiteout", ".wh.a"), Act("file", "a")]])
def test_kernel_shows_what_memory_has(options: str, stack: list[list[Act]]) -> None:
    wanted = MemoryRoot()
    tars = []
    for layer in stack:
        tars.append(tar_of([act for act in layer if not is_idle(act, wanted)]))
        if not is_alone_in(tars):
            return
        apply(TarReader(io.BytesIO(tars[-1])), wanted)
    with tempfile.TemporaryDirectory() as top:
        lowers = [Path(top) / "empty"]
        lowers[0].mkdir()
        for number, tar in enumerate(tars):
            lowers.append(Path(top) / str(number))
            lowers[-1].mkdir(mode=0o755)
            with DirectoryRoot(lowers[-1], whiteouts=STYLES[options]) as root:
                extract(TarReader(io.BytesIO(tar)), root)
        with mounted(lowers, options) as union:
            found = on_disk(union)
    expected = in_memory(wanted)
    del found[""], expected[""]
    assert comparable(found) == comparable(expected)


@pytest.mark.parametrize("names", [["a/.wh.x", ".wh.a"], [".wh.a", "a/.wh.x"], ["a/b/.wh.x", "a/.wh.b", ".wh.a"]])
def test_whiteouts_below_a_whiteout_add_nothing(names: list[str], tmp_path: Path) -> None:
    tar = tarbytes.tar(*(tarbytes.file(name) for name in names))
    with DirectoryRoot(tmp_path, whiteouts=WhiteoutStyle.OVERLAY_TRUSTED) as root:
        extract(TarReader(io.BytesIO(tar)), root)
    found = on_disk(tmp_path)
    assert set(found) == {"", "a"}
    assert (found["a"]["type"], found["a"]["device"]) == ("c", (0, 0))


def test_a_listed_directory_stays_and_is_opaque(tmp_path: Path) -> None:
    tar = tarbytes.tar(tarbytes.file("a/.wh.x"), tarbytes.directory("a"), tarbytes.file(".wh.a"))
    with DirectoryRoot(tmp_path, whiteouts=WhiteoutStyle.OVERLAY_TRUSTED) as root:
        extract(TarReader(io.BytesIO(tar)), root)
    found = on_disk(tmp_path)
    assert set(found) == {"", "a"}
    assert found["a"]["xattrs"] == {"trusted.overlay.opaque": b"y"}


def test_whiteouts_in_an_opaque_directory_are_left_out(tmp_path: Path) -> None:
    """The kernel would list them."""
    tar = tarbytes.tar(*(tarbytes.file(name) for name in ("a/.wh.x", "a/b/.wh.y", "a/.wh..wh..opq", "c/.wh.z")))
    with DirectoryRoot(tmp_path, whiteouts=WhiteoutStyle.OVERLAY_TRUSTED) as root:
        extract(TarReader(io.BytesIO(tar)), root)
    assert set(on_disk(tmp_path)) == {"", "a", "a/b", "c", "c/z"}


def test_links_to_lower_layers_are_left_out(tmp_path: Path) -> None:
    """Of an unlucky name nothing stays either: what was there before is not what the link says."""
    tar = tarbytes.tar(tarbytes.file("own", b"1"), tarbytes.hardlink("b", "d/a"), tarbytes.hardlink("own", "d/a"))
    with DirectoryRoot(tmp_path, whiteouts=WhiteoutStyle.OVERLAY_TRUSTED) as root:
        assert extract(TarReader(io.BytesIO(tar)), root).entries == 3
    assert set(on_disk(tmp_path)) == {""}
