"""Whatever a layer holds: where it is said that its tar can be made again without a blob, it is that very tar."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.layer import tarbytes
from tests.property import layers as made

from lamina.errors import LaminaError
from lamina.layer.tarstream import TarWriter
from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore, Wanted
from lamina.snapshot.receive import receive_layer
from lamina.snapshot.remaking import remakes
from lamina.snapshot.snapshotter import Form, Reception

TAR = Reception(form=Form.TAR)
TREE = Reception(form=Form.TREE, key="single-user", xattrs="user", keeps_owners=False)


def received(root: str, tar: bytes, reception: Reception) -> tuple[LayerStore, Digest]:
    (Path(root) / "layers").mkdir()
    layers, diff_id = LayerStore(Path(root)), Digest.of(tar)
    receive_layer(layers, io.BytesIO(tar), Wanted(diff_id=diff_id, reception=reception))
    return layers, diff_id


def check(tar: bytes, reception: Reception, cuts: list[int]) -> bool:
    """Whether it can be made again, by the look at the index; then by every way of reading it is the tar."""
    with tempfile.TemporaryDirectory() as root:
        layers, diff_id = received(root, tar, reception)
        says = remakes(layers, diff_id, is_read=False)
        assert not says or remakes(layers, diff_id, is_read=True)
        if says:
            with layers.open_tar(diff_id) as stream:
                assert stream.read() == tar
            with layers.open_tar(diff_id) as stream:
                for cut in sorted(cuts):
                    offset = cut % (len(tar) + 1)
                    if offset >= stream.tell():
                        stream.seek(offset)
                        assert stream.read(700) == tar[offset : offset + 700]
            sink = io.BytesIO()
            layers.rebuild(diff_id, sink.write)
            assert sink.getvalue() == tar
        return says


cuts = st.lists(st.integers(0, 20_000), max_size=6)


@given(made.layers(), cuts)
def test_layers_that_hide_and_replace(acts: list[made.Act], cuts: list[int]) -> None:
    """Much of it a tree cannot hold: then it must not be claimed."""
    tar = made.tar_of(acts)
    for reception in (TAR, TREE):
        try:
            says = check(tar, reception, cuts)
        except LaminaError:
            return  # not a layer at all
        assert says or reception is TREE


@settings(max_examples=50)
@given(st.lists(made.entries(), max_size=12), st.booleans(), cuts)
def test_entries_of_all_kinds(entries: list[made.Entry], has_parents: bool, cuts: list[int]) -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    for entry in entries:
        writer.write(entry, entry.open() if entry.open else None)
    writer.finish()
    try:
        assert check(out.getvalue(), TAR, cuts)
    except LaminaError:
        return


@given(st.dictionaries(made.paths, st.binary(max_size=3000), max_size=6), st.binary(max_size=900), cuts)
def test_an_ordinary_layer_is_claimed(files: dict[str, bytes], trailer: bytes, cuts: list[int]) -> None:
    """Directories listed before what is in them, each path once; and what follows the end of the archive."""
    directories = {"/".join(path.split("/")[:count]) for path in files for count in range(1, path.count("/") + 1)}
    members = [tarbytes.header(path, tarbytes.DIR) for path in sorted(directories)]
    members += [tarbytes.member(path, data) for path, data in files.items() if path not in directories]
    tar = tarbytes.tar(*members)
    for whole in (tar, tar + bytes(512) + trailer):
        assert check(whole, TREE, cuts)


@pytest.mark.parametrize("member", [
    tarbytes.member(".wh.gone", b"a whiteout with content"),
    tarbytes.member("a", b"1") + tarbytes.member("a", b"2"),
    tarbytes.member("no/parent", b"1"),
    tarbytes.header("l", tarbytes.SYM, link="d") + tarbytes.header("d", tarbytes.DIR) + tarbytes.member("l/f", b"1"),
], ids=["whiteout", "twice", "no parent", "through a link"])
def test_what_a_tree_cannot_hold_is_not_claimed(member: bytes) -> None:
    assert not check(tarbytes.tar(member), TREE, [])
    assert check(tarbytes.tar(member), TAR, [])
