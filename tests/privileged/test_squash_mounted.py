"""Squashed images mounted for real: the same files as the image itself, by every driver, and exact accounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from tests.conftest import OrdinaryUser
from tests.layer.indexed import index_of

from lamina.content.collect import own_size
from lamina.engine.engine import Engine
from lamina.engine.merging import SquashOptions
from lamina.engine.settings import Settings
from lamina.layer.entry import InvalidLayer
from lamina.layer.tree import Tree
from lamina.testing.images import Chances, MadeImage, make_image, make_layer, random_stack
from lamina.testing.model import ModelFile, Refused, differences, read_tree, union_of

pytestmark = pytest.mark.privileged
SEEDS = range(24)


@pytest.fixture(params=["overlay2", "erofs", "vfs"])
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    opened: list[Engine] = []

    def make() -> Engine:
        flags = {"data-root": str(tmp_path / f"root-{len(opened)}"), "storage-driver": request.param}
        opened.append(Engine.open(settings=Settings.load({}, flags=flags)))
        return opened[-1]

    yield make
    for engine in opened:
        for mounted in engine.mounts():
            engine.unmount(str(mounted.path))
        engine.close()


@contextmanager
def seen(engine: Engine, name: str) -> Iterator[dict[str, ModelFile]]:
    path = engine.mount(name)
    try:
        yield read_tree(path)
    finally:
        engine.unmount(name)


def stack_of(seed: int) -> list[list]:
    """A stack that can be unpacked: by chance, some lie below a symlink that leads to itself."""
    for attempt in range(100):
        stack = random_stack(Random(seed * 100 + attempt), 5, Chances(has_devices=True, entries=16))
        try:
            Tree(index_of(layer) for layer in stack)
            union_of(stack)
        except (InvalidLayer, Refused):
            continue
        return stack
    raise AssertionError(f"seed {seed}: no stack that can be unpacked")


def image_of(seed: int) -> tuple[MadeImage, list[list]]:
    stack = stack_of(seed)
    return make_image([make_layer(layer) for layer in stack]), stack


@pytest.mark.parametrize("seed", SEEDS)
def test_random_stacks(open_engine: Callable[[], Engine], seed: int) -> None:
    engine = open_engine()
    made, stack = image_of(seed)
    made.put(engine.store, "docker.io/library/app:1")
    chance = Random(seed)
    first = chance.randrange(len(stack))
    last = chance.randrange(first, len(stack))
    for number, options in enumerate((SquashOptions(first=str(first), last=str(last)), SquashOptions(is_all=True))):
        name = f"squashed:{number}"
        engine.squash("app:1", name, options=options)
        with seen(engine, name) as files:
            # The root's own attributes and times of unlisted directories are nobody's business.
            assert differences(union_of(stack), files) == []
    assert list(engine.check()) == []


def test_what_prune_frees_is_what_df_promised(open_engine: Callable[[], Engine]) -> None:
    """A squashed layer's blob is its own tar: two names of one file, counted once."""
    engine = open_engine()
    image_of(3)[0].put(engine.store, "docker.io/library/app:1")
    engine.squash("app:1", "flat:1", options=SquashOptions(is_all=True))
    with seen(engine, "flat:1"), seen(engine, "app:1"):
        pass
    blobs = [os.stat(path) for path in (engine.root / "blobs").rglob("*") if path.is_file()]
    assert any(status.st_nlink == 2 for status in blobs)
    assert sum(own_size(status) for status in blobs) < sum(status.st_blocks * 512 for status in blobs)
    promised = sum(row.reclaimable for row in engine.usage())
    assert promised == sum(row.size for row in engine.usage())
    assert engine.prune(all_images=True).freed == promised
    assert sum(row.size for row in engine.usage()) == 0
    assert [path for name in ("blobs", "layers") for path in (engine.root / name).rglob("*") if path.is_file()] == []


def test_an_ordinary_user_squashes(ordinary_user: OrdinaryUser) -> None:
    def run(*words: str, **more: str) -> str:
        done = subprocess.run(ordinary_user.python("-m", "lamina", *words, **more), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = Path(tempfile.mkdtemp(prefix="lamina-squash-"))
    os.chown(home, ordinary_user.uid, ordinary_user.gid)
    try:
        run("demo", "--keep", str(home / "keep"), TMPDIR=str(home))
        root = ("--root", str(home / "keep" / "state"))
        listed = run(*root, "images", "--format", "{{.Repository}}:{{.Tag}}").split()
        run(*root, "squash", "--all", next(name for name in listed if name.endswith("/worker:1")), "-t", "flat:1")
        looked = run(*root, "mount", "flat:1", "--", "sh", "-c", "ls $LAMINA_MOUNT/files")
        assert looked.split() == ["file-1", "file-2", "file-3", "file-4", "file-6"]
    finally:
        shutil.rmtree(home)
