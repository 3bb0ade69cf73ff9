"""The layer store: forms, reading back, locking, accounts, checking, and what is swept."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest

from lamina.layer.compress import Compression
from lamina.layer.entry import Entry
from lamina.oci.digest import Digest
from lamina.snapshot.layerfiles import FileRange
from lamina.snapshot.layers import DiffIDMismatch, LayerNotFound, LayerStore, Wanted
from lamina.snapshot.receive import receive_layer
from lamina.snapshot.snapshotter import Form, Reception
from lamina.testing.images import compressed, directory, file, hardlink, opaque, symlink, tar_of, whiteout

LAYER = [
    directory("d"), file("d/f", b"first" * 1000), file("d/empty"), symlink("d/l", "f"), hardlink("h", "d/f"),
    file("last", b"end"), whiteout("gone"),
]
TAR = tar_of(LAYER)
DIFF_ID = Digest.of(TAR)
FORMS = {
    Form.TAR: Reception(form=Form.TAR),
    Form.EROFS: Reception(form=Form.EROFS),
    Form.TREE: Reception(form=Form.TREE, key="single-user", xattrs="user", keeps_owners=False),
}


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    (tmp_path / "layers").mkdir()
    return LayerStore(tmp_path)


def receive(layers: LayerStore, blob: bytes, diff_id: Digest, form: Form = Form.TAR) -> None:
    receive_layer(layers, io.BytesIO(blob), Wanted(diff_id=diff_id, reception=FORMS[form]))


def entry_of(layers: LayerStore, diff_id: Digest, path: str) -> Entry:
    index = layers.index(diff_id)
    number = index.find(path)
    assert number is not None
    return index.entry(number)


def content(layers: LayerStore, diff_id: Digest, path: str) -> bytes:
    with layers.open_data(diff_id, entry_of(layers, diff_id, path)) as data:
        return data.read()


# Overlay whiteouts in trees are devices: an ordinary user can make them in a namespace only.
def forms_without_marks() -> list[Form]:
    return list(FORMS)


@pytest.mark.parametrize("compression", list(Compression))
def test_any_compression_is_received(layers: LayerStore, compression: Compression) -> None:
    receive(layers, compressed(TAR, compression), DIFF_ID)
    assert layers.tar(DIFF_ID).read_bytes() == TAR
    assert list(layers.walk()) == [DIFF_ID]


def test_facts(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID)
    facts = layers.facts(DIFF_ID)
    assert (facts.tar_size, facts.content_size, facts.entries) == (len(TAR), 5003, 7)
    assert facts.has_marks
    assert facts.is_self_contained
    assert not facts.has_deep_whiteouts
    assert not facts.cuts_stack
    assert not facts.has_duplicates
    assert facts.root is None


@pytest.mark.parametrize(("entries", "name"), [
    ([file("a/b")], "is_self_contained"), ([hardlink("a", "elsewhere")], "is_self_contained"),
    ([directory("a"), whiteout("a/b")], "has_deep_whiteouts"), ([opaque("")], "cuts_stack"),
    ([file("a"), file("a", b"2")], "has_duplicates"), ([directory("a"), opaque("a")], "has_marks"),
])
def test_facts_of_unusual_layers(layers: LayerStore, entries: list[Entry], name: str) -> None:
    tar = tar_of(entries)
    receive(layers, tar, Digest.of(tar))
    assert getattr(layers.facts(Digest.of(tar)), name) is (name != "is_self_contained")


def test_the_root_that_a_layer_lists(layers: LayerStore) -> None:
    tar = tar_of([directory("", mode=0o711, uid=1, gid=2, xattrs={"user.x": b"\0"})])
    receive(layers, tar, Digest.of(tar))
    root = layers.facts(Digest.of(tar)).root
    assert root is not None
    assert (root["mode"], root["uid"], root["gid"], root["xattrs"]) == (0o711, 1, 2, {"user.x": "00"})


@pytest.mark.parametrize("form", [Form.TAR, Form.EROFS])
def test_reading_from_a_tar(layers: LayerStore, form: Form) -> None:
    receive(layers, TAR, DIFF_ID, form)
    assert content(layers, DIFF_ID, "d/f") == b"first" * 1000
    assert content(layers, DIFF_ID, "d/empty") == b""
    assert content(layers, DIFF_ID, "last") == b"end"


def test_reading_from_a_tree(layers: LayerStore) -> None:
    tar = tar_of(LAYER[:-1])
    receive(layers, tar, Digest.of(tar), Form.TREE)
    assert not layers.tar(Digest.of(tar)).exists()
    assert content(layers, Digest.of(tar), "d/f") == b"first" * 1000
    assert content(layers, Digest.of(tar), "last") == b"end"


def test_a_tree_is_not_believed_about_replaced_files(layers: LayerStore, tmp_path: Path) -> None:
    """Two entries of one path and one size: only one of them has its bytes in the tree."""
    tar = tar_of([file("a", b"old"), file("a", b"new")])
    diff_id = Digest.of(tar)
    receive(layers, tar, diff_id, Form.TREE)
    with pytest.raises(LayerNotFound):
        layers.open_data(diff_id, layers.index(diff_id).entry(0))
    (tmp_path / "blob").write_bytes(compressed(tar, Compression.GZIP))
    with_blob = LayerStore(tmp_path, blob_of=lambda _diff_id: tmp_path / "blob")
    for number, expected in enumerate((b"old", b"new")):
        with with_blob.open_data(diff_id, layers.index(diff_id).entry(number)) as data:
            assert data.read() == expected


def test_a_tree_is_read_without_following_links(layers: LayerStore, tmp_path: Path) -> None:
    tar = tar_of(LAYER[:-1])
    receive(layers, tar, Digest.of(tar), Form.TREE)
    tree = layers.tree(Digest.of(tar), "single-user")
    (tmp_path / "secret").write_bytes(b"end")
    (tree / "last").unlink()
    os.symlink(tmp_path / "secret", tree / "last")
    with pytest.raises(LayerNotFound):
        content(layers, Digest.of(tar), "last")


def test_no_form_has_the_data(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID)
    layers.tar(DIFF_ID).unlink()
    with pytest.raises(LayerNotFound, match="d/f"):
        content(layers, DIFF_ID, "d/f")
    assert content(layers, DIFF_ID, "d/empty") == b""


@pytest.mark.parametrize("form", list(Form))
def test_the_exact_tar_again(layers: LayerStore, form: Form) -> None:
    tar = tar_of(LAYER[:-1])
    receive(layers, tar, Digest.of(tar), form)
    out = bytearray()
    layers.rebuild(Digest.of(tar), out.extend)
    assert bytes(out) == tar


def test_another_form_is_made_of_the_tar(layers: LayerStore) -> None:
    """What was inflated once is not inflated again: the stream is not even looked at."""
    tar = tar_of(LAYER[:-1])
    diff_id = Digest.of(tar)
    receive(layers, tar, diff_id)
    receive(layers, b"never read", diff_id, Form.TREE)
    assert layers.has(diff_id, Form.TREE, "single-user")
    assert layers.has(diff_id, Form.TAR)


def test_a_damaged_tar_is_not_made_into_another_form(layers: LayerStore) -> None:
    tar = tar_of(LAYER[:-1])
    diff_id = Digest.of(tar)
    receive(layers, tar, diff_id)
    for damage in (tar[:-1500], tar.replace(b"first", b"FIRST", 1), b"garbage" * 1000):
        layers.tar(diff_id).write_bytes(damage)
        shutil.rmtree(layers.directory(diff_id) / "trees", ignore_errors=True)
        receive(layers, tar, diff_id, Form.TREE)
        assert content(layers, diff_id, "d/f") == b"first" * 1000
        assert not layers.tar(diff_id).exists()


def test_a_damaged_tar_stays_while_there_is_nothing_better(layers: LayerStore) -> None:
    """Where a blob was dropped, the kept tar comes in its place: an image over it still has its other files."""
    tar = tar_of(LAYER[:-1])
    diff_id = Digest.of(tar)
    receive(layers, tar, diff_id)
    damaged = tar.replace(b"first", b"FIRST", 1)
    layers.tar(diff_id).write_bytes(damaged)
    with pytest.raises(DiffIDMismatch):
        receive(layers, damaged, diff_id, Form.TREE)
    assert layers.tar(diff_id).read_bytes() == damaged
    assert content(layers, diff_id, "last") == b"end"


def test_receiving_again_is_free(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID)
    before = layers.tar(DIFF_ID).stat()
    receive(layers, b"never read", DIFF_ID)
    assert layers.tar(DIFF_ID).stat() == before


@pytest.mark.parametrize("blob", [
    b"", b"x", TAR[:-1200], TAR[:700], TAR + b"more", compressed(TAR, Compression.GZIP)[:-20],
    compressed(TAR, Compression.ZSTD)[:-20], compressed(TAR, Compression.GZIP) + b"garbage",
])
def test_wrong_bytes_leave_nothing(layers: LayerStore, blob: bytes) -> None:
    for form in Form:
        with pytest.raises((ValueError, DiffIDMismatch)):
            receive(layers, blob, DIFF_ID, form)
        assert list(layers.walk()) == []
        assert list((layers.root / "layers").rglob(".*")) == []


def test_only_one_holds_a_layer(layers: LayerStore) -> None:
    claimed = layers.claim(DIFF_ID)
    assert claimed is not None
    with claimed:
        assert layers.claim(DIFF_ID, wait=False) is None
        assert layers.is_busy(DIFF_ID)
    assert not layers.is_busy(DIFF_ID)
    again = layers.claim(DIFF_ID, wait=False)
    assert again is not None
    again.close()


def test_asking_whether_it_is_busy_makes_nothing(layers: LayerStore) -> None:
    assert not layers.is_busy(DIFF_ID)
    assert not layers.directory(DIFF_ID).exists()


def test_accounts_are_what_removal_frees(layers: LayerStore) -> None:
    other = tar_of([file("x", os.urandom(50_000))])
    receive(layers, TAR, DIFF_ID)
    receive(layers, other, Digest.of(other), Form.EROFS)
    receive(layers, other, Digest.of(other), Form.TREE)
    usage = dict(layers.usage())
    assert usage.keys() == {DIFF_ID, Digest.of(other)}
    assert usage[Digest.of(other)] >= 100_000  # a tar and a tree
    assert layers.remove(Digest.of(other)) == usage[Digest.of(other)]
    assert layers.remove(DIFF_ID) == usage[DIFF_ID]
    assert list(layers.usage()) == []
    assert os.listdir(layers.root / "layers" / "sha256") == []


def test_check_finds_damage(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID)
    assert list(layers.check()) == []
    with open(layers.tar(DIFF_ID), "r+b") as tar:
        tar.seek(1600)
        tar.write(b"X")
    (finding,) = layers.check()
    assert finding.subject == DIFF_ID
    assert not finding.repaired
    (finding,) = layers.check(repair=True)
    assert finding.repaired
    assert list(layers.check()) == list(layers.walk()) == []


def test_check_finds_damage_in_a_tree(layers: LayerStore) -> None:
    tar = tar_of(LAYER[:-1])
    diff_id = Digest.of(tar)
    receive(layers, tar, diff_id, Form.TREE)
    assert list(layers.check()) == []
    (layers.tree(diff_id, "single-user") / "last").write_bytes(b"END")
    (finding,) = layers.check()
    assert "damaged" in finding.problem


def test_check_finds_a_damaged_index(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID, Form.TREE if os.geteuid() == 0 else Form.TAR)
    shutil.rmtree(layers.directory(DIFF_ID) / "trees", ignore_errors=True)
    layers.tar(DIFF_ID).unlink(missing_ok=True)
    path = layers.directory(DIFF_ID) / "index"
    path.write_bytes(path.read_bytes()[:-5])
    (finding,) = layers.check()
    assert "index" in finding.problem


def test_sweeping(layers: LayerStore) -> None:
    receive(layers, TAR, DIFF_ID)
    dead = layers.directory(DIFF_ID) / ".staging-0123"
    dead.mkdir()
    (dead / "junk").write_bytes(b"x" * 9000)
    unfinished = layers.directory(Digest.of(b"unfinished"))
    (unfinished / ".staging-4567").mkdir(parents=True)
    (unfinished / "tar").write_bytes(b"x" * 9000)
    doomed = layers.root / "layers" / "sha256" / ".removing-89ab"
    doomed.mkdir()
    (doomed / "junk").write_bytes(b"x" * 9000)
    found = list(layers.leftovers())
    assert {path for path, _size in found} == {dead, unfinished / ".staging-4567", unfinished / "tar", doomed}
    busy = layers.claim(DIFF_ID)
    assert busy is not None
    with busy:
        assert dead not in {path for path, _size in layers.leftovers()}
    assert layers.sweep() == sum(size for _path, size in found)
    assert os.listdir(layers.root / "layers" / "sha256") == [DIFF_ID.encoded]
    assert list(layers.leftovers()) == []
    assert layers.sweep() == 0
    assert content(layers, DIFF_ID, "last") == b"end"


def test_a_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with FileRange(tmp_path / "f", 3, 4) as part:
        assert part.read(2) == b"34"
        assert part.read() == b"56"
        assert part.read(1) == b""
    os.symlink("f", tmp_path / "link")
    with pytest.raises(OSError, match="symbolic links"):
        FileRange(tmp_path / "link", 0, 1)
