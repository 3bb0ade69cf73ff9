"""Five hundred containers of one image: what each costs, that the image costs nothing more, and exact accounts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.privileged.places import Place, busybox_layer, disk_use, make_layout, owned_directory, wait_for

from lamina.engine.containers import everything
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.runtime.options import ContainerOptions
from lamina.testing.images import directory, file

pytestmark = pytest.mark.privileged

MANY = 500
MAKERS = 8
BATCH = 125  # so many run at a time: each has a process of Python beside it
# A directory of its own with a lock and a place for its root, and two for what it will write: no file of the image's.
MOST_BYTES = 24 * 1024
MAKER = """
import sys
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.runtime.options import ContainerOptions
flags = {"data-root": sys.argv[1], "storage-driver": "overlay2"}
options = ContainerOptions(command=("sh", "-c", "echo mine >/mine; sleep 600"), networks=("none",))
with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
    for _ in range(int(sys.argv[2])):
        print(engine.create("base:1", options=options).id)
"""
# Without threads, as the command is: then a monitor is a fork, and not a new interpreter.
RUNNER = """
import sys
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
flags = {"data-root": sys.argv[1], "storage-driver": "overlay2", "default-runtime": "embedded"}
with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
    for name in sys.argv[3:]:
        getattr(engine, sys.argv[2])(name)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "root", runtime="embedded")
    layers = [busybox_layer(), [directory("data"), file("data/large", os.urandom(8 << 20))]]
    with owned_directory(None) as path:
        made.say("load", "-q", "-i", make_layout(path / "layout", layers))
    try:
        yield made
    finally:
        made.clear()


def parts(place: Place) -> int:
    """Bytes of what belongs to containers, whatever it is."""
    homes = (place.root / "containers", place.root / "snapshots" / "overlay2")
    return sum(disk_use(path) for home in homes for path in home.iterdir() if path.name != "roots")


def image(place: Place) -> list[int]:
    return [disk_use(place.root / name) for name in ("blobs", "layers")]


def insist_exact(place: Place, *, total: int, active: int) -> int:
    """``system df`` says what is on the disk, to the byte; gives what it promises."""
    row = place.usage()["Containers"]
    assert (row["total"], row["active"], row["size"]) == (total, active, parts(place))
    promised: int = row["reclaimable"]
    return promised


def make(place: Place, shares: Sequence[int]) -> list[subprocess.Popen[str]]:
    """A process for each share, all at once."""
    return [
        subprocess.Popen([sys.executable, "-c", MAKER, place.root, str(share)], stdout=subprocess.PIPE, text=True)
        for share in shares
    ]


def made_by(makers: Sequence[subprocess.Popen[str]]) -> list[str]:
    said = [maker.communicate()[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * len(makers)
    return "".join(said).split()


def act_on(place: Place, verb: str, names: Sequence[str]) -> None:
    """Two processes at once, each with its half."""
    half = len(names) // 2
    runners = [
        subprocess.Popen([sys.executable, "-c", RUNNER, place.root, verb, *part]) for part in (names[:half], names[half:])
    ]
    assert [runner.wait() for runner in runners] == [0, 0]


def written(place: Place) -> int:
    """How many containers have a file of their own."""
    return len(list((place.root / "snapshots" / "overlay2").glob("*/upper/mine")))


def test_five_hundred(place: Place) -> None:
    place.say("run", "--rm", "--network", "none", "base:1", "true")
    before = image(place)
    insist_exact(place, total=0, active=0)
    made = made_by(make(place, [MANY // MAKERS + (number < MANY % MAKERS) for number in range(MAKERS)]))
    assert len(set(made)) == MANY
    assert image(place) == before, "a container costs its image nothing"
    promised = insist_exact(place, total=MANY, active=0)
    assert promised == parts(place)
    assert promised <= MANY * MOST_BYTES
    flags = {"data-root": str(place.root), "storage-driver": "overlay2", "default-runtime": "embedded"}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        found = [seen.container for seen in everything(engine)]
        assert {container.id for container in found} == set(made)
        assert len({container.name for container in found}) == MANY
        for first in range(0, MANY, BATCH):
            batch = made[first : first + BATCH]
            act_on(place, "start", batch)
            wait_for(lambda count=first + BATCH: written(place) == count)
            insist_exact(place, total=MANY, active=BATCH)
            if first + BATCH < MANY:
                act_on(place, "kill", batch)
        assert image(place) == before
        promised = insist_exact(place, total=MANY, active=BATCH)
        disk = parts(place)
        removed, freed = engine.prune_containers()
        assert (len(removed), freed, disk - parts(place)) == (MANY - BATCH, promised, promised)
        assert insist_exact(place, total=BATCH, active=BATCH) == 0
        act_on(place, "kill", made[-BATCH:])
        promised = insist_exact(place, total=BATCH, active=0)
        assert promised == parts(place)
        assert engine.prune_containers()[1] == promised
    assert insist_exact(place, total=0, active=0) == 0
    assert (parts(place), image(place)) == (0, before)


def test_tidying_up_takes_nothing_from_those_who_are_making_and_removing(place: Place) -> None:
    flags = {"data-root": str(place.root), "storage-driver": "overlay2"}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        makers = make(place, [20, 20, 20])
        while any(maker.poll() is None for maker in makers):
            engine.prune()
            for seen in list(everything(engine))[:5]:
                engine.remove_container(seen.container.id)
        assert len(set(made_by(makers))) == 60
        left = {seen.container.id for seen in everything(engine)}
        assert set(os.listdir(place.root / "containers")) == left
        assert {info.key for info in engine.driver.walk() if info.diff_id is None} == {f"container-{name}" for name in left}


def test_what_was_abandoned_is_counted_and_goes(place: Place) -> None:
    """Its process died between the making of a directory and of the row that knows it."""
    flags = {"data-root": str(place.root), "storage-driver": "overlay2"}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        kept = engine.create("base:1", options=ContainerOptions(command=("true",))).id
        container = place.root / "containers" / ("f" * 64)
        container.mkdir(mode=0o700)
        (container / "lock").touch()
        (container / "log").write_bytes(bytes(100_000))
        snapshot = place.root / "snapshots" / "overlay2" / ("f" * 32)
        (snapshot / "upper").mkdir(parents=True)
        (snapshot / "upper" / "half").write_bytes(bytes(200_000))
        promised = {row.type: row for row in engine.usage()}["Leftovers"]
        assert (promised.total, promised.size) == (2, disk_use(container) + disk_use(snapshot))
        assert engine.prune().freed == promised.reclaimable
        assert [path.name for path in (place.root / "containers").iterdir()] == [kept]
        assert not snapshot.exists()
        assert {row.type: row for row in engine.usage()}["Leftovers"].size == 0
