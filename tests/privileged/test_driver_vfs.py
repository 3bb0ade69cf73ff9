"""The driver vfs where files share their blocks, and where they do not: what a container costs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.life import live, make_base
from tests.privileged.loopdisk import wait_until_forgotten
from tests.privileged.places import Place, busybox_layer, make_layout

from lamina.snapshot import syscalls
from lamina.testing.images import file

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("vfs disks")]
MB = 1 << 20
SIZES = {"xfs": 800 * MB, "btrfs": 800 * MB, "ext4": 800 * MB}


@pytest.fixture(params=SIZES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own, in a file without content of its own."""
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(SIZES[request.param])
    quiet = () if request.param == "btrfs" else ("-q",)
    subprocess.run([f"mkfs.{request.param}", *quiet, image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        wait_until_forgotten(image)


@pytest.fixture
def kind(request: pytest.FixtureRequest, disk: Path) -> str:
    return str(request.node.callspec.params["disk"])


def used(disk: Path) -> int:
    """After all is written, and what was removed is given back."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        syscalls.syncfs(descriptor)
    finally:
        os.close(descriptor)
    if subprocess.run(["stat", "-f", "-c", "%T", disk], capture_output=True, text=True, check=True).stdout == "btrfs\n":
        subprocess.run(["btrfs", "filesystem", "sync", disk], check=True, capture_output=True)
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_what_a_container_costs(disk: Path, kind: str) -> None:
    place = Place(disk / "root", None, "vfs", "embedded")
    big = [file(f"big/{number}", os.urandom(10 * MB)) for number in range(10)]
    place.say("load", "-q", "-i", make_layout(disk / "layout", [busybox_layer(), big]))
    shutil.rmtree(disk / "layout")
    before = used(disk)
    place.say("create", "--name", "one", "--network", "none", "base:1", "sh", "-c", "echo x >>/big/3; tail -c 2 /big/3")
    cost = used(disk) - before
    if kind == "ext4":
        assert 100 * MB < cost < 115 * MB
    else:
        assert cost < 5 * MB
    assert place.say("start", "-a", "one") == "x\n"
    assert place.lines("diff", "one") == ["C /big", "C /big/3"]
    if kind != "ext4":
        assert used(disk) - before < 8 * MB
    place.say("rm", "one")
    assert used(disk) - before < 5 * MB


@pytest.mark.parametrize("disk", ["xfs"], indirect=True)
def test_a_life_on_xfs(disk: Path) -> None:
    place = Place(disk / "root", None, "vfs", "runc")
    (disk / "context").mkdir()
    try:
        live(place, make_base(disk / "layout"), disk / "context")
    finally:
        place.clear()
