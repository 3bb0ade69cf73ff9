"""A thin pool that LVM made, on a machine where udev runs, for the tests of the driver: see ``thin``.

``python -m tests.privileged.thinvolumes`` goes through it; a failed assertion is its output.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.privileged.thin import again, bench, driver_of, ours, output

from lamina.snapshot.devicemapper import ioctl

DISK = "/dev/ubda"
POOL = "/dev/mapper/group-pool"
_OPTIONS = (f"dm.thinpooldev={POOL}", "dm.basesize=256M")
# What a machine's lvm.conf need not say: the name of a disk of User-Mode Linux.
_LVM = ("--config", 'devices/types=["ubd",16]')


def lvm(*words: str) -> str:
    done = subprocess.run(["lvm", *words, *_LVM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def begin_udev() -> None:
    Path("/run/udev").mkdir()
    output("/lib/systemd/systemd-udevd", "--daemon")
    output("udevadm", "trigger", "--action=add", "--subsystem-match=block")
    settle()


def settle() -> None:
    output("udevadm", "settle", "--timeout=30")


def told_of(device: str) -> dict[str, str]:
    """What udev's rules found out about a device of ours."""
    lines = output("udevadm", "info", "--query=property", f"/dev/mapper/{device}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def make_pool() -> None:
    for directory in ("/run/lvm", "/run/lock/lvm"):
        Path(directory).mkdir(parents=True, exist_ok=True)
    lvm("pvcreate", DISK)
    lvm("vgcreate", "group", DISK)
    lvm("lvcreate", "--type", "thin-pool", "-L", "1G", "--poolmetadatasize", "8M", "-n", "pool", "group")


def main() -> None:
    os.environ["LVM_SUPPRESS_FD_WARNINGS"] = "1"
    begin_udev()
    make_pool()
    volume_of_their_own("theirs")
    # Over a pool with volumes LVM has put a device of its own: that name leads to the pool as well.
    assert ioctl.table("group-pool")[0] == "linear"
    with bench("lvm", *_OPTIONS) as made:
        made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
        mounts = made.driver.prepare("one", "base")
        settle()
        known = told_of(ours()[0])
        assert known["DM_UDEV_DISABLE_OTHER_RULES_FLAG"] == known["DM_UDEV_DISABLE_DISK_RULES_FLAG"] == "1"
        # A stranger's filesystem is looked into by nobody, and has no names by what it says of itself.
        assert not [name for name in known if name.startswith("ID_FS_")]
        assert "/disk/" not in known.get("DEVLINKS", "")
        with made.mounted(mounts) as path:
            (path / "g").write_text("y")
        volume_of_their_own("theirs-too")
        made.driver.prepare("two", "base")
        made.driver.remove("two")
        driver_of(made).sweep()
    settle()
    assert ours() == []
    root = Path("/tmp/lvm-kept")
    made = again(root, _OPTIONS)
    made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
    made.driver.prepare("one", "base")
    made.close()
    the_machine_starts_again()
    made = again(root, _OPTIONS)
    with made.mounted(made.driver.mounts("one")) as path:
        assert (path / "f").read_text() == "x"
    made.close()
    for name in ("theirs", "theirs-too"):
        output("fsck.ext4", "-fn", f"/dev/group/{name}")


def volume_of_their_own(name: str) -> None:
    lvm("lvcreate", "-V", "64M", "-T", "group/pool", "-n", name)
    output("mkfs.ext4", "-q", f"/dev/group/{name}")


def the_machine_starts_again() -> None:
    """All devices are gone, and LVM makes its own again: it finds the pool as it left it."""
    for name in ours():
        subprocess.run(["dmsetup", "remove", "--retry", name], check=True)
    lvm("vgchange", "-an", "group")
    assert ioctl.find("group-pool") is None
    lvm("vgchange", "-ay", "group")
    settle()


if __name__ == "__main__":
    main()
