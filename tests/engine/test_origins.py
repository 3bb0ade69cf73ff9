"""Repositories that dropped blobs come back from: silent, lying, or the one of several that is left."""

from __future__ import annotations

import http.client
import io
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.engine.dropping import drop_pulled
from lamina.engine.engine import Engine
from lamina.engine.origins import NoLongerServed, OriginLies, OriginUnreachable
from lamina.engine.settings import DROP
from lamina.http.message import Headers, Request, Response
from lamina.oci.digest import Digest
from lamina.registry.retry import Patience
from lamina.testing.images import directory, file, make_image, make_layer
from lamina.values import replace

BASE = make_layer([directory("etc"), file("etc/passwd", b"root\n"), directory("usr"), file("usr/big", b"b" * 300_000)])
TOP = make_layer([directory("etc"), file("etc/motd", b"hello\n")])
IMAGE = make_image([BASE, TOP])
DIGESTS = sorted(layer.descriptor.digest for layer in IMAGE.layers)


@pytest.fixture
def name(registry: Registry) -> str:
    IMAGE.put(registry.repository("team/app"), "1")
    return f"{registry.host}/team/app:1"


@pytest.fixture
def second() -> Iterator[Registry]:
    """Another that has the same."""
    running = Registry()
    IMAGE.put(running.repository("copy"), "1")
    yield running
    running.close()


@pytest.fixture
def dropping(engine: Engine) -> Engine:
    engine.settings = replace(engine.settings, blobs=DROP, max_download_attempts=1)
    return engine


def knows(engine: Engine, registry: Registry) -> None:
    engine.store.catalog.learn_origin(DIGESTS, f"{registry.host}/copy")


def answers(registry: Registry, status: int) -> None:
    """To each question about a blob."""

    def twist(request: Request, response: Response) -> Response:
        if "/blobs/" not in request.url:
            return response
        response.close()
        return Response(status=status, headers=Headers(), body=io.BytesIO())

    registry.twist = twist


def lies(registry: Registry) -> None:
    """Each blob has its last bit turned, and its right size."""

    def twist(request: Request, response: Response) -> Response:
        if request.method != "GET" or "/blobs/" not in request.url:
            return response
        blob = bytearray(response.read())
        response.close()
        blob[-1] ^= 1
        return Response(status=200, headers=Headers([("Content-Length", str(len(blob)))]), body=io.BytesIO(bytes(blob)))

    registry.twist = twist


class Sleeping(io.BytesIO):
    def __init__(self, awake: threading.Event, begin: bytes) -> None:
        super().__init__(begin)
        self._awake = awake

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(size)
        if not chunk:
            self._awake.wait(100)
        return chunk


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``stalls(registry, part)``: sends this part of each blob and nothing more, not even a head if 0."""
    monkeypatch.setattr("lamina.engine.origins.HASTE", Patience(attempts=1, silence=0.3))
    awake = threading.Event()

    def stall(registry: Registry, part: float, times: int = 1000, method: str = "GET") -> None:
        left = [times]

        def twist(request: Request, response: Response) -> Response:
            if request.method != method or "/blobs/" not in request.url or left[0] == 0:
                return response
            left[0] -= 1
            blob = response.read()
            response.close()
            if not part:
                awake.wait(100)
            body = Sleeping(awake, blob[: int(len(blob) * part)])
            return Response(status=200, headers=Headers([("Content-Length", str(len(blob)))]), body=body)

        registry.twist = twist

    yield stall
    awake.set()


def asked(registry: Registry) -> int:
    return len([url for method, url in registry.requests if method == "GET" and "/blobs/" in url])


def here(engine: Engine) -> list[Digest]:
    return [digest for digest in DIGESTS if engine.store.blob_path(digest).exists()]


# -- the question whether all is well


@pytest.mark.parametrize("status", [401, 403, 500])
def test_who_gives_no_answer_is_named_once(dropping: Engine, registry: Registry, name: str, status: int) -> None:
    dropping.pull(name)
    answers(registry, status)
    (finding,) = dropping.check(online=True)
    assert not finding.is_decided
    assert finding.subject == name.removesuffix(":1")
    assert finding.problem.startswith("cannot be asked for 2 blobs that were dropped here: ")
    assert sorted(blob.digest for blob in dropping.dropped_blobs()) == DIGESTS


def test_a_closed_port_and_an_unknown_host(dropping: Engine, name: str) -> None:
    dropping.pull(name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for gone in (f"127.0.0.1:{closed.getsockname()[1]}/app", "no-such-host.invalid/app"):
            dropping.store.state.connection.execute("UPDATE dropped SET repository=?", (gone,))
            dropping.store.state.connection.execute("DELETE FROM origins")
            (finding,) = dropping.check(online=True)
            assert (finding.subject, finding.is_decided) == (gone, False)


def test_one_that_does_not_answer_is_asked_once(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    answers(registry, 500)
    registry.requests.clear()
    list(dropping.check(online=True))
    assert len([url for _method, url in registry.requests if "/blobs/" in url]) == 1


def test_not_found_is_an_answer(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    answers(registry, 404)
    findings = list(dropping.check(online=True))
    assert [finding.subject for finding in findings] == DIGESTS
    assert all(finding.is_decided and "no longer serves it" in finding.problem for finding in findings)


def test_another_that_has_it_is_enough(dropping: Engine, registry: Registry, second: Registry, name: str) -> None:
    dropping.pull(name)
    knows(dropping, second)
    answers(registry, 500)
    assert list(dropping.check(online=True)) == []
    answers(second, 404)
    assert [finding.is_decided for finding in dropping.check(online=True)] == [False]


# -- wrong bytes


def test_a_liar_is_named(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    lies(registry)
    for act in (lambda: dropping.fetch_blobs(name), lambda: dropping.save([name], io.BytesIO())):
        with pytest.raises(OriginLies, match=f"{name.removesuffix(':1')} serves other bytes in its place"):
            act()
    assert here(dropping) == []


def test_a_liar_is_passed_over(dropping: Engine, registry: Registry, second: Registry, name: str) -> None:
    dropping.pull(name)
    knows(dropping, second)
    lies(registry)
    saved = io.BytesIO()
    dropping.save([name], saved, form="oci-archive")
    third = Registry()
    try:
        dropping.tag(name, f"{third.host}/new:1")
        dropping.push(f"{third.host}/new:1")
        assert list(third.repository("new").names()) == ["1"]
    finally:
        third.close()
    assert here(dropping) == []
    dropping.fetch_blobs(name)
    assert here(dropping) == DIGESTS
    assert list(dropping.check()) == []
    plain = io.BytesIO()
    dropping.save([name], plain, form="oci-archive")
    assert saved.getvalue() == plain.getvalue()


def test_both_lie(dropping: Engine, registry: Registry, second: Registry, name: str) -> None:
    dropping.pull(name)
    knows(dropping, second)
    lies(registry)
    lies(second)
    with pytest.raises(OriginLies) as caught:
        dropping.fetch_blobs(name)
    assert f"{name.removesuffix(':1')} and {second.host}/copy serve other bytes" in str(caught.value)
    assert here(dropping) == []


def test_what_the_others_did_is_a_note(dropping: Engine, registry: Registry, second: Registry, name: str) -> None:
    dropping.pull(name)
    knows(dropping, second)
    lies(registry)
    answers(second, 500)
    with pytest.raises(OriginUnreachable, match=f"{second.host}/copy cannot be asked") as caught:
        dropping.fetch_blobs(name)
    assert any(note.startswith(name.removesuffix(":1")) for note in caught.value.__notes__)


def test_the_beginning_of_a_liar_is_not_built_upon(
    dropping: Engine, registry: Registry, second: Registry, name: str
) -> None:
    """Half of a blob lies there from an attempt that was broken off, and is wrong."""
    dropping.pull(name)
    knows(dropping, second)
    blob = BASE.descriptor if BASE.descriptor.digest in DIGESTS else IMAGE.layers[0].descriptor
    ingest = dropping.store.begin(blob)
    assert ingest is not None
    with ingest:
        ingest.write(b"?" * 100)
    dropping.fetch_blobs(name)
    assert here(dropping) == DIGESTS


def ask(url: str, digest: Digest) -> tuple[int, bytes]:
    """As who does not verify, and reads what was announced and not a byte more."""
    with urllib.request.urlopen(f"{url}/v2/team/app/blobs/{digest}") as response:
        try:
            return int(response.headers["Content-Length"]), response.read()
        except http.client.IncompleteRead as broken:
            return int(response.headers["Content-Length"]), broken.partial


def test_serve_never_ends_well_in_front_of_a_liar(dropping: Engine, registry: Registry, name: str) -> None:
    dropping.pull(name)
    lies(registry)
    with dropping.serve(port=0) as server:
        for digest in DIGESTS:
            announced, got = ask(server.url, digest)
            assert len(got) < announced


def test_serve_passes_a_liar_over(dropping: Engine, registry: Registry, second: Registry, name: str) -> None:
    dropping.pull(name)
    knows(dropping, second)
    lies(registry)
    with dropping.serve(port=0) as server:
        for digest in DIGESTS:
            assert Digest.of(ask(server.url, digest)[1]) == digest
    assert here(dropping) == []


def test_who_does_not_answer_is_asked_last_from_then_on(
    dropping: Engine, registry: Registry, second: Registry, name: str
) -> None:
    """Each question to it may take minutes."""
    dropping.pull(name)
    knows(dropping, second)
    answers(registry, 500)
    registry.requests.clear()
    dropping.save([name], io.BytesIO())
    assert len([url for method, url in registry.requests if method == "GET" and "/blobs/" in url]) == 1


@pytest.mark.parametrize("part", [0, 0.5])
def test_who_keeps_us_waiting_is_left_for_another(
    dropping: Engine, registry: Registry, second: Registry, name: str, stalls: Callable[..., None], part: float
) -> None:
    dropping.settings = replace(dropping.settings, max_download_attempts=5)
    dropping.pull(name)
    knows(dropping, second)
    stalls(registry, part)
    registry.requests.clear()
    dropping.save([name], io.BytesIO())
    assert asked(registry) == 1
    dropping.fetch_blobs(name)
    assert here(dropping) == DIGESTS
    assert asked(registry) <= 1 + len(DIGESTS)


def test_who_keeps_the_question_waiting_is_left_as_well(
    dropping: Engine, registry: Registry, second: Registry, name: str, stalls: Callable[..., None]
) -> None:
    """Whether all blobs are served is asked before anything is written."""
    dropping.pull(name)
    knows(dropping, second)
    stalls(registry, 0, method="HEAD")
    registry.requests.clear()
    dropping.save([name], io.BytesIO())
    assert len([url for method, url in registry.requests if method == "HEAD" and "/blobs/" in url]) == 1


def test_a_push_waits_for_a_blob_before_it_speaks_of_it(
    dropping: Engine, registry: Registry, second: Registry, name: str, stalls: Callable[..., None]
) -> None:
    """Its target would hear the first half, and then nothing for as long as the other keeps silent."""
    dropping.pull(name)
    knows(dropping, second)
    stalls(registry, 0.5)
    third = Registry()
    begun: list[int] = []

    def note(request: Request, response: Response) -> Response:
        if request.method == "POST":
            begun.append(asked(second))
        return response

    third.twist = note
    try:
        dropping.tag(name, f"{third.host}/new:1")
        dropping.push(f"{third.host}/new:1")
        assert list(third.repository("new").names()) == ["1"]
    finally:
        third.close()
    assert len([at for at in begun if at == 0]) == 1  # the config, which is here


@pytest.mark.parametrize("part", [0, 0.5])
def test_who_was_left_is_asked_again_when_no_other_has_it(
    dropping: Engine, registry: Registry, second: Registry, name: str, stalls: Callable[..., None], part: float
) -> None:
    dropping.pull(name)
    knows(dropping, second)
    answers(second, 404)
    stalls(registry, part, times=len(DIGESTS))
    dropping.fetch_blobs(name)
    assert here(dropping) == DIGESTS


def test_both_stall(
    dropping: Engine, registry: Registry, second: Registry, name: str, stalls: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is asked in haste, then with the patience of this registry client, and then it is over."""
    dropping.pull(name)
    knows(dropping, second)
    monkeypatch.setattr(dropping.registries, "_patience", Patience(attempts=2, silence=0.4, pause=lambda _seconds: None))
    for each in (registry, second):
        stalls(each, 0.5)
        each.requests.clear()
    with pytest.raises(OriginUnreachable):
        dropping.save([name], io.BytesIO())
    assert (asked(registry), asked(second)) == (3, 3)


def test_a_full_disk_keeps_nobody_from_saving(
    dropping: Engine, second: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropping.pull(name)
    plain, saved = io.BytesIO(), io.BytesIO()
    dropping.save([name], plain)
    knows(dropping, second)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_options: Path("/dev/full").open("wb"))
    dropping.save([name], saved)
    assert saved.getvalue() == plain.getvalue()


# -- a layer of two blobs


def test_any_blob_of_a_layer_will_do(dropping: Engine, registry: Registry, name: str) -> None:
    """Compressed twice, by two people: the one whose digest sorts first is gone."""
    dropping.pull(name)
    rows = {row.digest: row for row in dropping.store.dropped.walk()}
    real = next(row for row in rows.values() if row.diff_id == BASE.diff_id)
    first = replace(real, descriptor=replace(real.descriptor, digest=Digest.parse("sha256:" + "0" * 64)))
    dropping.store.dropped.add([first])
    dropping.layers_store.tar(BASE.diff_id).unlink()
    with dropping.cat(name, "/etc/passwd") as stream:
        assert stream.read() == b"root\n"
    assert here(dropping) == [real.digest]
    dropping.store.blob_path(real.digest).unlink()
    dropping.store.dropped.add([real, first])
    answers(registry, 404)
    with pytest.raises(NoLongerServed), dropping.cat(name, "/etc/passwd") as stream:
        stream.read()


# -- with somebody who drops at the same moment


def test_what_repair_counts_on_is_not_dropped(
    engine: Engine, registry: Registry, name: str, open_engine: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The blob was here when a damaged layer was given up, and another's pull drops it before the layer goes."""
    engine.pull(name)
    other = open_engine()
    tar = engine.layers_store.tar(BASE.diff_id)
    tar.write_bytes(bytes(tar.stat().st_size))
    remove = engine.layers_store.remove

    def after_the_dropper(diff_id: Digest) -> int:
        drop_pulled(other, other.image(name), name.removesuffix(":1"), DIGESTS)
        answers(registry, 404)
        return remove(diff_id)

    with monkeypatch.context() as patch:
        patch.setattr(engine.layers_store, "remove", after_the_dropper)
        (finding,) = engine.check(repair=True)
    assert finding.repaired
    assert engine.layers_store.has_data(BASE.diff_id)
    assert [found.problem for found in engine.check()] == []
