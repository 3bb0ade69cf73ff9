"""waste, diff and du on images wherever they are, whichever form of a layer is here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.engine import images
from lamina.engine.contents import Contents, LayerEndsEarly
from lamina.engine.engine import Engine
from lamina.engine.explain import PathNotFound, open_tree
from lamina.engine.lookup import ImageNotFound
from lamina.errors import InvalidInput
from lamina.insight.waste import WasteKind
from lamina.layer.entry import Entry
from lamina.testing.images import directory, file, make_image, make_layer, symlink, whiteout

BIG = b"b" * 5000
ONE = make_image([
    make_layer([directory("usr"), directory("usr/lib"), file("usr/lib/a", BIG), symlink("lib", "usr/lib")], created_by="ADD base /"),
    make_layer([directory("usr"), directory("usr/lib"), file("usr/lib/a", BIG, mode=0o600)], created_by="RUN chmod"),
], execution={"Env": ["A=1"]})
TWO = make_image([
    make_layer([file("deep/a", BIG), file("deep/b", BIG[::-1] + b"x"), file("deep/c", BIG)], created_by="COPY . /"),
    make_layer([file("deep/b", BIG[::-1] + b"x", uid=0), file("deep/d", BIG), whiteout("deep/c")], created_by="RUN x"),
], execution={"Env": ["A=2"]})


@pytest.fixture
def stocked(engine: Engine) -> Engine:
    """Of the second image, blobs alone can say what is in its files."""
    ONE.put(engine.store, "docker.io/library/one:1")
    TWO.put(engine.store, "docker.io/library/two:1")
    forget_forms(engine, "two:1")
    return engine


def forget_forms(engine: Engine, name: str) -> None:
    image = images.load(engine, name)
    open_tree(engine, image)
    for layer in image.layers:
        engine.layers_store.tar(layer.diff_id).unlink()


def test_waste(stocked: Engine) -> None:
    found = stocked.waste("one:1")
    assert [(item.kind, item.path, item.layer, item.changed) for item in found.items] == [
        (WasteKind.METADATA, "usr/lib/a", 0, ("mode",)),
    ]
    assert found.score == 50.0


def test_waste_of_layers_that_only_blobs_answer_for(stocked: Engine) -> None:
    found = stocked.waste("two:1")
    assert [(str(item.kind), item.path, item.layer) for item in found.items] == [
        ("metadata", "deep/b", 0), ("moved", "deep/c", 0), ("duplicate", "deep/d", 1),
    ]


def test_waste_elsewhere_leaves_nothing_here(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    ONE.put(registry.repository("one"), "1")
    assert engine.waste(f"docker://{registry.host}/one:1").score == 50.0
    assert engine.images() == ()
    engine.pull(f"{registry.host}/one:1")
    with open(tmp_path / "one.tar", "wb") as out:
        engine.save([f"{registry.host}/one:1"], out)
    assert engine.waste(f"docker-archive:{tmp_path}/one.tar").score == 50.0


def test_diff(stocked: Engine) -> None:
    found = stocked.diff("one:1", "two:1")
    assert [(str(change.change), change.path) for change in found.files] == [
        ("A", "deep"), ("A", "deep/a"), ("A", "deep/b"), ("A", "deep/d"),
        ("D", "lib"), ("D", "usr"), ("D", "usr/lib"), ("D", "usr/lib/a"),
    ]
    assert [(change.name, change.before, change.after) for change in found.config] == [("A", "1", "2")]
    assert stocked.diff("two:1", "two:1").is_same


def test_diff_of_content_that_only_blobs_have(stocked: Engine) -> None:
    make_image([[file("deep/a", b"x" * 5000), file("deep/b", BIG[::-1] + b"x")]]).put(
        stocked.store, "docker.io/library/three:1")
    forget_forms(stocked, "three:1")
    found = stocked.diff("two:1", "three:1", "/deep")
    assert [(change.path, change.fields) for change in found.files if change.fields] == [("deep/a", ("content",))]


def test_paths_lead_through_symlinks(stocked: Engine) -> None:
    assert [change.path for change in stocked.diff("one:1", "two:1", "/lib/a").files] == ["usr/lib/a"]
    assert [row.name for row in stocked.du("one:1", "/lib")] == ["/usr/lib"]


def test_a_path_that_nobody_has(stocked: Engine) -> None:
    with pytest.raises(PathNotFound, match="/nowhere: no layer of one:1 or of two:1 has it"):
        stocked.diff("one:1", "two:1", "/nowhere")
    with pytest.raises(PathNotFound):
        stocked.du("one:1", "nowhere")
    assert [row.hidden_bytes for row in stocked.du("two:1", "/deep/c")] == [5000], "hidden, and yet stored"


def test_du(stocked: Engine) -> None:
    assert [(row.name, row.bytes, row.hidden_bytes) for row in stocked.du("one:1", by="layer")] == [
        ("ADD base /", 0, 5000), ("RUN chmod", 5000, 0),
    ]
    with pytest.raises(InvalidInput, match="colour: expected one of layer, dir, extension, instruction"):
        stocked.du("one:1", by="colour")


def test_no_such_image(engine: Engine) -> None:
    for ask in (lambda: engine.waste("no:1"), lambda: engine.diff("no:1", "no:2"), lambda: engine.du("no:1")):
        with pytest.raises(ImageNotFound):
            ask()


# -- content, out of order too


def test_contents_in_any_order(stocked: Engine) -> None:
    image = images.load(stocked, "two:1")
    tree = open_tree(stocked, image)
    index = tree.indexes[0]
    a, b = index.entry(0), index.entry(1)
    with Contents(stocked, image) as contents:
        for entry, data in ((b, BIG[::-1] + b"x"), (a, BIG), (a, BIG), (b, BIG[::-1] + b"x")):
            with contents.open(0, entry) as stream:
                assert stream.read() == data
        with contents.open(0, a) as stream:
            assert stream.read(10) == BIG[:10], "and not to its end"
        with contents.open(0, b) as stream:
            assert stream.read() == BIG[::-1] + b"x"
        assert contents.open(0, Entry("empty")).read() == b""


def test_content_that_ends_early(stocked: Engine) -> None:
    image = images.load(stocked, "two:1")
    entry = open_tree(stocked, image).indexes[0].entry(0)
    entry.size = 1 << 30
    with Contents(stocked, image) as contents, contents.open(0, entry) as stream:
        with pytest.raises(LayerEndsEarly, match="bytes into its tar"):
            stream.read()
