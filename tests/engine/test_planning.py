"""Plans over real layers: found, applied, and true afterwards."""

from __future__ import annotations

from random import Random

import pytest
from tests.engine.conftest import Registry
from tests.engine.test_squashing import named, union

from lamina.engine.engine import Engine
from lamina.engine.images import load_record
from lamina.engine.lookup import ImageNotFound
from lamina.engine.merging import NoSuchLayer, SquashOptions
from lamina.engine.planning import PlanOptions
from lamina.errors import InvalidInput, LaminaError
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.oci.descriptor import Platform
from lamina.testing.images import directory, file, make_image, make_index, make_layer, whiteout

NOISE = Random(1).randbytes(100_000)  # which does not compress
BASE = make_layer([directory("etc"), file("etc/motd", b"base")])
BIG = make_layer([file("big", NOISE), file("small", b"1")])
MORE = make_layer([file("more", b"2")])
GONE = make_layer([whiteout("big")])
TOP = make_layer([file("top", b"3")])
APP = make_image([BASE, BIG, MORE, GONE, TOP])
OTHER = make_image([BASE, BIG, MORE, GONE, make_layer([file("other", b"4")])])
CHEAP = PlanOptions(worth=10_000)


def test_a_plan_is_found_and_writes_nothing(engine: Engine) -> None:
    named(make_image([BASE]), engine, "base:1")
    named(APP, engine, "app:1")
    plan = engine.plan_squashes(options=CHEAP).plan
    assert [(step.first, step.last, step.images) for step in plan.merges] == [(1, 3, ("app:1",))]
    assert 95_000 < plan.pulled_before - plan.pulled_after < 101_000
    assert len(engine.images()) == 2


@pytest.mark.parametrize("compression", list(Compression))
def test_applied_it_saves_what_it_said(engine: Engine, compression: Compression) -> None:
    layers = [make_layer(made.tar and [file("big", NOISE)], compression=compression) if made is BIG else made
              for made in (BASE, BIG, MORE, GONE)]
    named(make_image(layers), engine, "app:1")
    done = engine.plan_squashes([("app:1", 3)], options=PlanOptions(worth=10_000, is_applied=True))
    (squashed,) = done.done
    assert squashed.target == "app:1-squashed"
    before = sum(layer.size for layer in engine.layers("app:1"))
    after = sum(layer.size for layer in engine.layers("app:1-squashed"))
    assert before - after > 99_000
    assert union(engine, "app:1-squashed") == union(engine, "app:1")


def test_images_that_shared_layers_share_the_merged_one(engine: Engine) -> None:
    named(APP, engine, "app:1")
    named(OTHER, engine, "other:1")
    done = engine.plan_squashes(options=PlanOptions(worth=1000, is_applied=True))
    assert {step.images for step in done.plan.merges} == {("app:1", "other:1")} or {
        step.images for step in done.plan.merges} == {("other:1", "app:1")}
    one, other = engine.image("app:1-squashed"), engine.image("other:1-squashed")
    assert one.config.diff_ids[:-1] == other.config.diff_ids[:-1]
    assert [layer.descriptor.digest for layer in one.layers[:-1]] == [layer.descriptor.digest for layer in other.layers[:-1]]


def test_in_place(engine: Engine) -> None:
    named(APP, engine, "app:1")
    wanted = union(engine, "app:1")
    engine.plan_squashes([("app:1", 1)], options=PlanOptions(worth=1000, is_applied=True, suffix=""))
    assert len(engine.image("app:1").layers) < 5
    assert union(engine, "app:1") == wanted


def test_names_of_one_image_are_one_image_with_all_its_pulls(engine: Engine) -> None:
    named(APP, engine, "app:1")
    engine.tag("app:1", "also:1")
    plan = engine.plan_squashes([("app:1", 2), ("also:1", 3)], options=CHEAP).plan
    assert plan.pulls == 5
    assert {step.images for step in plan.steps} == {("app:1",)}


def test_images_in_a_registry(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    name = f"docker://{registry.host}/app:1"
    done = engine.plan_squashes([(name, 100)], options=PlanOptions(worth=1000, is_applied=True))
    assert len(done.done) == 1
    repository = registry.repository("app")
    assert len(Image.load(repository, repository.resolve("1-squashed"), None).layers) < 5
    assert engine.images() == ()


def test_of_an_index_the_platform_that_was_planned_is_squashed(engine: Engine) -> None:
    """Another platform has other layers: ranges of the one say nothing about it."""
    arm = make_image([BASE, TOP], platform=Platform(os="linux", architecture="arm64"))
    amd = make_image([BASE, BIG, MORE, GONE, TOP], platform=Platform(os="linux", architecture="amd64"))
    make_index([arm, amd] if engine.platform.architecture == "amd64" else [amd, arm]).put(
        engine.store, "docker.io/library/app:1")
    planned = load_record(engine, engine.store.catalog.records()[0])
    if len(planned.layers) == 2:
        pytest.fail("the planned platform is the one with few layers")
    done = engine.plan_squashes([("app:1", 1)], options=PlanOptions(worth=1000, is_applied=True))
    (squashed,) = done.done
    assert [result.source for result in squashed.images] == [planned.id]
    assert squashed.notes == (f"an index: only its image for {planned.config.platform} was planned and squashed",)
    assert union(engine, "app:1-squashed") == union(engine, "app:1")
    with pytest.raises(InvalidInput, match="several platforms"):
        engine.plan_squashes([("app:1", 1)], options=PlanOptions(worth=1000, is_applied=True, suffix=""))


def test_nothing_is_done_where_one_name_cannot_be_given(engine: Engine) -> None:
    named(APP, engine, "app:1")
    named(OTHER, engine, "other:1")
    wanted = [("app:1", 1), (str(OTHER.config.digest), 1)]
    for suffix in ("-small", "-" + "x" * 128, " no tag"):
        with pytest.raises(LaminaError):
            engine.plan_squashes(wanted, options=PlanOptions(worth=1000, is_applied=True, suffix=suffix))
        assert len(engine.images()) == 2
        wanted = [("app:1", 1), ("other:1", 1)]


def test_ranges_that_the_image_does_not_have(engine: Engine) -> None:
    named(APP, engine, "app:1")
    with pytest.raises(NoSuchLayer, match="layers 3 to 5"):
        engine.squash("app:1", options=SquashOptions(ranges=((3, 5),)))


def test_what_cannot_be(engine: Engine) -> None:
    named(APP, engine, "app:1")
    with pytest.raises(ImageNotFound):
        engine.plan_squashes([("nothing:1", 1)])
    apply = PlanOptions(worth=1000, is_applied=True)
    with pytest.raises(InvalidInput, match="applied to tags"):
        engine.plan_squashes([(f"docker.io/library/app@{APP.descriptor.digest}", 1)], options=apply)
    assert engine.plan_squashes([]).plan.steps != ()
    engine.remove("app:1")
    assert engine.plan_squashes().plan.steps == ()
