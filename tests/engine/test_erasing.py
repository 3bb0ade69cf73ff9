"""verify-erased and secrets on a state directory: what is in the image, what is elsewhere, what stays as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.insight.planted import SECRET, RawLayer, layer_of

from lamina.engine.engine import Engine
from lamina.errors import InvalidInput
from lamina.insight.certificate import Certificate, ElsewhereKind, Verdict
from lamina.insight.needles import InvalidPattern, InvalidSecret
from lamina.testing.images import MadeImage, directory, file, make_image, tar_of, whiteout

BASE = layer_of([directory("root"), file("root/kept", b"nothing")], by="ADD base /")
LEAK = layer_of([file("root/token", SECRET)], by="COPY token /root/")
GONE = layer_of([whiteout("root/token")], by="RUN rm /root/token")
NAME = "docker.io/library/{}:1"


def put(engine: Engine, name: str, made: MadeImage) -> None:
    engine.store.record(made.put(engine.store), names=(NAME.format(name),))


def verify(engine: Engine, name: str, **options: object) -> Certificate:
    return engine.verify_erased(name, **{"secrets": {"token.txt": SECRET}, **options})  # type: ignore[arg-type]


def elsewhere(found: Certificate) -> list[tuple[str, tuple[str, ...], str, int]]:
    assert found.elsewhere is not None
    return [(str(each.kind), each.images, each.where, each.count) for each in found.elsewhere]


@pytest.fixture
def both(engine: Engine) -> Engine:
    """An image whose secret was deleted in a later layer, and one that was squashed since."""
    put(engine, "leaky", make_image([BASE, LEAK, GONE]))
    put(engine, "squashed", make_image([BASE]))
    return engine


def test_found_hidden_and_by_whom(both: Engine) -> None:
    found = verify(both, "leaky:1")
    (finding,) = found.searched.findings
    assert found.verdict is Verdict.FOUND
    assert (finding.layer, finding.path, finding.instruction) == (1, "/root/token", "COPY token /root/")
    assert finding.hidden_by is not None
    assert (finding.hidden_by.layer, finding.hidden_by.instruction) == (2, "RUN rm /root/token")
    assert found.elsewhere == ()


def test_clean_lists_what_is_elsewhere_and_fails_only_if_asked(both: Engine) -> None:
    found = verify(both, "squashed:1")
    assert found.verdict is Verdict.CLEAN
    assert elsewhere(found) == [("content", ("leaky:1",), "root/token", 1)]
    assert verify(both, "squashed:1", everywhere=True).verdict is Verdict.FOUND
    alone = verify(both, "squashed:1", image_only=True)
    assert (alone.verdict, alone.elsewhere) == (Verdict.CLEAN, None)


def test_the_certificate_says_what_was_searched(both: Engine) -> None:
    both.clock = lambda: 1_720_000_000.0
    found = verify(both, "squashed:1", patterns=["AKIA[0-9]"], paths=["/root/token"])
    assert (found.names, found.time, found.image) == (("squashed:1",), "2024-07-03T09:46:40Z", "squashed:1")
    assert [(each.kind, each.label, each.size) for each in found.sought] == [
        ("secret-file", "token.txt", len(SECRET)), ("pattern", "AKIA[0-9]", 0), ("path", "/root/token", 0)]
    (image,) = found.searched.images
    (layer,) = image.layers
    assert (layer.blob, layer.diff_id) == (BASE.descriptor.digest, BASE.diff_id)
    assert (layer.blob_bytes, layer.tar_bytes) == (len(BASE.blob), len(BASE.tar))
    assert [document.blob for document in found.searched.documents] == [found.root, image.config]
    assert SECRET.decode() not in repr(found)


def test_content_that_other_images_share(both: Engine) -> None:
    put(both, "sibling", make_image([LEAK]))
    assert elsewhere(verify(both, "leaky:1")) == [("shared content", ("sibling:1",), "", 1)]


def test_content_that_nothing_reaches(both: Engine) -> None:
    both.store.put_bytes("text/plain", b"left " + SECRET + gzip.compress(SECRET))
    found = elsewhere(verify(both, "leaky:1"))
    assert found == [("content", (), "", 1)]


def test_documents_of_other_images_name_the_field(both: Engine) -> None:
    put(both, "labelled", make_image([BASE], execution={"Labels": {"x": SECRET.decode()}}))
    assert ("content", ("labelled:1",), "config.Labels.x", 1) in elsewhere(verify(both, "leaky:1"))


def test_unfinished_downloads(both: Engine) -> None:
    ingest = both.root / "ingest" / "new-abc"
    ingest.mkdir()
    (ingest / "data").write_bytes(gzip.compress(tar_of({"f": SECRET}) + bytes(9000))[:-9])
    assert elsewhere(verify(both, "leaky:1")) == [("unfinished download", (), "f", 1)]


def test_paths_elsewhere(both: Engine) -> None:
    both.layers("leaky:1")
    found = both.verify_erased("squashed:1", paths=["/root/token"])
    assert found.verdict is Verdict.CLEAN
    assert found.elsewhere is not None
    (other,) = found.elsewhere
    assert (other.kind, other.subject, other.images, other.label) == (
        ElsewhereKind.LAYER, LEAK.diff_id, ("leaky:1",), "/root/token")
    assert both.verify_erased("leaky:1", paths=["root/token"]).verdict is Verdict.FOUND
    assert both.verify_erased("leaky:1", paths=["/root/toke"]).verdict is Verdict.CLEAN


def test_an_image_in_an_archive(both: Engine, tmp_path: Path) -> None:
    with open(tmp_path / "leaky.tar", "wb") as out:
        both.save(["leaky:1"], out, form="oci-archive")
    both.remove("leaky:1")
    both.layers("squashed:1")  # what the two share is unpacked before
    before = sorted(path for path in both.root.rglob("*") if path.is_file() and "sqlite" not in path.name)
    found = verify(both, f"oci-archive:{tmp_path / 'leaky.tar'}")
    assert [(each.layer, each.path) for each in found.searched.findings] == [(1, "/root/token")]
    assert sorted(path for path in both.root.rglob("*") if path.is_file() and "sqlite" not in path.name) == before


def test_removing_the_leaky_image_makes_everywhere_clean(both: Engine) -> None:
    both.remove("leaky:1")
    assert verify(both, "squashed:1", everywhere=True).verdict is Verdict.CLEAN


def test_a_layer_that_cannot_be_read_is_undecided_not_a_failure(engine: Engine) -> None:
    """As after a push to ``serve``, which takes any blob."""
    tar = tar_of({"a": b"x" * 9000})
    put(engine, "broken", make_image([BASE, RawLayer(tar=tar, stored=gzip.compress(tar)[:-8])]))
    found = verify(engine, "broken:1")
    assert found.verdict is Verdict.UNDECIDED
    assert any("cut off" in gap.reason for gap in found.searched.undecided)
    found = engine.verify_erased("broken:1", secrets={"s": b"nothing"})
    assert found.verdict is Verdict.FOUND, "what can be read is searched all the same"


def test_what_cannot_be_asked(both: Engine) -> None:
    with pytest.raises(InvalidInput, match="nothing to search for"):
        both.verify_erased("leaky:1")
    with pytest.raises(InvalidSecret):
        both.verify_erased("leaky:1", secrets={"s": b"x"})
    with pytest.raises(InvalidPattern):
        both.verify_erased("leaky:1", patterns=["("])
    with pytest.raises(InvalidInput, match="every image has a root"):
        both.verify_erased("leaky:1", paths=["/"])
    with pytest.raises(InvalidInput, match="everywhere or"):
        verify(both, "leaky:1", everywhere=True, image_only=True)


def test_secrets(engine: Engine) -> None:
    token = "gh" + "p_" + "aB3" * 12
    put(engine, "app", make_image([
        layer_of([directory("app"), file("app/.env", b"# x\nDB_PASS" + b"WORD=s3cr-et9\n"), file("app/t", token.encode())],
                 by="COPY . /"),
        layer_of([whiteout("app/t")], by="RUN rm /app/t"),
    ], execution={"Env": [f"TOKEN={token}"]}))
    found = engine.secrets("app:1")
    assert [(leak.rule, leak.finding.path or leak.finding.field, leak.line) for leak in found.leaks] == [
        ("env-file", "/app/.env", 2), ("github-token", "/app/t", 1), ("github-token", "config.Env[0]", None)]
    assert token not in repr(found.leaks)
    assert json.loads(json.dumps(found.bytes_searched)) > 0


def test_the_build_cache_is_searched(both: Engine, tmp_path: Path) -> None:
    """A step's arguments and layer, and what a cache mount holds."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nARG TOKEN\nENV T=$TOKEN\nWORKDIR /w\nCOPY Dockerfile /\n")
    from lamina.engine.building.options import BuildOptions

    both.build(context, BuildOptions(arguments={"TOKEN": SECRET.decode()}))
    both.remove("leaky:1")
    both.prune()
    mount = both.root / "buildcaches" / ("a" * 64) / "0" / "files"
    mount.mkdir(parents=True)
    (mount / "kept").write_bytes(b"x" + SECRET)
    (mount / "link").symlink_to("kept")
    found = verify(both, "squashed:1", everywhere=True)
    assert found.verdict is Verdict.FOUND
    (of_mount,) = [each for each in elsewhere(found) if each[0] == "build cache" and each[3] == 1 and not each[2]]
    assert of_mount == ("build cache", (), "", 1)
