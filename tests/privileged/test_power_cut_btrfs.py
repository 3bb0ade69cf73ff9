"""Power cut on btrfs, which has no way to be shut down from outside: a guest is killed, and another one looks.

What is done meanwhile is what ``test_power_cut`` does on ext4 and xfs.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
from tests.privileged.test_power_cut import KEEPER
from tests.privileged.uml import Guest

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("guests")]

_CUTS = 2
_LAMINA = f"LAMINA_STORAGE_DRIVER=btrfs {sys.executable} -m lamina --root /mnt/root"


def test_containers_and_images_that_were_acknowledged_survive(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as stream:
        stream.truncate(512 << 20)
    chance = random.Random(100)
    with Guest(memory="512M", disks=[disk]) as guest:
        keeper, told = guest.shared / "keeper.py", guest.shared / "told"
        keeper.write_text(KEEPER)
        told.touch()
        guest.check("mkfs.btrfs -q /dev/ubda")
        for cut in range(_CUTS):
            guest.check("mount /dev/ubda /mnt")
            before = told.read_text().count("c")
            working = guest.begin(
                f"LAMINA_STORAGE_DRIVER=btrfs {sys.executable} {keeper} /mnt/root {cut * 30000} >>{told}"
            )
            while told.read_text().count("c") == before:
                assert not working.is_over, working.output
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 2))
            assert not working.is_over, working.output
            guest.kill()
            said = told.read_text().split("\n")[:-1]
            told.write_text("".join(f"{line}\n" for line in said))
            guest.check("mount /dev/ubda /mnt")
            repaired = guest.check(f"{_LAMINA} check --repair 2>/dev/null")
            assert repaired.count("\n") == repaired.count("its layer is missing") <= 1, repaired
            there = set(guest.check(f"{_LAMINA} ps -a --format '{{{{.Names}}}}'").split())
            gone = {name[1:] for name in said if name.startswith("-")}
            lasting = {name for name in said if name.startswith("c")} - gone
            assert len(lasting - there) <= 1, lasting - there  # as it was being removed, perhaps
            assert not gone & there
            images = set(guest.check(f"{_LAMINA} images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'").split())
            assert {name for name in said if name.startswith("kept:")} <= images
            guest.check("umount /mnt")
        guest.check("mount /dev/ubda /mnt")
        guest.check(f"{_LAMINA} rm -f {' '.join(there)} && {_LAMINA} system prune --force --all")
        left = guest.check("ls /mnt/root/containers /mnt/root/snapshots/btrfs; btrfs subvolume list /mnt | wc -l")
        assert left.split() == ["/mnt/root/containers:", "/mnt/root/snapshots/btrfs:", "0"], left
