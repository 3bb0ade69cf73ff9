"""The driver devicemapper, in a guest of our own: this kernel has no device-mapper (see ``uml``)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.privileged import thin, thinmoves
from tests.privileged.uml import Guest

from lamina.testing.conformance import CASES

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("devicemapper")]

# What touches the filesystem itself; the rest is the same for both.
ON_XFS = (
    "attributes_survive", "extended_attributes", "devices_and_pipes", "hard_links_are_one_file",
    "the_root_is_what_a_layer_says", "a_root_that_no_layer_lists", "changes_stack", "a_view_changes_nothing",
    "what_is_mounted_stays", "usage_counts_what_is_new",
)
CUTS = 4


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with Guest(memory="1G", modules=["dm-thin-pool"]) as guest:
        yield guest


def cases(guest: Guest, *words: str) -> dict[str, str]:
    given = " ".join(f"--storage-opt {option}" for option in (*thin.SMALL, *words))
    names = " ".join(f"--case {name}" for name in ON_XFS) if words else ""
    done = guest.run(
        f"{sys.executable} -m lamina.testing.conformance devicemapper --root /tmp --json {given} {names}", timeout=300
    )
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert len(lines) == (len(ON_XFS) if words else len(CASES)), done.output[-4000:]
    return {line["case"]: line["problem"] for line in lines}


@pytest.fixture(scope="module")
def on_ext4(guest: Guest) -> dict[str, str]:
    return cases(guest)


@pytest.fixture(scope="module")
def on_xfs(guest: Guest) -> dict[str, str]:
    return cases(guest, "dm.fs=xfs")


@pytest.mark.parametrize("name", CASES)
def test_case(on_ext4: dict[str, str], name: str) -> None:
    assert on_ext4[name] == ""


@pytest.mark.parametrize("name", ON_XFS)
def test_case_on_xfs(on_xfs: dict[str, str], name: str) -> None:
    assert on_xfs[name] == ""


def inside(guest: Guest, *words: str, timeout: float = 120) -> None:
    given = " ".join(f"'{word}'" for word in words)
    done = guest.run(f"{sys.executable} -m tests.privileged.thin {given}", timeout)
    if done.returncode:
        guest.run("umount -a -t ext4,xfs; dmsetup remove_all --force")  # what failed may not fail others
    assert done.returncode == 0, done.output[-6000:]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Where no other test leaves anything in the kernel."""
    with Guest(memory="1G", modules=["dm-thin-pool"]) as guest:
        yield guest


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in thin.SCENARIOS])
def test_scenario(second: Guest, name: str) -> None:
    inside(second, name)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_a_container_that_fills_the_pool_keeps_what_was_synced(second: Guest, filesystem: str) -> None:
    inside(second, "full_by_a_container", filesystem)


@pytest.mark.parametrize(("runtime", "filesystem"), [("embedded", "ext4"), ("runc", "xfs")])
def test_a_life(second: Guest, runtime: str, filesystem: str) -> None:
    inside(second, "life", runtime, filesystem, timeout=200)


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in thinmoves.SCENARIOS])
def test_moving(second: Guest, name: str) -> None:
    done = second.run(f"{sys.executable} -m tests.privileged.thinmoves {name}", timeout=200)
    assert done.returncode == 0, done.output[-6000:]


def test_a_pool_of_lvm_where_udev_runs(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as stream:
        stream.truncate(2 << 30)
    with Guest(memory="512M", disks=[tmp_path / "disk"], modules=["dm-thin-pool"]) as guest:
        done = guest.run(f"{sys.executable} -m tests.privileged.thinvolumes", timeout=150)
        assert done.returncode == 0, done.output[-6000:]


def test_the_power_fails(tmp_path: Path) -> None:
    """At seeded moments; the disks go on as they were. See ``thin.acts`` for what is done meanwhile."""
    disks = []
    for name, size in (("state", 256 << 20), ("data", 1 << 30), ("metadata", 16 << 20)):
        disks.append(tmp_path / name)
        with disks[-1].open("wb") as stream:
            stream.truncate(size)
    random = Random(102)
    with Guest(memory="512M", disks=disks, modules=["dm-thin-pool"]) as guest:
        told = guest.shared / "told"
        told.touch()
        guest.check("mkfs.ext4 -q /dev/ubda")
        for cut in range(CUTS):
            guest.check("mount /dev/ubda /mnt; mkdir -p /mnt/root")
            before = told.stat().st_size
            working = guest.begin(f"{sys.executable} -m tests.privileged.thin acts {cut} {told}")
            while told.stat().st_size == before:
                assert not working.is_over, working.output
                time.sleep(0.02)
            time.sleep(random.uniform(0, 1.5))
            assert not working.is_over, working.output
            guest.kill()
            guest.check("mount /dev/ubda /mnt")
            inside(guest, "look_after", str(told))
            guest.check("umount /mnt")
