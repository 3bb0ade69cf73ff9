"""Squashing when the disk is full, when somebody presses Ctrl-C, and when the process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.testing.images import directory, file, make_image, make_layer, whiteout

pytestmark = pytest.mark.privileged
DATA = random.Random(5)


def put_image(root: Path, size: int) -> None:
    """Three layers; the second has most of the bytes, and the third removes a few."""
    layers = [
        make_layer([directory("etc"), file("etc/motd", b"base")]),
        make_layer([directory("big"), *(file(f"big/{number}", DATA.randbytes(size // 64)) for number in range(64))]),
        make_layer([whiteout("big/3"), file("top", b"top")]),
    ]
    with open_engine(root) as engine:
        make_image(layers).put(engine.store, "docker.io/library/app:1")
        engine.layers("app:1")


def open_engine(root: Path) -> Engine:
    return Engine.open(settings=Settings.load({}, flags={"data-root": str(root), "storage-driver": "erofs"}))


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "lamina", "--root", str(root), "--storage-driver", "erofs", *words]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")
                  if path.is_file() and not path.name.startswith(("state.sqlite", "index.lock")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["truncate", "-s", "40M", tmp_path / "image"], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", tmp_path / "image"], check=True)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    root = small_disk / "root"
    put_image(root, 12_000_000)
    before = files(root)
    done = subprocess.run(command(root, "squash", "--all", "app:1", "-t", "out:1"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(root) == before
    with open_engine(root) as engine:
        assert [image.tag for image in engine.images()] == ["1"]
        assert list(engine.check()) == []


def test_ctrl_c_cleans_up(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put_image(root, 200_000_000)
    before = files(root)
    with subprocess.Popen(command(root, "squash", "--all", "app:1", "-t", "out:1"), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Squashing" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert files(root) == before


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever was being made is swept; what was there is whole; the next attempt succeeds."""
    root = tmp_path / "root"
    put_image(root, 60_000_000)
    chance = random.Random(11)
    for _round in range(8):
        with subprocess.Popen(command(root, "squash", "--all", "app:1", "-t", "out:1"), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.1, 0.7))
            process.kill()
        with open_engine(root) as engine:
            assert list(engine.check()) == []
            names = {f"{image.repository}:{image.tag}" for image in engine.images()}
            assert "app:1" in names
            if "out:1" in names:
                engine.remove("out:1")
    with open_engine(root) as engine:
        for path in (root / "blobs").rglob("*"):
            os.utime(path, (0, 0))  # older than the time of grace
        engine.prune()
        assert list((root / "ingest").iterdir()) == []
        before = files(root)
    done = subprocess.run(command(root, "squash", "--all", "app:1", "-t", "out:1"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open_engine(root) as engine:
        assert list(engine.check()) == []
        engine.remove("out:1")
    assert files(root) == before
