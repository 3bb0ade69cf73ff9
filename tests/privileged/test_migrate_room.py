"""A migration asks for room before it writes: what it says, what it refuses, and what it must not refuse."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.loopdisk import wait_until_forgotten
from tests.privileged.places import wait_for
from tests.privileged.test_migrate import everything, insist_whole, opened, seen

from lamina.engine import migrating
from lamina.engine.engine import Engine
from lamina.engine.migrating import Migration, migrate
from lamina.engine.room import NoRoom
from lamina.testing.images import file, make_image

pytestmark = pytest.mark.privileged

MIB = 1 << 20
LAYER, WRITTEN = 8 * MIB, 6 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(128 * MIB)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        # A worker that ends lets go of it a moment later.
        wait_for(lambda: subprocess.run(["umount", place], check=False).returncode == 0)
        wait_until_forgotten(image)


def fill(engine: Engine) -> None:
    """An image of a layer that cannot be compressed, and two containers on it."""
    image = make_image([[file("big", os.urandom(LAYER))], [file("small", b"s")]], execution={"Cmd": ["x"]})
    image.put(engine.store, "docker.io/library/app:1")
    for name in ("one", "two"):
        engine.create("app:1", name=name)
        with seen(engine, name) as top:
            (top / "written").write_bytes(os.urandom(WRITTEN))


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize


def leave(place: Path, size: int) -> None:
    """So much is free, and no more."""
    (place / "ballast").unlink(missing_ok=True)
    os.sync()
    with (place / "ballast").open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, free(place) - size)


def state(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for place in ("layers", "snapshots") for path in (root / place).rglob("*")}


def dry(root: Path, driver: str, *options: str) -> Migration:
    with opened(root, driver, *options) as engine:
        return migrate(engine, driver, is_dry_run=True)


def test_a_disk_that_is_surely_too_small_is_refused_with_both_figures(disk: Path) -> None:
    """vfs takes the layer's tar, a tree of the image, and one for each container."""
    root = disk / "root"
    with opened(root, "overlay2") as engine:
        fill(engine)
    leave(disk, 16 * MIB)
    before = state(root)
    with opened(root, "vfs") as engine:
        for is_dry_run in (True, False):
            with pytest.raises(NoRoom) as refused:
                migrate(engine, "vfs", is_dry_run=is_dry_run)
            said = str(refused.value)
            assert said.startswith(f"{root}: the migration takes ")
            assert said.endswith(
                "MiB are free; make room (`lamina system df` shows what could go), or choose another driver")
            least, found = (int(word) for word in said.split() if word.isdigit())
            assert 16 < least < 30
            assert 13 <= found <= 16
        assert state(root) == before
        assert {engine.container(name).container.driver for name in ("one", "two")} == {"overlay2"}


def test_a_disk_that_may_be_too_small_is_a_note_of_the_dry_run(disk: Path) -> None:
    root = disk / "root"
    with opened(root, "overlay2") as engine:
        fill(engine)
    leave(disk, 34 * MIB)
    found = dry(root, "vfs")
    (room,) = found.rooms
    assert 32 * MIB <= room.free <= 34 * MIB
    assert 44 * MIB <= room.needed <= 50 * MIB
    assert [note for note in found.notes if note.startswith(f"{root}: the migration takes about ")]
    leave(disk, 60 * MIB)
    assert dry(root, "vfs").notes == ()


@pytest.mark.parametrize(("before", "after"), [("overlay2", "erofs"), ("vfs", "overlay2"), ("overlay2", "vfs")])
def test_what_is_refused_would_not_have_fitted(
    disk: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = disk / "root"
    with opened(root, before) as engine:
        fill(engine)
        files = {name: everything(engine, name) for name in ("one", "two")}
    (room,) = dry(root, after).rooms
    leave(disk, room.least - MIB)
    with pytest.raises(NoRoom):
        dry(root, after)
    with monkeypatch.context() as patched:
        patched.setattr(migrating, "insist_room", lambda _rooms: None)
        with opened(root, after) as engine, pytest.raises(OSError, match="No space left"):
            migrate(engine, after)
    leave(disk, room.needed + 4 * MIB)  # the reserve takes two
    with opened(root, after) as engine:
        migrate(engine, after)
        insist_whole(engine, files)


def test_what_is_there_already_is_not_asked_for_again(disk: Path) -> None:
    """A second run, after what stood in the way is gone."""
    root = disk / "root"
    with opened(root, "overlay2") as engine:
        fill(engine)
    whole = dry(root, "erofs").rooms[0]
    with opened(root, "erofs") as engine:
        engine.create("app:1", name="new")
    rest = dry(root, "erofs").rooms[0]
    assert LAYER <= whole.needed - rest.needed < LAYER + MIB


def test_zeros_of_a_container_take_nothing(disk: Path) -> None:
    """On disk they take their size where they are; the copy has holes."""
    root = disk / "root"
    with opened(root, "overlay2") as engine:
        make_image([[file("small", b"s")]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
        engine.create("app:1", name="one")
        with seen(engine, "one") as top:
            (top / "zeros").write_bytes(bytes(40 * MIB))
    leave(disk, 20 * MIB)
    with opened(root, "fuse-overlayfs") as engine:
        migrate(engine, "fuse-overlayfs")
        with seen(engine, "one") as top:
            assert (top / "zeros").read_bytes() == bytes(40 * MIB)
