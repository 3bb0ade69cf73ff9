"""storage ls, migrate, bench."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cli.fakes import Command

from lamina.engine.drivers import DriverRow
from lamina.engine.migrating import Migration, StateInUse
from lamina.engine.room import NoRoom, Room
from lamina.engine.storagebench import Benched, BenchRow
from lamina.events import Action, Event
from lamina.snapshot.probing import Candidate

ROWS = (
    DriverRow(name="overlay2", is_usable=True, is_in_use=True, snapshots=3, containers=1, size=1_234_567, reason="fast"),
    DriverRow(name="zfs", is_usable=False, is_in_use=False, snapshots=0, containers=0, size=0, reason="no pool\x1b"),
    DriverRow(name="gone", is_usable=False, is_in_use=False, snapshots=2, containers=0, size=None, reason="not installed"),
)


def test_ls(command: Command) -> None:
    assert command("storage", "ls", storage_drivers=ROWS).lines == [
        "DRIVER     USABLE   IN USE   SNAPSHOTS   CONTAINERS      SIZE   WHAT IT DOES, OR WHY IT CANNOT",
        "overlay2   yes      yes              3            1   1.235MB   fast",
        "zfs        no       no               0            0        0B   no pool\\x1b",
        "gone       no       no               2            0         -   not installed",
    ]


def test_ls_as_json_is_exact(command: Command) -> None:
    lines = command("storage", "ls", "--format", "json", storage_drivers=ROWS).lines
    assert [json.loads(line) for line in lines][::2] == [
        {"Name": "overlay2", "Usable": True, "InUse": True, "Snapshots": 3, "Containers": 1, "Size": 1_234_567,
         "Reason": "fast"},
        {"Name": "gone", "Usable": False, "InUse": False, "Snapshots": 2, "Containers": 0, "Size": None,
         "Reason": "not installed"},
    ]


def migration(**fields: Any) -> Migration:
    return Migration(**{
        "target": "vfs", "sources": ("overlay2",), "images": ("app:1",), "layers": 2, "layer_size": 3_000_000,
        "containers": ("a", "b"), "container_size": 4000, "freed": 5_000_000,
        "rooms": (Room(place="/x", needed=6_000_000, free=5_000_000),), **fields,
    })


def test_migrate_says_what_it_did(command: Command) -> None:
    result = command("storage", "migrate", "--to", "vfs", migrate_storage=migration())
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        "From overlay2 to vfs:",
        "  1 image with 2 layers (3MB) was unpacked anew",
        "  2 containers (4kB) were moved: a, b",
        "Total reclaimed space: 5MB",
    ]
    assert result.asked == [("migrate_storage", ("vfs",), {"is_dry_run": False})]


def test_a_dry_run_speaks_of_what_would_be(command: Command) -> None:
    found = migration(freed=0, is_dry_run=True, containers=("a",))
    result = command("storage", "migrate", "--dry-run", "--to", "vfs", migrate_storage=found)
    assert result.lines[1:] == [
        "  1 image with 2 layers (3MB) would be unpacked anew", "  1 container (4kB) would be moved: a",
        "  /x would take about 6MB, and has 5MB",
    ]
    assert result.asked[0][2] == {"is_dry_run": True}


def test_nothing_to_move(command: Command) -> None:
    found = migration(sources=(), images=(), layers=0, layer_size=0, containers=(), container_size=0, freed=0)
    assert command("storage", "migrate", "--to", "vfs", migrate_storage=found).lines == [
        "Nothing is with another driver than vfs."]


def test_what_stayed_is_told_and_fails(command: Command) -> None:
    found = migration(remaining=("overlay2 still has 2 snapshots",), notes=("a word",))
    result = command("storage", "migrate", "--to", "vfs", migrate_storage=found)
    assert (result.code, result.err) == (1, "note: a word\nnote: overlay2 still has 2 snapshots\n")


def test_migrate_as_json(command: Command) -> None:
    result = command("storage", "migrate", "--to", "vfs", "--format", "json", migrate_storage=migration())
    assert json.loads(result.out) == {
        "Target": "vfs", "Sources": ["overlay2"], "Images": ["app:1"], "Layers": 2, "LayerSize": 3_000_000,
        "Containers": ["a", "b"], "ContainerSize": 4000, "Freed": 5_000_000, "Remaining": [], "Notes": [],
        "DryRun": False, "Room": [{"Place": "/x", "Needed": 6_000_000, "Free": 5_000_000}],
    }


def test_progress_of_a_migration(command: Command) -> None:
    command.events = [Event(action=Action.MOVING, subject="web"), Event(action=Action.MOVED, subject="web")]
    result = command("storage", "migrate", "--to", "vfs", migrate_storage=migration())
    assert result.err == "web: Moving\nweb: Moved\n"


def test_what_is_in_the_way_is_a_sentence(command: Command) -> None:
    result = command("storage", "migrate", "--to", "vfs", migrate_storage=StateInUse("/mnt: mounted images"))
    assert (result.code, result.out, result.err) == (1, "", "lamina: /mnt: mounted images\n")


def test_migrate_needs_a_driver(command: Command) -> None:
    result = command("storage", "migrate")
    assert result.code == 125
    assert "storage migrate needs --to" in result.err


BENCHED = Benched(
    rows=(BenchRow(driver="overlay2", layers=10, containers=50, stack=0.25, create=0.0021, write=0.004, diff=0.003,
                   commit=0.0204, remove=0.001, size=20_480),),
    left_out=(Candidate(name="zfs", is_usable=False, reason="no pool"),),
)


def test_bench(command: Command) -> None:
    result = command("storage", "bench", bench_storage=BENCHED)
    assert result.lines == [
        "DRIVER       STACK   CREATE   WRITE    DIFF   COMMIT   REMOVE   SIZE",
        "overlay2   250.0ms    2.1ms   4.0ms   3.0ms   20.4ms    1.0ms   20.48kB",
    ]
    assert result.err == "note: without zfs: no pool\n"
    assert result.asked == [("bench_storage", ([],), {"layers": 10, "containers": 50})]


def test_bench_as_asked_and_exactly(command: Command) -> None:
    words = ("--drivers", "overlay2,vfs", "--layers", "3", "--containers", "4", "--format", "json")
    result = command("storage", "bench", *words, bench_storage=BENCHED)
    assert result.asked == [("bench_storage", (["overlay2", "vfs"],), {"layers": 3, "containers": 4})]
    assert json.loads(result.out) == {
        "Driver": "overlay2", "Layers": 10, "Containers": 50, "Stack": 0.25, "Create": 0.0021, "Write": 0.004,
        "Diff": 0.003, "Commit": 0.0204, "Remove": 0.001, "Size": 20_480,
    }


def test_a_bench_that_could_fill_the_disk_says_what_it_takes(command: Command) -> None:
    result = command("storage", "bench", bench_storage=NoRoom("/x: comparing may take 9 MiB"))
    assert (result.code, result.err) == (1, "lamina: /x: comparing may take 9 MiB\n")


@pytest.mark.parametrize("words", [("storage", "ls"), ("storage", "bench", "--layers", "2", "--containers", "2")])
def test_really(command: Command, words: tuple[str, ...]) -> None:
    command.is_real, command.environ = True, {"LAMINA_STORAGE_DRIVER": "vfs"}
    result = command(*words)
    assert result.code == 0, result.err
    assert any(line.startswith("vfs ") for line in result.lines)
    assert list((command.home / "root/ingest").iterdir()) == []
