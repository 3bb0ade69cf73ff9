"""Bad input of every kind: one clear sentence, and a state directory that is as it was."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.engine.conftest import Registry

from lamina.content.store import SizeMismatch
from lamina.engine.engine import Engine
from lamina.errors import IntegrityError, InvalidInput, LaminaError, NotFound, Unavailable, Unsupported
from lamina.http.message import Headers, Request, Response
from lamina.image import LayerCountMismatch
from lamina.layer.entry import Entry, Kind
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest, dump_document
from lamina.testing.images import MadeImage, directory, file, hardlink, make_image, make_layer, symlink

GOOD = make_image([make_layer([directory("etc"), file("etc/motd", os.urandom(50_000))]),
                   make_layer([file("second", os.urandom(3_000_000))])])
BIG = GOOD.layers[1].descriptor


def snapshot(engine: Engine) -> dict[str, bytes]:
    """Everything that is on disk below the state directory but SQLite's own files and empty directories."""
    return {
        str(path.relative_to(engine.root)): path.read_bytes() for path in engine.root.rglob("*")
        if path.is_file() and not path.name.startswith(("state.sqlite", "index.lock"))
    }


def refuses(engine: Engine, act: Callable[[], object], kind: type[BaseException], match: str) -> str:
    engine.driver  # noqa: B018 - the choice of a driver is remembered: not a change that an error makes
    before = snapshot(engine)
    images = engine.images()
    with pytest.raises(kind, match=match) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert snapshot(engine) == before
    assert engine.images() == images
    return said


def answer(status: int, body: bytes, **headers: str) -> Response:
    named = {"Content-Length": str(len(body)), **{key.replace("_", "-"): value for key, value in headers.items()}}
    return Response(status, Headers(list(named.items())), io.BytesIO(body))


def blob_twist(digest: Digest, make: Callable[[Response], Response]) -> Callable[[Request, Response], Response]:
    def twist(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.url.endswith(f"/blobs/{digest}"):
            return make(response)
        return response

    return twist


def test_unknown_host_and_refused_connection(engine: Engine) -> None:
    refuses(engine, lambda: engine.pull("no-such-host.invalid/app:1"), Unavailable, "no-such-host.invalid")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    refuses(engine, lambda: engine.pull(f"127.0.0.1:{port}/app:1"), Unavailable, "refused")


def test_unknown_repository_and_tag(engine: Engine, registry: Registry) -> None:
    GOOD.put(registry.repository("app"), "1")
    refuses(engine, lambda: engine.pull(f"{registry.host}/nope:1"), NotFound, "nope")
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:2"), NotFound, "2")


@pytest.mark.parametrize(("status", "word"), [(401, "lamina login"), (403, "denied|not allowed|refus")])
def test_not_allowed(engine: Engine, registry: Registry, status: int, word: str) -> None:
    registry.twist = lambda _request, _response: answer(
        status, b'{"errors":[{"code":"DENIED","message":"go away"}]}', WWW_Authenticate='Basic realm="x"')
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), LaminaError, word)


def test_a_blob_with_other_bytes(engine: Engine, registry: Registry) -> None:
    GOOD.put(registry.repository("app"), "1")
    wrong = bytes(BIG.size)
    registry.twist = blob_twist(BIG.digest, lambda _response: answer(200, wrong))
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), IntegrityError, BIG.digest)
    registry.twist = None
    engine.pull(f"{registry.host}/app:1")
    assert list(engine.check()) == []


def test_a_blob_with_more_bytes_than_promised(engine: Engine, registry: Registry) -> None:
    GOOD.put(registry.repository("app"), "1")
    more = GOOD.layers[1].blob + b"more"
    registry.twist = blob_twist(BIG.digest, lambda _response: answer(200, more))
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), LaminaError, "expected|size|more")


def test_a_manifest_with_another_digest(engine: Engine, registry: Registry) -> None:
    root = GOOD.put(registry.repository("app"), "1")

    def twist(request: Request, response: Response) -> Response:
        if "/manifests/" in request.url and request.method == "GET":
            return answer(200, GOOD.manifest.raw + b" ", Content_Type=OCI_MANIFEST)
        return response

    registry.twist = twist
    refuses(engine, lambda: engine.pull(f"{registry.host}/app@{root.digest}"), LaminaError, root.digest)


@pytest.mark.parametrize(
    ("body", "media_type", "kind", "word"),
    [
        (b'{"schemaVersion":1,"fsLayers":[],"history":[]}',
         "application/vnd.docker.distribution.manifest.v1+prettyjws", Unsupported, "schema 1"),
        (b"<html>Please log in to the hotel's network</html>", "text/html", LaminaError, "web page"),
        (b"[" * 100_000, OCI_MANIFEST, InvalidInput, "not JSON"),
        (b'{"schemaVersion":2}', OCI_MANIFEST, InvalidInput, "layers|config"),
        (b" " * (5 << 20), OCI_MANIFEST, LaminaError, "limit|large|cap"),
        (b'{"schemaVersion":2,"layers":[],"manifests":[],"config":{}}', OCI_MANIFEST, InvalidInput, "both"),
    ],
    ids=["schema1", "html", "deep", "empty", "huge", "ambiguous"],
)
def test_documents_that_are_no_manifest(
    engine: Engine, registry: Registry, body: bytes, media_type: str, kind: type[LaminaError], word: str
) -> None:
    registry.twist = lambda _request, _response: answer(200, body, Content_Type=media_type)
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), kind, word)


def rebuilt(image: MadeImage, *, diff_ids: list[Digest]) -> MadeImage:
    document = dict(image.config.document)
    document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config = ImageConfig.build(document)
    described = Descriptor(media_type=OCI_CONFIG, digest=config.digest, size=len(config.raw))
    manifest = Manifest.build(described, image.manifest.layers)
    return replace(image, manifest=manifest, config=config)


def test_a_layer_that_is_not_what_the_config_says(engine: Engine, registry: Registry) -> None:
    # SECURITY: the compressed digest is right, the diff id is not: nothing may be filed under it.
    liar = rebuilt(GOOD, diff_ids=[GOOD.layers[0].diff_id, Digest.of(b"something else")])
    liar.put(registry.repository("app"), "1")
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), IntegrityError, "digest")


def test_more_layers_than_diff_ids(engine: Engine, registry: Registry) -> None:
    liar = rebuilt(GOOD, diff_ids=[GOOD.layers[0].diff_id])
    liar.put(registry.repository("app"), "1")
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), LayerCountMismatch, "2 layers")


HOSTILE = {
    "whiteout of the parent": [directory("e"), file("e/.wh...")],
    "root that is a symlink": [Entry(path="", kind=Kind.SYMLINK, linkname="/etc")],
    "link to nothing": [file("a", b"x"), hardlink("b", "nope")],
    "device that is a whiteout": [Entry(path="a", kind=Kind.CHAR)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_layers_that_no_one_may_unpack(engine: Engine, registry: Registry, entries: list[Entry]) -> None:
    make_image([make_layer(entries)]).put(registry.repository("app"), "1")
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), LaminaError, ".")


def test_a_layer_that_climbs_out_stays_inside(engine: Engine, registry: Registry, tmp_path: object) -> None:
    """Symlinks out of the root are legal text; what is written below them lands inside the root."""
    canary = f"{tmp_path}/canary"
    up = "../" * 20
    layer = [symlink("ls", f"{up}{tmp_path}"), file("ls/canary", b"pwned")]
    make_image([make_layer(layer)]).put(registry.repository("app"), "1")
    with contextlib.suppress(LaminaError):
        engine.pull(f"{registry.host}/app:1")
    assert not os.path.exists(canary)


def test_a_truncated_layer_that_its_digest_covers(engine: Engine, registry: Registry) -> None:
    whole = GOOD.layers[0]
    cut = whole.tar[: len(whole.tar) // 2 + 100]
    layer = replace(whole, tar=cut)
    broken = make_image([layer])
    broken.put(registry.repository("app"), "1")
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), InvalidInput, "tar|cut|ends|short")


def test_garbage_to_import_and_load(engine: Engine) -> None:
    refuses(engine, lambda: engine.import_image(io.BytesIO(b"garbage" * 1000), "x"), InvalidInput, "tar")
    refuses(engine, lambda: engine.import_image(io.BytesIO(b""), "x"), InvalidInput, "empty")
    refuses(engine, lambda: engine.import_image(io.BytesIO(b"\x1f\x8b" + b"x" * 100), "x"), InvalidInput, "gzip")
    refuses(engine, lambda: engine.load(io.BytesIO(b"garbage" * 1000)), LaminaError, ".")
    refuses(engine, lambda: engine.load(io.BytesIO(b"")), LaminaError, ".")


def test_a_size_that_lies(engine: Engine, registry: Registry) -> None:
    document = json.loads(GOOD.manifest.raw)
    document["config"]["size"] += 1
    manifest = Manifest.parse(dump_document(document))
    repository = registry.repository("app")
    GOOD.put(repository)
    repository.put(manifest.descriptor, io.BytesIO(manifest.raw))
    repository.tag("1", manifest.descriptor)
    refuses(engine, lambda: engine.pull(f"{registry.host}/app:1"), SizeMismatch, "expected")


def test_an_artifact_is_not_an_image(engine: Engine, registry: Registry) -> None:
    repository = registry.repository("chart")
    config = Descriptor(media_type="application/vnd.cncf.helm.config.v1+json", digest=Digest.of(b"{}"), size=2)
    repository.put(config, io.BytesIO(b"{}"))
    manifest = Manifest.build(config, [])
    repository.put(manifest.descriptor, io.BytesIO(manifest.raw))
    repository.tag("1", manifest.descriptor)
    refuses(engine, lambda: engine.pull(f"{registry.host}/chart:1"), Unsupported, "helm")


def test_a_pull_learns_what_one_that_was_interrupted_did_not_say(engine: Engine, registry: Registry) -> None:
    """Layers are unpacked while they arrive, and told of together when all are."""
    GOOD.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    known = [engine.store.catalog.layer(layer.descriptor.digest) for layer in GOOD.layers]
    assert None not in known
    with engine.store.state.transaction() as connection:
        connection.execute("DELETE FROM layers WHERE blob = ?", (GOOD.layers[0].descriptor.digest,))
    engine.pull(f"{registry.host}/app:1")
    assert [engine.store.catalog.layer(layer.descriptor.digest) for layer in GOOD.layers] == known


def test_an_interrupted_layer_goes_on_by_range(open_engine: Callable[..., Engine], registry: Registry) -> None:
    GOOD.put(registry.repository("app"), "1")
    engine = open_engine()

    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            chunk = super().read(size)
            if not chunk:
                raise ConnectionResetError
            return chunk

    cut = GOOD.layers[1].blob[:1_500_000]
    registry.twist = blob_twist(BIG.digest, lambda response: (
        response if response.status == 206 else
        Response(200, Headers([("Content-Length", str(BIG.size))]), Cut(cut))))
    engine.pull(f"{registry.host}/app:1")  # resumes within the same run
    assert list(engine.check()) == []
