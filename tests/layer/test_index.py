"""The index of a layer: what went in comes out, the tar comes out again, and damage is noticed."""

from __future__ import annotations

import io
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layer.indexed import index_bytes, index_of, index_of_tar

from lamina.errors import IntegrityError
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.index import IndexBuilder, IndexDamaged, LayerIndex
from lamina.layer.skeleton import RebuildMismatch
from lamina.oci.digest import Digest
from lamina.testing.images import (
    device,
    directory,
    file,
    hardlink,
    opaque,
    random_layer,
    symlink,
    tar_of,
    whiteout,
)

SOME = Digest.of(b"some layer")


def built(entries: list[Entry]) -> LayerIndex:
    """Without a tar: for values that no tar of ours would hold."""
    out = io.BytesIO()
    builder = IndexBuilder(out)
    for entry in entries:
        builder.add(entry)
    builder.finish(SOME, 0)
    return LayerIndex.from_bytes(out.getvalue())


def rebuilt(index: LayerIndex, tar: bytes) -> bytes:
    out = io.BytesIO()
    index.rebuild(lambda entry: io.BytesIO(tar[entry.data_offset : entry.data_offset + entry.size]), out)
    return out.getvalue()


names = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/")
    | st.sampled_from([chr(0xDC80), chr(0xDCFF)]),
    min_size=1, max_size=12,
)
entries = st.builds(
    Entry,
    path=st.lists(names, min_size=1, max_size=3).map("/".join),
    kind=st.sampled_from(Kind),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime=st.integers(-(2**62), 2**62),
    size=st.integers(0, 2**62),
    linkname=st.just("") | names,
    xattrs=st.dictionaries(names, st.binary(max_size=20), max_size=3),
    major=st.integers(0, 4095),
    minor=st.integers(0, 2**20 - 1),
    header_offset=st.integers(-1, 2**62),
    data_offset=st.integers(-1, 2**62),
)


@given(st.lists(entries, max_size=8))
def test_entries_come_back_as_they_were(given_entries: list[Entry]) -> None:
    index = built(given_entries)
    assert list(index.entries()) == given_entries
    assert len(index) == len(given_entries)
    assert (index.diff_id, index.tar_size) == (SOME, 0)


def test_more_entries_than_one_batch() -> None:
    many = [file(f"f{number}", mtime=number) for number in range(5000)]
    index = built(many)
    assert [entry.path for entry in index.entries()] == [entry.path for entry in many]
    assert index.find("f4999") == 4999


def test_a_file_on_disk_is_loaded_and_rebuilt(tmp_path: Path) -> None:
    tar = tar_of([directory("d"), file("d/f", b"data" * 1000)])
    (tmp_path / "index").write_bytes(index_bytes(tar))
    index = LayerIndex.load(tmp_path / "index")
    assert index.diff_id == Digest.of(tar)
    assert rebuilt(index, tar) == tar


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LayerIndex.load(tmp_path / "index")


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("trailer", [b"", bytes(10240), b"\0" * 1024 + b"anything at all"])
def test_the_tar_comes_out_byte_for_byte(style: int, trailer: bytes) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=style) as archive:
        for number in range(300):
            data = os.urandom(number * 17 % 1500)
            info = tarfile.TarInfo(f"{'long/' * (number % 25)}name{number}")
            info.size, info.mtime, info.uname = len(data), 1.5 * number, "somebody"
            archive.addfile(info, io.BytesIO(data))
    tar = made.getvalue()[: archive.offset] + trailer
    assert rebuilt(index_of_tar(tar), tar) == tar


@given(st.randoms(use_true_random=False))
def test_random_layers_come_out_byte_for_byte(chance: random.Random) -> None:
    tar = tar_of(random_layer(chance))
    assert rebuilt(index_of_tar(tar), tar) == tar


def test_the_padding_belongs_to_the_tar() -> None:
    tar = bytearray(tar_of([file("a", b"x"), file("b", b"y")]))
    tar[600] = 7  # between the data of a and the header of b
    assert rebuilt(index_of_tar(bytes(tar)), bytes(tar)) == bytes(tar)


def test_wrong_data_is_noticed() -> None:
    tar = tar_of([file("a", b"right")])
    with pytest.raises(RebuildMismatch, match="made again has the digest") as caught:
        index_of_tar(tar).rebuild(lambda _entry: io.BytesIO(b"wrong"), io.BytesIO())
    assert isinstance(caught.value, IntegrityError)


def test_short_data_is_noticed() -> None:
    with pytest.raises(RebuildMismatch, match="'a': 3 bytes short of 5"):
        index_of([file("a", b"right")]).rebuild(lambda _entry: io.BytesIO(b"ri"), io.BytesIO())


def test_without_a_skeleton_there_is_no_tar() -> None:
    with pytest.raises(RebuildMismatch, match="no skeleton"):
        built([file("a")]).rebuild(lambda _entry: io.BytesIO(), io.BytesIO())


def test_the_skeleton_is_written_while_it_comes() -> None:
    out = io.BytesIO()
    builder = IndexBuilder(out)
    for _ in range(64):
        builder.skeleton(os.urandom(1 << 18))
    assert out.tell() > 14 << 20


def test_a_skeleton_that_does_not_fit_is_refused() -> None:
    builder = IndexBuilder(io.BytesIO())
    builder.skeleton(bytes(512))
    builder.add(Entry(path="a", size=100))
    with pytest.raises(InvalidLayer, match="do not make a tar of 1024"):
        builder.finish(SOME, 1024)


def test_a_builder_counts() -> None:
    builder = IndexBuilder(io.BytesIO())
    for number in range(3):
        builder.add(Entry(path=f"f{number}", size=10))
    assert len(builder) == 3
    assert builder.content_size == 30


def test_every_cut_is_noticed() -> None:
    whole = index_bytes(tar_of([file("a", b"data"), symlink("b", "a")]))
    for length in range(len(whole)):
        with pytest.raises(IndexDamaged):
            LayerIndex.from_bytes(whole[:length])


def test_every_changed_byte_is_noticed_or_harmless() -> None:
    """zstd has bits without meaning: what they do not change is still the tar."""
    tar = tar_of([file("a", b"data"), symlink("b", "a"), file("c", xattrs={"user.x": b"y"}), device("d", 1, 3)])
    whole = index_bytes(tar)
    harmless = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        try:
            assert rebuilt(LayerIndex.from_bytes(bytes(damaged)), tar) == tar
            harmless += 1
        except (IndexDamaged, RebuildMismatch):
            pass
    assert harmless < 5


@pytest.mark.parametrize("field", [0, 1, 5, 11, 12, 13])
@pytest.mark.parametrize("value", [0xFF, 0x7F])
def test_sizes_that_lie_are_refused_before_anything_is_read(field: int, value: int) -> None:
    whole = bytearray(index_bytes(tar_of([file("a", b"data")])))
    trailer = len(whole) - 16 - 32 - 160 - 8 * 16
    whole[trailer + 8 * field : trailer + 8 * field + 8] = bytes([value]) * 8
    with pytest.raises(IndexDamaged, match="do not fit"):
        LayerIndex.from_bytes(bytes(whole))


@pytest.mark.parametrize("entry", [
    Entry(path="a", uid=1 << 32), Entry(path="a", gid=-1), Entry(path="a", mtime=1 << 63),
    Entry(path="a", size=1 << 63), Entry(path="a", mode=1 << 16), Entry(path="a\0b"), Entry(path="\ud800"),
    Entry(path="a", kind=Kind.SYMLINK, linkname="\ud800"),
])
def test_what_no_filesystem_holds_is_refused(entry: Entry) -> None:
    with pytest.raises(InvalidLayer):
        built([entry])


def test_a_nul_in_a_link_does_not_shift_the_others() -> None:
    with pytest.raises((InvalidLayer, IndexDamaged)):
        built([symlink("a", "x\0y"), symlink("b", "z")])


def test_the_last_of_duplicates_is_found() -> None:
    index = index_of([file("a", b"1"), file("b"), file("a", b"22")])
    assert index.find("a") == 2
    assert index.find("nowhere") is None
    assert index.has_duplicates
    assert not index_of([file("a"), file("b")]).has_duplicates


@pytest.mark.parametrize(("layer", "implied"), [
    ([file("a")], ()),
    ([directory("a"), file("a/b")], ()),
    ([file("a/b"), directory("a")], ()),
    ([file("a/b/c"), file("d")], ("a", "a/b")),
    ([directory("a/b/c")], ("a", "a/b")),
    ([directory("a"), file("a/b/c")], ("a/b",)),
    ([directory("a/b"), file("a/b/c")], ("a",)),
    ([symlink("ln", "x"), file("ln/y")], ("ln",)),
    ([whiteout("a/b")], ("a",)),
    ([opaque("a")], ("a",)),
])
def test_parents_that_are_not_listed(layer: list[Entry], implied: tuple[str, ...]) -> None:
    index = index_of(layer)
    assert index.implied_parents == implied
    assert not (implied and index.is_self_contained)


def test_directories_must_come_first_to_depend_on_nothing() -> None:
    assert index_of([directory("a"), file("a/b")]).is_self_contained
    assert not index_of([file("a/b"), directory("a")]).is_self_contained


def test_links_to_other_layers() -> None:
    index = index_of([
        file("a"), hardlink("b", "a"), hardlink("c", "b"), hardlink("d", "below"), hardlink("e", "later"), file("later"),
    ])
    assert [entry.path for entry in index.foreign_links] == ["d", "e"]
    assert not index.is_self_contained
    assert index_of([file("a"), hardlink("b", "a"), hardlink("c", "b")]).is_self_contained


def test_an_opaque_root() -> None:
    index = index_of([file("a"), opaque("")])
    assert index.is_root_opaque
    assert index.is_self_contained  # all the more so
    assert not index_of([directory("a"), opaque("a")]).is_root_opaque


def test_whiteouts_and_opaque_directories() -> None:
    index = index_of([whiteout("gone"), directory("d"), whiteout("d/x"), opaque("d"), file("d/.wh..wh.aufs"), opaque("")])
    assert index.whiteouts == {0: "gone", 2: "d/x"}
    assert index.opaques == {3: "d", 5: ""}
    assert [index.is_metadata(number) for number in range(6)] == [True, False, True, True, True, True]


@pytest.mark.parametrize("path", [".wh.", ".wh..", ".wh...", "e/.wh.."])
def test_a_whiteout_of_nothing_is_refused(path: str) -> None:
    with pytest.raises(InvalidLayer):
        _ = built([Entry(path=path)]).whiteouts


def test_entries_are_equal_to_what_the_reader_gave() -> None:
    made = [directory("d", mode=0o1777), file("d/f", b"abc", uid=5, xattrs={"user.a": b"b"}), symlink("l", "d/f")]
    found = list(index_of(made).entries())
    assert [replace(entry, header_offset=-1, data_offset=-1) for entry in found] == [
        replace(entry, open=None) for entry in made
    ]
    assert all(entry.header_offset >= 0 for entry in found)


def test_directories_that_are_only_implied_cannot_fill_the_memory() -> None:
    """Each of these entries of 4 KiB lies in 2,000 directories that no layer lists: 4 MB of paths an entry."""
    deep = "/".join(["d"] * 1990)
    few = index_of([file(f"{number}/{deep}/f") for number in range(10)])
    assert len(few.implied_parents) == 10 * 1991
    many = index_of([file(f"{number}/{deep}/f") for number in range(40)])
    with pytest.raises(InvalidLayer, match="directories that it does not list"):
        assert many.implied_parents
