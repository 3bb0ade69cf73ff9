"""What a guest that has device-mapper does for the tests of moving from one driver to another.

``python -m tests.privileged.thinmoves NAME`` runs one; a failed assertion is its output.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.privileged.test_migrate import everything, opened
from tests.privileged.test_migrate_ways import BASE, fill, flagged, flags, made, seen
from tests.privileged.thin import SMALL, ours, output

from lamina.engine.drivers import listing
from lamina.engine.engine import Engine
from lamina.engine.migrating import migrate
from lamina.engine.room import NoRoom
from lamina.snapshot.devicemapper import pool, volumes
from lamina.testing.images import make_image
from lamina.testing.model import ModelFile, differences

Content = tuple[dict[str, ModelFile], list[str]]


@contextlib.contextmanager
def disk(name: str) -> Iterator[Path]:
    """An ext4, which has all that files can have; /tmp itself has not."""
    image, place = Path("/tmp", f"{name}.image"), Path("/tmp", name)
    output("truncate", "-s", "256M", str(image))
    output("mkfs.ext4", "-q", str(image))
    place.mkdir()
    output("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        output("umount", str(place))
        image.unlink()
    assert ours() == []
    assert output("losetup", "-a") == ""


def begun(root: Path, *options: str) -> Content:
    with opened(root, "overlay2", *options) as engine:
        made(engine)
        with seen(engine, "one") as top:
            fill(top)
        return everything(engine, "one")


def insist_same(engine: Engine, driver: str, content: Content) -> None:
    files, changes = everything(engine, "one")
    assert differences(content[0], files) == []
    assert changes == content[1]
    assert {row.name for row in listing(engine) if row.snapshots or row.size} == {driver}
    assert engine.usage()[-1].total == 0


def there_and_back(root: Path, *options: str) -> None:
    """With little: see ``a_pool_in_files`` for what all there can be in a container."""
    with opened(root, "overlay2", *options) as engine:
        image = make_image([BASE], execution={"Cmd": ["x"]})
        image.put(engine.store, "docker.io/library/base:1")
        engine.create("base:1", name="one")
        with seen(engine, "one") as top:
            (top / "d/over").write_bytes(b"now")
        content = everything(engine, "one")
    for driver in ("devicemapper", "overlay2"):
        with opened(root, driver, *options) as engine:
            migrate(engine, driver)
            insist_same(engine, driver, content)


def a_pool_in_files() -> None:
    """It goes with the last that was in it: devices, pool, loop devices, files."""
    with disk("files") as place:
        root = place / "root"
        content = begun(root, *SMALL)
        with opened(root, "devicemapper", *SMALL) as engine:
            rooms = migrate(engine, "devicemapper", is_dry_run=True).rooms
            assert [room.place for room in rooms] == [str(root), f"{root}/snapshots/devicemapper/data"]
            assert not (root / "snapshots/devicemapper").exists()
            migrate(engine, "devicemapper")
            insist_same(engine, "devicemapper", content)
        assert (root / "snapshots/devicemapper/data").exists()
        with opened(root, "overlay2", *SMALL) as engine:
            done = migrate(engine, "overlay2")
            insist_same(engine, "overlay2", content)
            assert done.freed > 4 << 20
        assert not (root / "snapshots/devicemapper").exists()
        with opened(root, "overlay2", *SMALL) as engine:
            flagged(engine, "flagged")
            migrate(engine, "devicemapper")
            with seen(engine, "flagged") as top:
                assert len(flags(top)) == 4
            migrate(engine, "overlay2")
        options = ("dm.allow_loop=true", "dm.loopdatasize=1M", "dm.min_free_space=0%")
        with opened(root, "devicemapper", *options) as engine:
            with pytest.raises(NoRoom, match=r"devicemapper/data: the migration takes .* and 1\.0 MiB are free"):
                migrate(engine, "devicemapper")
            assert not (root / "snapshots/devicemapper").exists()


def devices_of_others() -> None:
    """A pool, and devices, that somebody made: of ours nothing stays in them, and they stay what they were."""
    with disk("others") as place:
        devices = []
        for name, size in (("data", 768 << 20), ("metadata", 8 << 20)):
            with Path("/tmp", f"others-{name}").open("wb") as stream:
                stream.truncate(size)
            devices.append(output("losetup", "--show", "-f", f"/tmp/others-{name}"))
        output("dmsetup", "create", "their-pool", "--table", f"0 1572864 thin-pool {devices[1]} {devices[0]} 128 0")
        output("dmsetup", "message", "their-pool", "0", "create_thin 1")
        output("dmsetup", "mknodes")
        there_and_back(place / "pool", "dm.thinpooldev=/dev/mapper/their-pool", "dm.basesize=512M")
        assert not (place / "pool/snapshots/devicemapper").exists()
        output("dmsetup", "remove", "their-pool")
        assert identifiers(devices[1]) == {1}
        output("dd", "if=/dev/zero", f"of={devices[1]}", "bs=4096", "count=1")
        own = (f"dm.datadev={devices[0]}", f"dm.metadatadev={devices[1]}", "dm.basesize=512M")
        there_and_back(place / "own", *own)
        left = {path.name for path in (place / "own/snapshots/devicemapper").iterdir()}
        assert {"claimed"} <= left <= {"claimed", "checked"}, left
        assert identifiers(devices[1]) == set()
        for device in devices:
            output("losetup", "-d", device)


def identifiers(metadata: str) -> set[int]:
    return set(map(int, re.findall(r'dev_id="(\d+)"', output("thin_dump", "--skip-mappings", metadata))))


def killed_while_it_goes() -> None:
    """After each act of taking a pool away, once: the next migration finishes, with nothing to move, or a prune."""
    acts: list[tuple[Any, str]] = [
        (volumes.Volumes, "discard"), (volumes.Volumes, "_deleted"), (pool.PoolSource, "deactivate"),
        (pool.PoolSource, "withdraw"),
    ]
    with disk("killed") as place:
        for number, (owner, name) in enumerate(acts):
            for is_before in (True, False):
                dies(place / f"{number}-{is_before}", owner, name, is_before=is_before)


def dies(root: Path, owner: Any, name: str, *, is_before: bool) -> None:
    with opened(root, "devicemapper", *SMALL) as engine:
        driver: Any = engine.driver
        driver.prepare("one")
        driver.remove("one")
    child = os.fork()
    if child == 0:
        whole = getattr(owner, name)

        def act(*arguments: Any) -> Any:
            if not is_before:
                whole(*arguments)
            os._exit(7)

        with opened(root, "overlay2") as engine:
            setattr(owner, name, act)
            migrate(engine, "overlay2")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with opened(root, "overlay2") as engine:
        if is_before:
            engine.prune()
        else:
            migrate(engine, "overlay2")
    assert not (root / "snapshots/devicemapper").exists(), (name, is_before)


SCENARIOS = (a_pool_in_files, devices_of_others, killed_while_it_goes)

if __name__ == "__main__":
    try:
        globals()[sys.argv[1]]()
    finally:
        subprocess.run("umount -a -t ext4 2>/dev/null; true", shell=True, check=False)
