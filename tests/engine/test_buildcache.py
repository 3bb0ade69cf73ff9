"""What the build cache takes, and what of it may go."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.cache import BuildCache
from lamina.content.lease import Lease
from lamina.engine.building import usage as buildcache
from lamina.engine.building.claims import claim
from lamina.engine.building.options import BuildOptions, BuiltImage
from lamina.engine.building.usage import CacheRecord, PrunedCache
from lamina.engine.engine import Engine
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.values import replace


class Builder:
    """Steps are used one after the other, an hour apart."""

    def __init__(self, engine: Engine, place: Path) -> None:
        self.engine = engine
        self.place = place
        self.now = 1_000_000.0
        engine.clock = lambda: self.now

    def build(self, *files: str, tag: str = "app", size: int = 10_000, **options: int) -> BuiltImage:
        """A layer a file."""
        self.place.mkdir(exist_ok=True)
        for name in files:
            (self.place / name).write_bytes(name.encode() * (size // len(name)))
        lines = ["FROM scratch", *(f"COPY {name} /" for name in files)]
        (self.place / "Dockerfile").write_text("\n".join(lines) + "\n")
        self.now += 3600
        return self.engine.build(self.place, BuildOptions(tags=(tag,), **options))  # type: ignore[arg-type]

    def prune(self, *, all_records: bool = False, keep: int | None = None, **filters: str) -> PrunedCache:
        found = {name: [value] for name, value in filters.items()}
        return self.engine.prune_builds(all_records=all_records, filters=found, keep=keep)

    def texts(self) -> list[str]:
        return [record.text for record in self.engine.build_cache()]


@pytest.fixture
def builder(engine: Engine, tmp_path: Path) -> Builder:
    return Builder(engine, tmp_path / "context")


def row(engine: Engine) -> tuple[int, int, int, int]:
    (found,) = [each for each in engine.usage() if each.type == "Build Cache"]
    return found.total, found.active, found.size, found.reclaimable


def test_what_an_image_has_costs_the_cache_nothing(builder: Builder) -> None:
    builder.build("a", "b")
    assert [record.is_shared for record in builder.engine.build_cache()] == [True, True]
    assert all(record.size > 10_000 for record in builder.engine.build_cache())
    assert row(builder.engine) == (2, 0, 0, 0)


def test_without_the_image_it_is_all_the_caches(builder: Builder) -> None:
    builder.build("a", "b")
    image = next(each.size for each in builder.engine.usage() if each.type == "Images")
    builder.engine.remove("app")
    total, active, size, reclaimable = row(builder.engine)
    assert (total, active, reclaimable) == (2, 0, size)
    assert 20_000 < size < image


def test_what_df_promises_prune_frees(builder: Builder) -> None:
    builder.build("a", "b")
    builder.build("a", "c", tag="other")
    builder.engine.remove("app")
    _, _, _, promised = row(builder.engine)
    assert promised > 10_000
    before = occupied(builder.engine.root)
    assert builder.prune().freed == promised
    assert before - occupied(builder.engine.root) >= promised
    assert sorted(builder.texts()) == ["COPY a /", "COPY c /"]
    assert row(builder.engine)[2:] == (0, 0)


def test_layers_of_the_cache_are_no_leftovers(builder: Builder) -> None:
    builder.build("a")
    builder.engine.remove("app")
    (found,) = [each for each in builder.engine.usage() if each.type == "Leftovers"]
    assert found.size == 0
    builder.engine.prune()
    assert builder.build("a").cached == 1


def test_all_takes_what_images_share_and_leaves_the_image_whole(builder: Builder) -> None:
    builder.build("a", "b")
    assert builder.prune() == PrunedCache(ids=(), freed=0)
    pruned = builder.prune(all_records=True)
    assert (len(pruned.ids), pruned.freed) == (2, 0)
    assert list(builder.engine.check()) == []
    assert builder.engine.cat("app", "/a").read()[:1] == b"a"
    assert builder.build("a", "b", tag="new").cached == 0


def test_the_least_recently_used_goes_first(builder: Builder) -> None:
    for name in ("a", "b", "c"):
        builder.build(name)
    builder.build("a")
    builder.engine.remove("app")
    builder.engine.prune()
    sizes = {record.text: record.own for record in builder.engine.build_cache()}
    assert builder.texts() == ["COPY a /", "COPY c /", "COPY b /"]
    builder.prune(keep=sum(sizes.values()) - 1)
    assert builder.texts() == ["COPY a /", "COPY c /"]
    builder.prune(keep=sizes["COPY a /"])
    assert builder.texts() == ["COPY a /"]
    builder.prune(keep=sizes["COPY a /"])
    assert builder.texts() == ["COPY a /"]
    builder.prune(keep=0)
    assert builder.texts() == []


def test_until_counts_from_the_last_use(builder: Builder) -> None:
    builder.build("a")
    builder.build("b")
    builder.engine.remove("app")
    builder.engine.prune()
    assert builder.prune(until="61m").ids == ()
    builder.now += 1800
    assert len(builder.prune(until="61m").ids) == 1
    assert builder.texts() == ["COPY b /"]


def test_what_a_build_holds_stays(builder: Builder) -> None:
    builder.build("a")
    builder.engine.remove("app")
    (record,) = builder.engine.build_cache()
    assert record.diff_id is not None
    with Lease(builder.engine.store.state, "build") as lease:
        lease.hold([record.diff_id])
        assert row(builder.engine)[:2] == (1, 1)
        assert row(builder.engine)[3] == 0
        assert builder.prune(all_records=True) == PrunedCache(ids=(), freed=0)
    assert builder.prune().ids == (record.id,)


def test_a_layer_of_two_records_counts_once_and_goes_with_the_second(builder: Builder) -> None:
    builder.build("a")
    builder.build("a", no_cache=True)
    builder.engine.remove("app")
    builder.engine.prune()
    state = builder.engine.store.state
    (step,) = BuildCache(state).walk()
    BuildCache(state).add(replace(step, key="0" * 64, created=1.0, site=""))
    records = builder.engine.build_cache()
    assert [record.diff_id for record in records] == [step.diff_id] * 2
    assert row(builder.engine)[2] == records[0].own == records[1].own
    assert builder.prune(until="876000h").ids == ()
    assert len(builder.prune(keep=records[0].own - 1).ids) == 2


def test_a_step_that_changed_nothing_is_a_record_without_bytes(builder: Builder) -> None:
    builder.place.mkdir()
    (builder.place / "Dockerfile").write_text("FROM scratch\nWORKDIR /\n")
    builder.engine.build(builder.place)
    assert [(record.size, record.is_shared) for record in builder.engine.build_cache()] == [(0, False)]
    assert builder.prune(keep=0).ids == ()
    assert len(builder.prune().ids) == 1


def test_a_build_with_an_epoch_used_its_steps_today(builder: Builder) -> None:
    builder.build("a", epoch=1000)
    (record,) = builder.engine.build_cache()
    assert (record.created, record.used, record.uses) == (1000.0, builder.now, 1)


def test_of_one_build_the_upper_steps_go_first(builder: Builder) -> None:
    """Without the lower ones they would be of no use."""
    builder.engine.clock = lambda: 1_000_000.0 + len(builder.texts())
    builder.build("a", "b", "c")
    builder.engine.remove("app")
    assert builder.texts() == ["COPY a /", "COPY b /", "COPY c /"]
    builder.prune(keep=row(builder.engine)[2] - 1)
    assert builder.texts() == ["COPY a /", "COPY b /"]


@pytest.mark.parametrize("filters", [{"label": "x"}, {"until": "yesterday"}])
def test_filters_that_cannot_be_followed_change_nothing(builder: Builder, filters: dict[str, str]) -> None:
    builder.build("a")
    builder.engine.remove("app")
    with pytest.raises(InvalidInput):
        builder.prune(**filters)
    assert builder.texts() == ["COPY a /"]


# -- cache mounts


def mount(engine: Engine, name: str, size: int, used: float) -> Path:
    place = engine.root / "buildcaches" / name / "0"
    place.mkdir(parents=True)
    (place / "data").write_bytes(b"x" * size)
    os.utime(place.parent, (used, used))
    return place


@contextmanager
def locked(place: Path, how: int = fcntl.LOCK_SH) -> Iterator[None]:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def test_cache_mounts_count_and_go_like_steps(builder: Builder) -> None:
    builder.build("a")
    builder.engine.remove("app")
    old = mount(builder.engine, "1" * 64, 50_000, builder.now - 10)
    new = mount(builder.engine, "2" * 64, 50_000, builder.now + 10)
    records = builder.engine.build_cache()
    assert [record.id[0] for record in records if record.type == "exec.cachemount"] == ["2", "1"]
    assert row(builder.engine)[2] == sum(record.own for record in records)
    pruned = builder.prune(keep=row(builder.engine)[2] - 1)
    assert pruned.ids == ("1" * 64,)
    assert pruned.freed > 50_000
    assert (old.exists(), new.exists()) == (False, True)
    assert len(builder.prune().ids) == 2
    assert builder.engine.build_cache() == ()


def test_a_cache_mount_that_a_command_has_stays(builder: Builder) -> None:
    place = mount(builder.engine, "1" * 64, 10, builder.now)
    with locked(place):
        assert row(builder.engine)[:2] == (1, 1)
        assert builder.prune(all_records=True).ids == ()
    assert (place / "data").exists()
    with locked(place.parent):  # nobody's lock
        assert len(builder.prune().ids) == 1


def test_a_build_gets_a_new_directory_for_one_that_was_taken_away(engine: Engine) -> None:
    place = mount(engine, "1" * 64, 10, 1.0)
    with ExitStack() as stack:
        files = claim(place.parent, "locked", stack, lambda: None)
        (files / "object").write_bytes(b"o")
        assert engine.prune_builds().ids == ()
        assert (files / "object").exists()
    assert engine.prune_builds().ids == ("1" * 64,)
    with ExitStack() as stack:
        assert not any(claim(place.parent, "shared", stack, lambda: None).iterdir())
    assert [path.name for path in place.parent.iterdir()] == ["0"]


# -- what is chosen, as a law


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans(), st.booleans()), max_size=12),
    st.integers(0, 40), st.booleans(),
)
def test_no_more_goes_than_the_budget_asks_for(
    drawn: list[tuple[int, int, bool, bool]], keep: int, all_records: bool
) -> None:
    """After pruning either the budget is met or nothing that may go is left; the last one was needed."""
    sizes = {letter: size for letter, size, _, _ in drawn}
    found = [
        CacheRecord(
            id=f"{number}", type="regular", text="", size=sizes[letter] + is_shared, own=sizes[letter], created=0.0,
            used=float(len(drawn) - number), uses=0, is_busy=is_busy,
            diff_id=Digest.of(bytes([letter])) if letter else None,
        )
        for number, (letter, _, is_busy, is_shared) in enumerate(drawn)
    ]
    doomed = buildcache._doomed(found, all_records=all_records, limit=1e9, keep=keep)
    left = [record for record in found if record not in doomed]
    may_go = [record for record in left if record.own and not record.is_busy and (all_records or not record.is_shared)]
    assert buildcache.own_bytes(left) <= keep or not may_go
    if doomed:
        assert buildcache.own_bytes([*left, doomed[-1]]) > keep
    assert [record.used for record in doomed] == sorted(record.used for record in doomed)


def occupied(top: Path) -> int:
    found = {}
    for directory, _, files in os.walk(top):
        for name in (*files, "."):
            if name.startswith("state.sqlite"):
                continue
            status = os.lstat(os.path.join(directory, name))
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())
