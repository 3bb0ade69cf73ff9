"""One mover for every copy: leaves first, root last, nothing twice, first error stops all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import pytest

from lamina.content.copy import GraphTooDeep, copy_graph, plan_copy
from lamina.content.local import LocalStore
from lamina.content.memory import MemoryStore
from lamina.content.store import DigestMismatch, DocumentTooLarge, SizeMismatch, VerifyingReader, read_all
from lamina.events import Action, Event
from lamina.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest

AMD64 = Platform(os="linux", architecture="amd64")


def describe(data: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))


def put(store: MemoryStore, data: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    wanted = describe(data, media_type)
    store.put(wanted, io.BytesIO(data))
    return wanted


def make_image(store: MemoryStore, layers: list[bytes]) -> Descriptor:
    config = put(store, b'{"layers": %d}' % len(layers), OCI_CONFIG)
    manifest = Manifest.build(config, [put(store, layer) for layer in layers])
    return put(store, manifest.raw, manifest.media_type)


def make_index(store: MemoryStore, *children: Descriptor) -> Descriptor:
    index = Index.build(children)
    return put(store, index.raw, index.media_type)


@pytest.fixture(params=["memory", "local"])
def target(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "memory":
        yield MemoryStore()
        return
    store = LocalStore.create(tmp_path / "root", platform=AMD64)
    yield store
    store.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_reachable_arrives(target, workers: int) -> None:
    source = MemoryStore()
    root = make_index(source, make_image(source, [b"a", b"b"]), make_image(source, [b"a", b"c" * 3_000_000]))
    copy_graph(source, target, root, workers=workers)
    assert dict(target.walk()) == dict(source.walk())


def test_a_second_copy_moves_nothing(target) -> None:
    source = MemoryStore()
    root = make_image(source, [b"a", b"b"])
    copy_graph(source, target, root)
    events: list[Event] = []
    copy_graph(source, target, root, report=events.append)
    assert {event.action for event in events} == {Action.EXISTS}
    assert len(events) == 3


def test_choose_leaves_siblings_behind(target) -> None:
    source = MemoryStore()
    wanted, other = make_image(source, [b"a"]), make_image(source, [b"b"])
    root = make_index(source, wanted, other)
    copy_graph(source, target, root, choose=lambda parent, children: (
        [wanted] if parent.media_type == OCI_INDEX else children))
    assert target.has(root)
    assert target.has(wanted)
    assert not target.has(other)
    assert not target.has(describe(b"b"))


def test_observers_see_each_leaf_from_its_first_byte_or_whole(tmp_path: Path) -> None:
    source = MemoryStore()
    root = make_image(source, [b"a", b"b"])
    store = LocalStore.create(tmp_path / "root", platform=AMD64)
    seen: list[tuple[Digest, bool]] = []
    for _time in range(2):
        copy_graph(source, store, root, observe=lambda leaf, arrival: seen.append(
            (leaf.digest, arrival.is_complete)), workers=1)
    leaves = [leaf.digest for leaf in plan_copy(source, root).leaves]
    assert seen == [(leaf, False) for leaf in leaves] + [(leaf, True) for leaf in leaves]
    store.close()


class Lying(MemoryStore):
    """Answers one digest with other bytes."""

    def __init__(self, lie_about: Digest, answer: bytes) -> None:
        super().__init__()
        self.lie_about, self.answer = lie_about, answer

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        if wanted.digest == self.lie_about:
            return io.BytesIO(self.answer[offset:])
        return super().open_at(wanted, offset)


@pytest.mark.parametrize(
    ("answer", "error"), [(b"bbB", DigestMismatch), (b"bb", SizeMismatch), (b"bbbb", SizeMismatch)]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_one_lie_fails_the_copy_and_the_root_stays_out(target, answer, error, workers) -> None:
    source = Lying(Digest.of(b"bbb"), answer)
    root = make_image(source, [b"aaa", b"bbb", b"ccc"])
    with pytest.raises(error):
        copy_graph(source, target, root, workers=workers)
    assert not target.has(root)
    assert not target.has(describe(b"bbb"))


def test_a_partial_blob_is_finished_by_range(tmp_path: Path) -> None:
    asked: list[int] = []

    class Recording(MemoryStore):
        def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
            asked.append(offset)
            return super().open_at(wanted, offset)

    source = Recording()
    data = bytes(range(256)) * 10_000
    root = make_image(source, [data])
    store = LocalStore.create(tmp_path / "root", platform=AMD64)
    with pytest.raises(ConnectionError), store.begin(describe(data)) as ingest:
        ingest.write(data[:1_000_000])
        raise ConnectionError
    asked.clear()
    copy_graph(source, store, root, workers=1)
    assert 1_000_000 in asked
    assert store.has(root)
    store.close()


def test_a_chain_of_indexes_has_an_end() -> None:
    source = MemoryStore()
    root = make_image(source, [b"a"])
    for _level in range(12):
        root = make_index(source, root)
    with pytest.raises(GraphTooDeep, match="nested deeper"):
        plan_copy(source, root)


def test_a_document_over_the_cap_is_refused_before_it_is_read() -> None:
    source = MemoryStore()
    huge = Descriptor(media_type=OCI_INDEX, digest=Digest.of(b"x"), size=5 << 20)
    with pytest.raises(DocumentTooLarge, match="over the limit"):
        plan_copy(source, huge)


@pytest.mark.parametrize("sizes", [[1, 2, 3], [1 << 20], [7, -1]])
def test_the_verifying_reader_agrees_however_it_is_read(sizes: list[int]) -> None:
    data = b"0123456789"
    reader = VerifyingReader(describe(data), io.BytesIO(data))
    parts = [reader.read(size) for size in sizes] + [reader.read()]
    assert b"".join(parts) == data


def test_a_short_stream_is_noticed_at_its_end() -> None:
    reader = VerifyingReader(describe(b"0123456789"), io.BytesIO(b"012345678"))
    with pytest.raises(SizeMismatch, match="expected 10 bytes, got 9"):
        reader.read()


def test_read_all_checks_the_digest() -> None:
    source = Lying(Digest.of(b"abc"), b"abd")
    with pytest.raises(DigestMismatch):
        read_all(source, describe(b"abc"), 100)
