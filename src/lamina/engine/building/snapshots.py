"""Snapshots of builds: whose each is stands in its key, so that those of killed builds can be removed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.content.lease import Lease, live_leases
from lamina.engine.building.state import BuiltLayer
from lamina.snapshot.snapshotter import Mount, SnapshotInfo, SnapshotKind, SnapshotNotFound, Snapshotter

if TYPE_CHECKING:
    from lamina.engine.building.build import Build
    from lamina.engine.core import Core

_KEY = re.compile(r"build-(\d+)-[0-9a-f]{32}")
_TRIES = 20


@contextmanager
def snapshot(
    build: Build, layers: tuple[BuiltLayer, ...], *, is_view: bool = False
) -> Iterator[tuple[str, Sequence[Mount]]]:
    """The key of a snapshot on a stack of layers, and how to mount it; removed when the block ends."""
    driver = build.engine.driver
    key = _new_key(build.lease)
    try:
        yield key, _prepared(build, key, layers, is_view=is_view)
    finally:
        with contextlib.suppress(SnapshotNotFound):
            driver.remove(key)


def _prepared(build: Build, key: str, layers: tuple[BuiltLayer, ...], *, is_view: bool) -> Sequence[Mount]:
    """Somebody who prunes may take what no image needs, as long as there is nothing on it."""
    driver = build.engine.driver
    prepare = driver.view if is_view else driver.prepare
    for left in reversed(range(_TRIES)):
        chain = build.sources.chain_of(layers)
        try:
            with build.engine.store.state.transaction():
                return prepare(key, chain)
        except SnapshotNotFound:
            if not left:
                raise
    raise AssertionError("the last try returned, or raised")


def _new_key(lease: Lease) -> str:
    return f"build-{lease.id}-{os.urandom(16).hex()}"


def abandoned(engine: Core) -> list[tuple[Snapshotter, SnapshotInfo]]:
    """Those of builds whose process is no more."""
    with engine.store.state.transaction():
        live = live_leases(engine.store.state)
        return [
            (driver, info) for driver in engine.drivers() for info in driver.walk()
            if info.kind is not SnapshotKind.COMMITTED and _is_dead(info.key, live)
        ]


def sweep(engine: Core) -> int:
    """Gives the bytes freed."""
    freed = 0
    for driver, info in abandoned(engine):
        with contextlib.suppress(SnapshotNotFound):  # two may sweep at once
            freed += driver.usage(info.key).size
            driver.remove(info.key)
    return freed


def _is_dead(key: str, live: set[int]) -> bool:
    found = _KEY.fullmatch(key)
    return found is not None and int(found[1]) not in live
