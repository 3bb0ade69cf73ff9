"""Power cut at random moments, on real ext4 and xfs: an image that was acknowledged is whole afterwards.

The cut is FS_IOC_SHUTDOWN without flushing (include/uapi/linux/fs.h since 6.18, xfs's GOINGDOWN before): the
filesystem stops as if the machine had lost power, and what was only in memory is gone.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.loopdisk import wait_until_forgotten

pytestmark = pytest.mark.privileged

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = 2

# Loads small images one after the other, and says each name once the engine has answered for it.
_WRITER = textwrap.dedent("""
    import io, sys
    from lamina.content.memory import MemoryStore
    from lamina.archive import ArchiveWriter
    from lamina.engine.engine import Engine
    from lamina.testing.images import directory, file, make_image, make_layer
    base = make_layer([directory("bin"), *(file(f"bin/{n}", bytes([n]) * 5000) for n in range(40))])
    with Engine.open(sys.argv[1]) as engine:
        print("open", flush=True)
        for number in range(100000):
            image = make_image([base, make_layer([file("n", b"%d" % number * 3000)])])
            source, out = MemoryStore(), io.BytesIO()
            root = image.put(source)
            writer = ArchiveWriter(out, "oci-archive")
            writer.add(source, root, (f"docker.io/library/n:{number}",))
            writer.finish()
            engine.load(io.BytesIO(out.getvalue()))
            print(number, flush=True)
""")


# Creates containers of one image, writes into each as a container would, commits every third, and removes some.
KEEPER = textwrap.dedent("""
    import io, os, sys
    from lamina.content.memory import MemoryStore
    from lamina.archive import ArchiveWriter
    from lamina.engine.engine import Engine
    from lamina.testing.images import directory, file, make_image, make_layer
    with Engine.open(sys.argv[1]) as engine:
        if not engine.images():
            base = make_layer([directory("bin"), file("bin/sh", b"no program"), file("base", b"b" * 9000)])
            image = make_image([base], execution={"Cmd": ["sh"]})
            source, out = MemoryStore(), io.BytesIO()
            writer = ArchiveWriter(out, "oci-archive")
            writer.add(source, image.put(source), ("docker.io/library/base:1",))
            writer.finish()
            engine.load(io.BytesIO(out.getvalue()))
        print("open", flush=True)
        for number in range(int(sys.argv[2]), 100000):
            engine.create("base:1", name=f"c{number}")
            print(f"c{number}", flush=True)
            if number % 3 == 0:
                engine.commit(f"c{number}", f"kept:{number}")
                print(f"kept:{number}", flush=True)
            if number % 5 == 4:
                engine.remove_container(f"c{number - 1}")
                print(f"-c{number - 1}", flush=True)
""")


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    options = ["-q", "-F"] if request.param == "ext4" else ["-q"]
    subprocess.run([f"mkfs.{request.param}", *options, str(image)], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def cut_power(disk: Path) -> None:
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
    finally:
        os.close(descriptor)


def start_again(disk: Path) -> None:
    subprocess.run(["umount", str(disk)], check=True)
    wait_until_forgotten(disk.parent / "disk")
    subprocess.run(["mount", "-o", "loop", str(disk.parent / "disk"), str(disk)], check=True)


def lamina(disk: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lamina", "--root", str(disk / "root"), *words],
        capture_output=True, text=True, check=False, timeout=120,
    )


@pytest.mark.parametrize("driver", ["erofs", "overlay2", "vfs"])
def test_what_was_acknowledged_survives(disk: Path, driver: str) -> None:
    chance = random.Random(f"{disk}{driver}")
    acknowledged: list[str] = []
    for _cut in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(disk / "root")], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "LAMINA_STORAGE_DRIVER": driver},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        first = writer.stdout.readline().strip()
        assert first.isdecimal()
        time.sleep(chance.random() * 0.7)
        cut_power(disk)
        rest, _ = writer.communicate(timeout=60)
        acknowledged += [first, *(line for line in rest.split() if line.isdecimal())]
        start_again(disk)
        checked = lamina(disk, "check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        listed = set(lamina(disk, "images", "--format", "{{.Tag}}").stdout.split())
        assert set(acknowledged) <= listed
        for name in acknowledged[-1:]:
            shown = lamina(disk, "cat", f"n:{name}", "/n")
            assert shown.stdout.startswith(name), shown.stderr
    assert lamina(disk, "prune", "--force", "--all").returncode == 0
    assert lamina(disk, "images", "-q").stdout == ""


@pytest.mark.parametrize("driver", ["erofs", "overlay2", "vfs"])
def test_containers_that_were_acknowledged_survive_and_nothing_is_left_of_the_others(disk: Path, driver: str) -> None:
    chance = random.Random(f"{disk}{driver} containers")
    said: list[str] = []
    for cut in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(disk / "root"), str(cut * 50000)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "LAMINA_STORAGE_DRIVER": driver},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        first = writer.stdout.readline().strip()
        assert first.startswith("c")
        time.sleep(chance.random() * 0.7)
        cut_power(disk)
        rest, _ = writer.communicate(timeout=60)
        # The last line may have been cut short with the power.
        said += [first, *(rest.split("\n")[:-1])]
        start_again(disk)
        # A container may have been half removed: its layer goes before its row.
        repaired = lamina(disk, "check", "--repair")
        assert repaired.returncode == 0, repaired.stdout + repaired.stderr
        assert repaired.stdout.count("\n") == repaired.stdout.count("its layer is missing") <= 1, repaired.stdout
        gone = {name[1:] for name in said if name.startswith("-")}
        there = set(lamina(disk, "ps", "-a", "--format", "{{.Names}}").stdout.split())
        lasting = {name for name in said if name.startswith("c")} - gone
        # One that was being removed when the power went may be gone before anybody was told.
        assert len(lasting - there) <= 1, lasting - there
        assert not gone & there
        images = set(lamina(disk, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split())
        assert {name for name in said if name.startswith("kept:")} <= images
    assert lamina(disk, "rm", "-f", *there).returncode == 0
    assert lamina(disk, "system", "prune", "--force", "--all").returncode == 0
    assert lamina(disk, "images", "-q").stdout == ""
    assert list((disk / "root/containers").iterdir()) == []
    left = [path for path in (disk / "root/snapshots" / driver).glob("*") if path.name != "roots"]
    assert left == []
