"""Real directories as roots: what the table of cases does not show."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pytest
from tests.layer import tarbytes
from tests.layer.observed import in_memory, on_disk
from tests.layer.tarbytes import device, directory, file, hardlink, pax, symlink, tar

from lamina.errors import Denied
from lamina.layer.apply import Applied, apply
from lamina.layer.entry import Entry, InvalidLayer, Kind, PathEscapes
from lamina.layer.extract import extract
from lamina.layer.opened import OpenDirectories
from lamina.layer.root import DirectoryRoot, MemoryRoot, Ownership, WhiteoutStyle, open_inside
from lamina.layer.tarstream import TarReader


def opened(path: Path, style: WhiteoutStyle = WhiteoutStyle.REMOVE) -> DirectoryRoot:
    return DirectoryRoot(path, owner=Ownership.IGNORE, whiteouts=style)


def put(top: Path, *members: bytes) -> Applied:
    with opened(top) as root:
        return apply(TarReader(io.BytesIO(tar(*members))), root)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_was_applied(tmp_path: Path) -> None:
    assert put(tmp_path, directory("a"), file("a/b", b"123"), file(".wh.c")) == Applied(entries=3, size=3)


def test_descriptors_are_few_and_given_back(tmp_path: Path) -> None:
    before = descriptors()
    members = [file(f"d{number % 700}/f{number}", b"x") for number in range(1400)]
    with opened(tmp_path) as root:
        most = 0

        def look(_entry: Entry) -> None:
            nonlocal most
            most = max(most, descriptors())

        extract(TarReader(io.BytesIO(tar(*members))), root, look)
        assert most < before + 300
    assert descriptors() == before
    assert sum(len(names) for _top, _directories, names in os.walk(tmp_path)) == 1400


def test_paths_deeper_than_the_cache(tmp_path: Path) -> None:
    before = descriptors()
    path = "d/" * 1500 + "f"
    put(tmp_path, file(path, b"deep"), pax({"linkpath": "d/" * 700}), symlink("l", "d"), file("l/g", b"x"))
    assert descriptors() == before
    with opened(tmp_path) as root:
        with root.open(path) as stream:
            assert stream.read() == b"deep"
        assert root.kind("d/" * 700 + "g") is Kind.FILE
    put(tmp_path, file(".wh.d"))  # too deep for those who tidy up after us
    assert os.listdir(tmp_path) == ["l"]


def test_removing_deep_trees(tmp_path: Path) -> None:
    put(tmp_path, file("a/" + "d/" * 1500 + "f"))
    put(tmp_path, file(".wh.a"))
    assert os.listdir(tmp_path) == []


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o022, 0o077, 0o777):
        old = os.umask(umask)
        try:
            top = tmp_path / str(umask)
            top.mkdir()
            top.chmod(0o755)
            put(top, directory("d", 0o777), file("d/f", mode=0o666), tarbytes.fifo("d/p", mode=0o622))
        finally:
            os.umask(old)
        found = on_disk(top)
        assert [found[path]["mode"] for path in ("d", "d/f", "d/p")] == [0o777, 0o666, 0o622]


def test_devices_are_empty_files_for_who_may_not_make_them(tmp_path: Path) -> None:
    put(tmp_path, device("null", 1, 3, mode=0o666))
    assert stat.S_ISREG((tmp_path / "null").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "null").stat().st_mode) == 0o666


def test_xattrs_beyond_us_are_told(tmp_path: Path) -> None:
    with opened(tmp_path) as root:
        apply(TarReader(io.BytesIO(tar(pax({"SCHILY.xattr.nonsense.x": "1", "SCHILY.xattr.user.x": "2"}), file("a")))), root)
        assert root.refused_xattrs == {"nonsense.x"}
    assert os.getxattr(tmp_path / "a", "user.x") == b"2"


def test_entries_without_a_tar(tmp_path: Path) -> None:
    """Content comes from the entry's own ``open``."""
    with opened(tmp_path) as root:
        apply([Entry("a", size=3, open=lambda: io.BytesIO(b"abc"), xattrs={"trusted.overlay.opaque": b"y"})], root)
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert os.listxattr(tmp_path / "a") == []
    with opened(tmp_path) as root, pytest.raises(ValueError, match="nothing to read"):
        apply([Entry("b", size=3)], root)


def test_a_root_that_is_no_directory(tmp_path: Path) -> None:
    for root in (MemoryRoot(), opened(tmp_path)):
        with pytest.raises(InvalidLayer, match="root of a layer"):
            apply([Entry("", Kind.SYMLINK, linkname="/etc")], root)


def test_full_disks_are_nobody_s_fault(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as root, pytest.raises(OSError, match="No space") as caught:
        apply([Entry("a/b", size=3, open=Full)], root)
    assert caught.value.__notes__ == ["while unpacking 'a/b'"]


def test_a_symlink_that_appears_is_not_followed(tmp_path: Path) -> None:
    """Somebody else in the root, between two looks."""
    outside = tmp_path / "outside"
    outside.mkdir()
    top = tmp_path / "root"
    (top / "a").mkdir(parents=True)
    directories = OpenDirectories(top)
    try:
        (top / "a").rmdir()
        (top / "a").symlink_to(outside)
        with pytest.raises(PathEscapes):
            directories.get("a/b")
        with pytest.raises(PathEscapes):
            directories.get("a")
    finally:
        directories.close()


def test_opening_inside(tmp_path: Path) -> None:
    put(tmp_path, file("a/b", b"x"), symlink("s", "a/b"), symlink("d", "a"), tarbytes.fifo("p"))
    before = descriptors()
    descriptor = open_inside(tmp_path, "a/b")
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)
    for path, error in (("s", OSError), ("d/b", PathEscapes), ("p", Denied), ("a", Denied), ("nope", FileNotFoundError)):
        with pytest.raises(error):
            os.close(open_inside(tmp_path, path))
    assert descriptors() == before


def test_too_many_steps_through_symlinks(tmp_path: Path) -> None:
    """Short tars must not cost long walks."""
    links = [symlink(f"s{number}", f"s{number + 1}/" + "a/../" * 15) for number in range(39)]
    with pytest.raises(InvalidLayer, match="too many symlinks"):
        put(tmp_path, directory("s39"), directory("a"), *links, *(file(f"s{n % 40}/s{n % 39}/x{n}") for n in range(9)),
            symlink("loop", "loop"), file("loop/x"))


def test_extracting_over_something_is_applying(tmp_path: Path) -> None:
    put(tmp_path, directory("a", mtime=5), file("a/x"), file("a/y"))
    with opened(tmp_path) as root:
        extract(TarReader(io.BytesIO(tar(file("a/.wh.x"), file("a/y", b"new")))), root)
    found = on_disk(tmp_path)
    assert set(found) == {"", "a", "a/y"}
    assert found["a"]["mtime"] == 5


def test_entries_are_told_after_the_act(tmp_path: Path) -> None:
    with opened(tmp_path) as root:
        extract(
            TarReader(io.BytesIO(tar(directory("d"), file("d/f", b"x"), hardlink("h", "d/f"), symlink("s", "h")))), root,
            lambda entry: (tmp_path / entry.path).lstat(),
        )


def test_the_same_in_memory_for_overlay(tmp_path: Path) -> None:
    members = tar(directory("d"), file("d/.wh.x"), directory("o"), file("o/.wh..wh..opq"), file("o/f"))
    memory = MemoryRoot(WhiteoutStyle.OVERLAY_USER)
    apply(TarReader(io.BytesIO(members)), memory)
    with opened(tmp_path, WhiteoutStyle.OVERLAY_USER) as root:
        apply(TarReader(io.BytesIO(members)), root)
    found, wanted = on_disk(tmp_path), in_memory(memory)
    assert set(found) == set(wanted)
    assert found["o"]["xattrs"] == wanted["o"]["xattrs"] == {"user.overlay.opaque": b"y"}
    assert found["d/x"]["type"] == wanted["d/x"]["type"] == "c"
