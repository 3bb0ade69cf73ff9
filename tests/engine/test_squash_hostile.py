"""Squashing what somebody made to do harm: one sentence, and a store that is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engine.conftest import Registry
from tests.engine.test_hostile import BIG, GOOD, answer, blob_twist, refuses
from tests.layer import tarbytes

from lamina.engine.engine import Engine
from lamina.engine.merging import SquashOptions
from lamina.errors import IntegrityError, InvalidInput, LaminaError
from lamina.image import LayerCountMismatch
from lamina.layer.compress import Compression
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, Descriptor
from lamina.oci.manifest import Manifest
from lamina.testing.images import MadeImage, MadeLayer, file, hardlink, make_image, make_layer

ALL = SquashOptions(is_all=True)


def squashing(engine: Engine, registry: Registry, made: MadeImage) -> Callable[[], object]:
    made.put(registry.repository("app"), "1")
    return lambda: engine.squash(f"docker://{registry.host}/app:1", "out:1", options=ALL)


def of_tar(tar: bytes, compression: Compression = Compression.GZIP) -> MadeImage:
    return make_image([make_layer([file("base")]), MadeLayer(tar=tar, compression=compression)])


@pytest.mark.parametrize("make", [
    lambda blob: blob[:-10], lambda blob: blob + b"more", lambda blob: bytes(len(blob)), lambda _blob: b"",
])
def test_a_blob_that_lies(engine: Engine, registry: Registry, make: Callable[[bytes], bytes]) -> None:
    act = squashing(engine, registry, GOOD)
    registry.twist = blob_twist(BIG.digest, lambda _response: answer(200, make(GOOD.layers[1].blob)))
    refuses(engine, act, LaminaError, "sha256:")
    registry.twist = None
    act()
    assert list(engine.check()) == []


def test_a_diff_id_that_is_another(engine: Engine, registry: Registry) -> None:
    other = make_layer([file("innocent")])
    document = {**GOOD.config.document, "rootfs": {"type": "layers", "diff_ids": [GOOD.layers[0].diff_id, other.diff_id]}}
    config = ImageConfig.build(document)
    described = Descriptor(media_type=OCI_CONFIG, digest=config.digest, size=len(config.raw))
    manifest = Manifest.build(described, [layer.descriptor for layer in GOOD.layers])
    refuses(engine, squashing(engine, registry, MadeImage(manifest=manifest, config=config, layers=GOOD.layers)),
            IntegrityError, "digest")


def test_layers_that_are_not_counted_alike(engine: Engine, registry: Registry) -> None:
    manifest = Manifest.build(GOOD.manifest.config, [GOOD.layers[0].descriptor])
    refuses(engine, squashing(engine, registry, MadeImage(manifest=manifest, config=GOOD.config, layers=GOOD.layers)),
            LayerCountMismatch, "layers")


@pytest.mark.parametrize(("tar", "word"), [
    (b"not a tar" * 100, "tar"),
    (tarbytes.tar(tarbytes.member("../../etc/passwd", b"x")), "leads out"),
    (tarbytes.tar(tarbytes.member("a/.wh...", b"")), "whiteout"),
    (tarbytes.tar(tarbytes.header("null", tarbytes.CHR)), "0:0"),
    (tarbytes.tar(tarbytes.pax({"comment": b"x" * (2 << 20)}) + tarbytes.member("a", b"1")), "PAX"),
    (tarbytes.tar(tarbytes.header("b", tarbytes.HARD, link="nowhere")), "does not exist"),
    (tarbytes.tar(tarbytes.member("f", b"1"), tarbytes.member("f/below", b"2")), "no directory"),
    (tarbytes.tar(*(tarbytes.header(f"s{number}", tarbytes.SYM, link=f"s{number + 1}") for number in range(60)),
                  tarbytes.member("s0/x", b"1")), "symlinks"),
    (tarbytes.tar() + bytes(70 << 20), "after the end"),
])
@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_a_layer_that_no_engine_should_take(
    engine: Engine, registry: Registry, tar: bytes, word: str, compression: Compression
) -> None:
    refuses(engine, squashing(engine, registry, of_tar(tar, compression)), LaminaError, word)


@pytest.mark.parametrize("target", ["oci-archive:{}/out.tar:x", "docker-archive:{}/out.tar:x", "oci:{}/out:x"])
def test_a_failure_leaves_no_half_file(engine: Engine, registry: Registry, tmp_path: Path, target: str) -> None:
    made = of_tar(tarbytes.tar(tarbytes.header("b", tarbytes.HARD, link="nowhere")))
    made.put(registry.repository("app"), "1")
    goal = target.format(tmp_path)
    refuses(engine, lambda: engine.squash(f"docker://{registry.host}/app:1", goal, options=ALL), InvalidInput, "nowhere")
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".out*"))


def test_a_push_that_is_refused_leaves_no_trace(engine: Engine, registry: Registry) -> None:
    GOOD.put(registry.repository("app"), "1")
    registry.twist = lambda request, response: (
        answer(403, b'{"errors":[{"code":"DENIED"}]}') if request.method in ("POST", "PUT", "PATCH") else response)
    refuses(engine, lambda: engine.squash(f"docker://{registry.host}/app:1", f"docker://{registry.host}/app:2", options=ALL),
            LaminaError, "denied|not allowed|refus|403")


def test_a_stack_that_only_fails_together(engine: Engine, registry: Registry) -> None:
    """Each layer alone is sound; the link of the second has no target in the first."""
    made = make_image([make_layer([file("a")]), make_layer([hardlink("b", "gone")])])
    refuses(engine, squashing(engine, registry, made), InvalidInput, "gone")


def test_text_of_the_image_stays_text(engine: Engine) -> None:
    """History and labels may hold anything: it goes on as it is, and is made visible by who prints it."""
    hostile = "\x1b[2J\u202e\n" + "x" * 10_000
    made = make_image([make_layer([file("a")], created_by=hostile), make_layer([file("b")])], execution={"Labels": {hostile: hostile}})
    made.put(engine.store, "docker.io/library/app:1")
    engine.squash("app:1", "out:1", options=ALL)
    image = engine.image("out:1")
    assert image.config.history[0].created_by == hostile
    assert image.config.execution["Labels"] == {hostile: hostile}
