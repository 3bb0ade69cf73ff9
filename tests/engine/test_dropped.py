"""Blobs that a registry keeps: what goes, what stays, what does without them, and what fetches them again."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.content.catalog import LayerFacts
from lamina.content.dropped import DroppedBlob
from lamina.content.lease import Lease
from lamina.engine.dropping import DropResult
from lamina.engine.engine import Engine
from lamina.engine.origins import NoLongerServed, OriginRefuses, OriginUnreachable
from lamina.engine.refetching import RefetchingStore
from lamina.engine.settings import DROP
from lamina.errors import IntegrityError
from lamina.events import Action, Event
from lamina.http.message import Headers, Request, Response
from lamina.layer.compress import Compression
from lamina.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from lamina.oci.digest import Digest
from lamina.testing.images import directory, file, make_image, make_layer, whiteout
from lamina.values import replace

BASE = make_layer([directory("etc"), file("etc/passwd", b"root\n"), file("etc/secret", b"hunter2hunter2"),
                   directory("usr"), file("usr/big", os.urandom(300_000))])
TOP = make_layer([directory("etc"), whiteout("etc/secret"), file("etc/motd", b"hello\n")])
IMAGE = make_image([BASE, TOP], execution={"Cmd": ["sh"]})
DIGESTS = [layer.descriptor.digest for layer in IMAGE.layers]


@pytest.fixture
def name(registry: Registry) -> str:
    IMAGE.put(registry.repository("team/app"), "1")
    return f"{registry.host}/team/app:1"


@pytest.fixture
def other_registry() -> Iterator[Registry]:
    running = Registry()
    yield running
    running.close()


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """One that does not wait for a registry that is down to come back."""
    engine.settings = replace(engine.settings, max_download_attempts=1)
    return engine


@pytest.fixture
def dropping(engine: Engine) -> Engine:
    engine.settings = replace(engine.settings, blobs=DROP)
    return engine


def read(engine: Engine, name: str, path: str, **options: int) -> bytes:
    with engine.cat(name, path, **options) as stream:
        return stream.read()


def here(engine: Engine) -> set[Digest]:
    """Layers' blobs that have a file."""
    return {digest for digest in DIGESTS if engine.store.blob_path(digest).exists()}


def away(engine: Engine) -> list[Digest]:
    return [blob.digest for blob in engine.dropped_blobs()]


def problems(engine: Engine, **options: bool) -> list[str]:
    return [f"{finding.subject}: {finding.problem}" for finding in engine.check(**options)]


def asked(registry: Registry, method: str = "GET") -> list[str]:
    return [url.rpartition("/")[2] for how, url in registry.requests if how == method and "/blobs/" in url]


def unserved(registry: Registry, digest: Digest, status: int = 404) -> None:
    def twist(request: Request, response: Response) -> Response:
        if not request.url.endswith(f"/blobs/{digest}"):
            return response
        response.close()
        return Response(status=status, headers=Headers(), body=io.BytesIO())

    registry.twist = twist


# -- what goes


def test_a_pull_keeps_blobs_unless_it_is_told_not_to(engine: Engine, name: str) -> None:
    engine.pull(name)
    assert here(engine) == set(DIGESTS)
    assert away(engine) == []


def test_a_pull_that_drops(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    assert here(dropping) == set()
    assert sorted(away(dropping)) == sorted(DIGESTS)
    for blob in dropping.dropped_blobs():
        assert blob.repository == f"{registry.host}/team/app"
        assert blob.compression == "gzip"
        assert blob.descriptor.size == next(
            layer.descriptor.size for layer in IMAGE.layers if layer.descriptor.digest == blob.digest
        )
    assert asked(registry, "HEAD") == []  # what was fetched a moment ago is served
    assert problems(dropping) == problems(dropping, online=True) == []


def test_nothing_of_it_is_fetched_by_another_pull(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    registry.requests.clear()
    (again,) = dropping.pull(name)
    assert not again.is_new
    other = make_image([BASE, make_layer({"new": b"n" * 1000})])
    other.put(registry.repository("team/other"), "1")
    dropping.pull(f"{registry.host}/team/other:1")
    assert set(asked(registry)) == {other.config.digest, other.layers[1].descriptor.digest}
    assert read(dropping, f"{registry.host}/team/other:1", "/etc/passwd") == b"root\n"
    assert problems(dropping) == []


def test_pulls_say_that_layers_exist(dropping: Engine, registry: Registry, name: str, events: list[Event]) -> None:
    dropping.pull(name)
    events.clear()
    dropping.pull(name)
    assert [event.subject for event in events if event.action is Action.EXISTS] == DIGESTS


PLAIN = make_image([make_layer({"a": b"1" * 5000}, compression=Compression.NONE)])


def test_a_plain_blob_is_made_again_and_never_fetched(
    dropping: Engine, registry: Registry, other_registry: Registry
) -> None:
    PLAIN.put(registry.repository("plain"), "1")
    name = f"{registry.host}/plain:1"
    dropping.pull(name)
    assert away(dropping) == [PLAIN.layers[0].descriptor.digest]
    registry.close()
    dropping.tag(name, f"{other_registry.host}/mine:1")
    dropping.push(f"{other_registry.host}/mine:1")
    assert len(list(other_registry.repository("mine").names())) == 1
    assert len(dropping.fetch_blobs(name)) == 1
    assert problems(dropping) == []


def test_documents_and_tars_with_two_names_stay(dropping: Engine, registry: Registry) -> None:
    """A plain blob that was here before it was unpacked is the tar itself: to drop it would free nothing."""
    PLAIN.put(registry.repository("plain"), "1")
    dropping.store.put_bytes("", PLAIN.layers[0].blob)
    dropping.pull(f"{registry.host}/plain:1")
    assert away(dropping) == []
    result = dropping.drop_blobs(f"{registry.host}/plain:1")
    assert ["takes no room" in kept.reason for kept in result.kept] == [True]
    for digest in (PLAIN.config.digest, PLAIN.descriptor.digest):
        assert dropping.store.blob_path(digest).exists()


def test_zstd_too(dropping: Engine, registry: Registry) -> None:
    image = make_image([make_layer({"a": b"1" * 5000}, compression=Compression.ZSTD)])
    image.put(registry.repository("zstd"), "1")
    dropping.pull(f"{registry.host}/zstd:1")
    assert [blob.compression for blob in dropping.dropped_blobs()] == ["zstd"]
    sink = io.BytesIO()
    dropping.save([f"{registry.host}/zstd:1"], sink)
    assert away(dropping) == [image.layers[0].descriptor.digest]


def test_drop_and_fetch_of_what_is_here(engine: Engine, registry: Registry, name: str) -> None:
    engine.pull(name)
    before = {digest: engine.store.blob_path(digest).read_bytes() for digest in DIGESTS}
    result = engine.drop_blobs(name)
    assert sorted(blob.digest for blob in result.dropped) == sorted(DIGESTS)
    assert result.kept == ()
    assert result.freed >= 300_000
    assert sorted(asked(registry, "HEAD")) == sorted(DIGESTS)
    assert engine.drop_blobs(name) == replace(result, dropped=(), freed=0)
    assert sorted(blob.digest for blob in engine.fetch_blobs(name)) == sorted(DIGESTS)
    assert {digest: engine.store.blob_path(digest).read_bytes() for digest in DIGESTS} == before
    assert away(engine) == []
    assert engine.store.dropped.walk() == []
    assert engine.fetch_blobs(name) == ()


def test_all_images(engine: Engine, name: str) -> None:
    engine.pull(name)
    assert len(engine.drop_blobs().dropped) == 2


# -- what stays


def test_what_no_registry_serves_stays(engine: Engine, registry: Registry, name: str) -> None:
    engine.pull(name)
    unserved(registry, DIGESTS[0])
    (kept,) = engine.drop_blobs(name).kept
    assert (kept.digest, kept.reason) == (DIGESTS[0], "no registry serves it any more")
    assert here(engine) == {DIGESTS[0]}


def test_a_registry_that_is_down_drops_nothing(engine: Engine, registry: Registry, name: str) -> None:
    engine.pull(name)
    registry.close()
    result = engine.drop_blobs(name)
    assert result.dropped == ()
    assert [kept.reason.partition(":")[0] for kept in result.kept] == ["nobody could be asked for it"] * 2
    assert here(engine) == set(DIGESTS)


def test_what_was_loaded_stays(dropping: Engine, tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    other = open_engine("other")
    IMAGE.put(other.store, "docker.io/library/app:1")
    with (tmp_path / "saved.tar").open("wb") as out:
        other.save(["app:1"], out)
    dropping.load(tmp_path / "saved.tar")
    result = dropping.drop_blobs("app:1")
    assert [kept.reason for kept in result.kept] == ["no registry is known to have it"] * 2
    assert here(dropping) == set(DIGESTS)


def test_what_is_leased_stays(engine: Engine, name: str) -> None:
    engine.pull(name)
    with Lease(engine.store.state, "a test") as lease:
        lease.hold([DIGESTS[1]])
        (kept,) = engine.drop_blobs(name).kept
        assert (kept.digest, kept.reason) == (DIGESTS[1], "in use")
    assert here(engine) == {DIGESTS[1]}
    assert [blob.digest for blob in engine.store.dropped.walk()] == [DIGESTS[0]]


def test_a_damaged_tar_makes_up_for_nothing(engine: Engine, name: str) -> None:
    engine.pull(name)
    damage(engine.layers_store.tar(BASE.diff_id))
    (kept,) = engine.drop_blobs(name).kept
    assert kept.digest == DIGESTS[0]
    assert "does not give all of its bytes again" in kept.reason


def test_a_layer_that_is_not_unpacked_keeps_its_blob(engine: Engine, name: str) -> None:
    engine.pull(name)
    engine.layers_store.tar(BASE.diff_id).unlink()
    (kept,) = engine.drop_blobs(name).kept
    assert kept.digest == DIGESTS[0]


def damage(path: Path) -> None:
    with path.open("r+b") as tar:
        tar.seek(600)
        byte = tar.read(1)
        tar.seek(600)
        tar.write(bytes([byte[0] ^ 1]))


# -- what does without


@pytest.fixture
def offline(dropping: Engine, registry: Registry, name: str) -> str:
    dropping.pull(name)
    registry.close()
    return name


def test_questions_do_without(dropping: Engine, offline: str) -> None:
    assert read(dropping, offline, "/etc/motd") == b"hello\n"
    assert read(dropping, offline, "/etc/secret", layer=0) == b"hunter2hunter2"
    assert [row.path for row in dropping.ls(offline, "/etc")] == ["etc/motd", "etc/passwd"]
    assert dropping.blame(offline, "/etc/motd").layer == 1
    assert [each.path for each in dropping.obscured(offline)] == ["etc/secret"]
    assert dropping.waste(offline).total_bytes > 300_000
    assert dropping.du(offline)[0].bytes > 0
    assert [layer.compressed for layer in dropping.layers(offline)] == [
        layer.descriptor.size for layer in IMAGE.layers]
    leaks = dropping.secrets(offline)
    assert (leaks.leaks, leaks.undecided) == ((), ())
    assert leaks.bytes_searched > 300_000
    assert dropping.report_page(offline).startswith("<!doctype html>")
    assert [found["DroppedFrom"] for found in dropping.inspect(offline)["Layers"]] == [
        offline.removesuffix(":1")] * 2
    sink = io.BytesIO()
    dropping.export(offline, sink)
    assert b"hello\n" in sink.getvalue()


def test_comparing_and_squashing_do_without(dropping: Engine, offline: str, open_engine: Callable[..., Engine]) -> None:
    from lamina.engine.merging import SquashOptions

    dropping.squash(offline, "flat:1", options=SquashOptions(is_all=True))
    assert read(dropping, "flat:1", "/etc/motd") == b"hello\n"
    assert dropping.diff(offline, "flat:1").files == ()
    with pytest.raises(OriginUnreachable):
        dropping.save([offline], io.BytesIO())
    sink = io.BytesIO()
    dropping.save(["flat:1"], sink)
    sink.seek(0)
    assert open_engine("other").load(sink) == ("flat:1",)


def test_the_certificate_says_what_it_did_not_see(dropping: Engine, offline: str) -> None:
    found = dropping.verify_erased(offline, secrets={"password": b"hunter2hunter2"}, image_only=True)
    assert found.verdict == "found"
    assert [finding.path for finding in found.searched.findings] == ["/etc/secret"]
    clean = dropping.verify_erased(offline, secrets={"password": b"not in there at all"}, image_only=True)
    assert clean.verdict == "clean"
    assert [gap.layer for gap in clean.searched.not_searched] == [0, 1]
    assert all("dropped here" in gap.reason for gap in clean.searched.not_searched)
    assert [layer.tar_bytes for layer in clean.searched.images[0].layers] == [len(BASE.tar), len(TOP.tar)]


def test_dropped_layers_of_other_images_are_searched_too(dropping: Engine, offline: str) -> None:
    make_image([{"a": b"1"}]).put(dropping.store, "docker.io/library/mine:1")
    found = dropping.verify_erased("mine:1", secrets={"password": b"hunter2hunter2"}, everywhere=True)
    assert found.verdict == "found"
    assert found.elsewhere is not None
    assert [each.subject for each in found.elsewhere] == [DIGESTS[0]]


def test_accounts(dropping: Engine, offline: str) -> None:
    rows = {row.type: row for row in dropping.usage()}
    assert (rows["Dropped Blobs"].total, rows["Dropped Blobs"].size) == (2, 0)
    (row,) = dropping.image_usage()
    assert row.dropped == sum(layer.descriptor.size for layer in IMAGE.layers)
    assert dropping.info()["DroppedBlobs"] == 2


def test_a_snapshot_is_made_again_of_the_tars(dropping: Engine, offline: str) -> None:
    from lamina.engine.landing import unpack_present

    image = dropping.image(offline)
    dropping.driver.remove(str(image.chain_ids[-1]))
    unpack_present(dropping, image)
    assert dropping.driver.stat(str(image.chain_ids[-1])).diff_id == TOP.diff_id


# -- what fetches


def test_push_elsewhere_passes_it_on(
    dropping: Engine, registry: Registry, name: str, other_registry: Registry
) -> None:
    dropping.pull(name)
    dropping.tag(name, f"{other_registry.host}/mine:1")
    dropping.push(f"{other_registry.host}/mine:1")
    repository = other_registry.repository("mine")
    assert repository.resolve("1").digest == IMAGE.descriptor.digest
    for layer in IMAGE.layers:
        assert repository.open(layer.descriptor).read() == layer.blob
    assert here(dropping) == set()  # it passed through


def test_push_to_the_same_registry_mounts(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    registry.requests.clear()
    dropping.tag(name, f"{registry.host}/copy:1")
    dropping.push(f"{registry.host}/copy:1")
    assert asked(registry) == []
    assert sum("mount=" in url for _how, url in registry.requests) == 3
    assert registry.repository("copy").resolve("1").digest == IMAGE.descriptor.digest


def test_push_where_it_is_already_asks_nobody_else(
    dropping: Engine, registry: Registry, name: str, other_registry: Registry
) -> None:
    IMAGE.put(other_registry.repository("mine"), "0")
    dropping.pull(name)
    registry.close()
    dropping.tag(name, f"{other_registry.host}/mine:1")
    dropping.push(f"{other_registry.host}/mine:1")
    assert other_registry.repository("mine").resolve("1").digest == IMAGE.descriptor.digest


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_is_the_same_archive(
    dropping: Engine, open_engine: Callable[..., Engine], name: str, form: str
) -> None:
    keeping = open_engine("keeping")
    archives = []
    for each in (dropping, keeping):
        each.pull(name)
        archives.append(io.BytesIO())
        each.save([name], archives[-1], form=form)
    assert archives[0].getvalue() == archives[1].getvalue()
    assert (here(dropping), here(keeping)) == (set(), set(DIGESTS))


def test_a_squashed_image_goes_to_a_layout_with_its_base(
    dropping: Engine, name: str, registry: Registry, tmp_path: Path
) -> None:
    from lamina.engine.merging import SquashOptions

    image = make_image([BASE, TOP, make_layer({"x": b"1"})])
    image.put(registry.repository("team/app"), "2")
    dropping.pull(f"{registry.host}/team/app:2")
    dropping.squash(f"{registry.host}/team/app:2", f"oci:{tmp_path / 'out'}:1", options=SquashOptions(first="1"))
    assert (tmp_path / "out" / "blobs" / "sha256" / DIGESTS[0].encoded).read_bytes() == BASE.blob
    assert here(dropping) == set()


def test_serve_passes_it_on(dropping: Engine, name: str, open_engine: Callable[..., Engine]) -> None:
    dropping.pull(name)
    with dropping.serve(port=0) as server:
        served = name.partition("/")[2]
        host = server.url.removeprefix("http://")
        other = open_engine("other")
        other.pull(f"{host}/{served}")
        assert here(other) == set(DIGESTS)
        assert other.image(f"{host}/{served}").id == IMAGE.config.digest
    assert here(dropping) == set()


def put_away(engine: Engine, repository: str) -> None:
    """As when they were dropped before the registry that we are now began; nobody else has them."""
    engine.store.catalog.forget_layers(DIGESTS)
    engine.store.dropped.add([
        DroppedBlob(descriptor=layer.descriptor, diff_id=layer.diff_id, compression="gzip", repository=repository,
                    dropped=0.0)
        for layer in IMAGE.layers
    ])
    for digest in DIGESTS:
        engine.store.delete(digest)


@pytest.fixture
def circle(engine: Engine, name: str, open_engine: Callable[..., Engine]) -> Iterator[Engine]:
    """One that has an image from another one, which dropped its blobs and has them from the first."""
    other = open_engine("other")
    other.settings = engine.settings
    engine.pull(name)
    with engine.serve(port=0) as theirs, other.serve(port=0) as ours:
        other.pull(f"{theirs.url.removeprefix('http://')}/team/app:1")
        put_away(engine, f"{ours.url.removeprefix('http://')}/team/app")
        yield other


def test_two_that_rely_on_each_other_do_not_both_drop(circle: Engine, engine: Engine) -> None:
    """The other one would pass on to us what it is asked."""
    assert [blob.reason for blob in circle.drop_blobs().kept] == ["no registry serves it any more"] * len(DIGESTS)
    assert here(circle) == set(DIGESTS)
    engine.fetch_blobs(engine.images()[0].id)
    assert here(engine) == set(DIGESTS)


def test_a_question_that_goes_in_a_circle_ends(circle: Engine) -> None:
    (origin,) = {name for digest in DIGESTS for name in circle.store.catalog.origins(digest)}
    put_away(circle, origin)
    with pytest.raises(NoLongerServed):
        circle.fetch_blobs(circle.images()[0].id)


def test_the_last_resort_is_the_registry(dropping: Engine, name: str) -> None:
    """Somebody removed the tar: reading a file brings the blob back."""
    dropping.pull(name)
    dropping.layers_store.tar(BASE.diff_id).unlink()
    assert read(dropping, name, "/etc/passwd") == b"root\n"
    assert here(dropping) == {DIGESTS[0]}
    assert away(dropping) == [DIGESTS[1]]


def test_an_incomplete_layer_is_pulled_again(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    dropping.layers_store.remove(BASE.diff_id)
    registry.requests.clear()
    dropping.pull(name)
    assert asked(registry) == [DIGESTS[0]]
    assert sorted(away(dropping)) == sorted(DIGESTS)
    assert problems(dropping) == []


# -- what goes wrong


def test_no_longer_served(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    unserved(registry, DIGESTS[0])
    sentence = f"{DIGESTS[0]}: was dropped here, and {name.removesuffix(':1')} no longer serves it; "
    with pytest.raises(NoLongerServed, match=sentence):
        dropping.fetch_blobs(name)
    out = io.BytesIO()
    with pytest.raises(NoLongerServed, match=sentence):
        dropping.save([name], out)
    assert out.getvalue() == b""
    assert problems(dropping) == []
    (problem,) = problems(dropping, online=True)
    assert problem.startswith(sentence)


def test_refused(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    unserved(registry, DIGESTS[0], status=403)
    with pytest.raises(OriginRefuses, match="`lamina login "):
        dropping.fetch_blobs(name)


def test_wrong_bytes_are_not_taken(dropping: Engine, registry: Registry, name: str, other_registry: Registry) -> None:
    dropping.pull(name)
    blob = IMAGE.layers[0].blob

    def twist(request: Request, response: Response) -> Response:
        if request.method != "GET" or not request.url.endswith(f"/blobs/{DIGESTS[0]}"):
            return response
        response.close()
        wrong = blob[:-1] + bytes([blob[-1] ^ 1])
        return Response(status=200, headers=Headers([("Content-Length", str(len(wrong)))]), body=io.BytesIO(wrong))

    registry.twist = twist
    with pytest.raises(IntegrityError):
        dropping.fetch_blobs(name)
    assert DIGESTS[0] not in here(dropping)
    dropping.tag(name, f"{other_registry.host}/mine:1")
    with pytest.raises(IntegrityError):
        dropping.push(f"{other_registry.host}/mine:1")
    assert list(other_registry.repository("mine").names()) == []
    assert problems(dropping) == []


def test_repair_fetches_before_it_removes(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    damage(dropping.layers_store.tar(BASE.diff_id))
    (problem,) = problems(dropping)
    assert problem.startswith(f"{BASE.diff_id}: unpacked layer is damaged")
    unserved(registry, DIGESTS[0])
    (finding,) = dropping.check(repair=True)
    assert not finding.repaired
    assert "it stays, since" in finding.problem
    assert dropping.layers_store.tar(BASE.diff_id).exists()
    registry.twist = None
    (finding,) = dropping.check(repair=True)
    assert finding.repaired
    assert problems(dropping) == []
    assert read(dropping, name, "/etc/passwd") == b"root\n"


# -- the end


def test_removing_the_image_forgets_it(dropping: Engine, name: str) -> None:
    dropping.pull(name)
    dropping.remove(name)
    assert dropping.store.dropped.walk() == []
    assert dropping.store.catalog.origins(DIGESTS[0]) == []
    assert list(dropping.store.walk()) == []
    assert list(dropping.layers_store.walk()) == []


def test_what_another_image_needs_is_remembered(dropping: Engine, registry: Registry, name: str) -> None:
    make_image([BASE]).put(registry.repository("base"), "1")
    dropping.pull(name)
    dropping.pull(f"{registry.host}/base:1")
    dropping.remove(name)
    assert away(dropping) == [DIGESTS[0]]
    dropping.prune(all_images=True)
    assert dropping.store.dropped.walk() == []


def test_a_row_whose_blob_is_here_says_nothing(dropping: Engine, name: str) -> None:
    """As after a death between the row and the unlink, or between landing and the row's end."""
    dropping.pull(name)
    rows = dropping.store.dropped.walk()
    dropping.fetch_blobs(name)
    dropping.store.dropped.add(rows)
    assert away(dropping) == []
    assert problems(dropping) == []
    assert "DroppedFrom" not in dropping.inspect(name)["Layers"][0]
    assert len(dropping.drop_blobs(name).dropped) == 2


def test_an_older_state_is_taken_over(tmp_path: Path, open_engine: Callable[..., Engine]) -> None:
    first = open_engine("older")
    first.store.state.connection.execute("DROP TABLE dropped")
    first.store.state.connection.execute("PRAGMA user_version=3")
    first.close()
    assert open_engine("older").dropped_blobs() == ()


# -- many at once

_DROPPER = """
import sys
from lamina.engine.engine import Engine
with Engine.open(sys.argv[1]) as engine:
    for _turn in range(12):
        engine.pull(sys.argv[2])
        engine.drop_blobs(sys.argv[2])
"""
_FETCHER = """
import io, sys
from lamina.engine.engine import Engine
with Engine.open(sys.argv[1]) as engine:
    sizes = set()
    for _turn in range(12):
        engine.fetch_blobs(sys.argv[2])
        sink = io.BytesIO()
        engine.save([sys.argv[2]], sink)
        sizes.add(len(sink.getvalue()))
assert len(sizes) == 1, sizes
"""


def test_a_blob_that_somebody_else_drops_at_this_moment(
    engine: Engine, name: str, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that a third one is about to fetch when the rows are looked at."""
    engine.pull(name)
    other = open_engine()
    add = engine.store.dropped.add

    def dropped_by_now(blobs: Iterable[DroppedBlob]) -> None:
        other.drop_blobs(name)
        lease.hold(DIGESTS)
        add(blobs)

    with Lease(other.store.state, "fetch") as lease, monkeypatch.context() as patch:
        patch.setattr(engine.store.dropped, "add", dropped_by_now)
        engine.drop_blobs(name)
    assert sorted(away(engine)) == sorted(DIGESTS)
    assert problems(engine) == []


def test_a_blob_that_somebody_else_drops_before_it_is_looked_at(
    engine: Engine, name: str, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.pull(name)
    other = open_engine()
    look = engine.store.catalog.layer

    def dropped_by_now(digest: Digest) -> LayerFacts | None:
        other.drop_blobs(name)
        return look(digest)

    with monkeypatch.context() as patch:
        patch.setattr(engine.store.catalog, "layer", dropped_by_now)
        assert engine.drop_blobs(name) == DropResult(dropped=(), kept=(), freed=0)
    assert sorted(away(engine)) == sorted(DIGESTS)


def test_a_blob_that_somebody_else_fetches_at_this_moment(
    dropping: Engine, name: str, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for its file and the look for its row."""
    dropping.pull(name)
    other = open_engine()
    layer = IMAGE.layers[0]
    look = dropping.store.dropped_blob

    def fetched_by_now(digest: Digest) -> DroppedBlob | None:
        other.fetch_blobs(name)
        return look(digest)

    def is_there() -> bool:
        return RefetchingStore(dropping).has(layer.descriptor)

    def reads() -> bool:
        with RefetchingStore(dropping).open(layer.descriptor) as stream:
            return stream.read() == BASE.blob

    for ask in (is_there, reads):
        dropping.drop_blobs(name)
        with monkeypatch.context() as patch:
            patch.setattr(dropping.store, "dropped_blob", fetched_by_now)
            assert ask()


def test_droppers_and_fetchers_at_once(dropping: Engine, name: str, tmp_path: Path) -> None:
    """Whoever holds a blob keeps it; whoever comes too late fetches it."""
    dropping.pull(name)
    environment = {**os.environ, "HOME": str(tmp_path), "LAMINA_STORAGE_DRIVER": "vfs",
                   "LAMINA_BLOBS": "drop-refetchable"}
    running = [
        subprocess.Popen([sys.executable, "-c", code, dropping.root, name], env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for code in (_DROPPER, _FETCHER, _FETCHER, _DROPPER)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4, "\n".join(said)
    assert problems(dropping) == []
    assert here(dropping) | set(away(dropping)) == set(DIGESTS)


def test_prune_forgets_what_a_killed_removal_left(engine: Engine) -> None:
    """Files go before the transaction that forgets them ends: rows alone may be left."""
    digest = Digest.of(b"no blob")
    blob = DroppedBlob(
        descriptor=Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=7), diff_id=digest,
        compression="gzip", repository="registry.test/app", dropped=1.0,
    )
    engine.store.dropped.add([blob])
    assert engine.dropped_blobs() == (blob,)
    engine.prune()
    assert engine.store.dropped.walk() == []
