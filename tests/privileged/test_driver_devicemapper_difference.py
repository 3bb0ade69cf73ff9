"""What a thin pool knows of a snapshot's changes, in a guest of our own (see ``uml``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from tests.privileged import thindelta
from tests.privileged.uml import Guest

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("devicemapper")]


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with Guest(memory="1G", modules=["dm-thin-pool"]) as guest:
        yield guest


def inside(guest: Guest, *words: str) -> None:
    done = guest.run(f"{sys.executable} -m tests.privileged.thindelta {' '.join(words)}", 200)
    if done.returncode:
        guest.run("umount -a -t ext4,xfs; dmsetup remove_all --force")  # what failed may not fail others
    assert done.returncode == 0, done.output[-6000:]


@pytest.mark.parametrize("filesystem", thindelta.FILESYSTEMS)
def test_both_find_the_same(guest: Guest, filesystem: str) -> None:
    inside(guest, "both_find_the_same", filesystem, "1", "5")


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in thindelta.SCENARIOS])
def test_scenario(guest: Guest, name: str) -> None:
    inside(guest, name)
