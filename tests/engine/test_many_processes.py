"""Many processes on one state directory, and processes that die: nothing is lost, nothing is half."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.http.message import Headers, Request, Response
from lamina.testing.images import directory, file, make_image, make_layer

IMAGE = make_image([
    make_layer([directory("a"), *(file(f"a/{n}", os.urandom(30_000)) for n in range(60))]),
    make_layer([file("big", os.urandom(6_000_000))]),
    make_layer([file("top", b"top")]),
])


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "lamina", "--root", str(root), *words]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "LAMINA_STORAGE_DRIVER": "vfs"}


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, *words), capture_output=True, text=True, check=False, timeout=120,
        env=environment(root.parent),
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_pull_that_is_killed_can_be_done_again(tmp_path: Path, registry: Registry, seed: int) -> None:
    IMAGE.put(registry.repository("app"), "1")
    root, name = tmp_path / "root", f"{registry.host}/app:1"
    pull = subprocess.Popen(
        command(root, "pull", name), stdout=subprocess.DEVNULL, env=environment(tmp_path),
        start_new_session=True,
    )
    time.sleep(0.05 + random.Random(seed).random() * 0.6)
    os.killpg(pull.pid, signal.SIGKILL)
    pull.wait()
    if (root / "oci-layout").exists():
        assert run(root, "check").returncode == 0
        assert run(root, "images", "-q").returncode == 0
    again = run(root, "pull", name)
    assert again.returncode == 0, again.stderr
    assert run(root, "check").returncode == 0
    assert run(root, "cat", name, "/top").stdout == "top"
    assert run(root, "rmi", name).returncode == 0
    assert run(root, "prune", "--force").returncode == 0
    assert [path for path in root.rglob("*") if path.is_file() and "blobs" in path.parts] == []
    assert list((root / "ingest").iterdir()) == []


def test_pulls_of_the_same_image_at_once_all_succeed(tmp_path: Path, registry: Registry) -> None:
    IMAGE.put(registry.repository("app"), "1")
    root, name = tmp_path / "root", f"{registry.host}/app:1"
    pulls = [
        subprocess.Popen(command(root, "pull", name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, env=environment(tmp_path))
        for _ in range(3)
    ]
    said = [pull.communicate(timeout=120)[0] for pull in pulls]
    assert [pull.returncode for pull in pulls] == [0, 0, 0], said
    assert run(root, "check").returncode == 0
    big = IMAGE.layers[1].descriptor.digest
    sent = [url for method, url in registry.requests if method == "GET" and url.endswith(f"/blobs/{big}")]
    assert len(sent) == 1  # the others waited for the first, and found it done


def test_pruning_beside_pulls_takes_nothing_that_they_need(tmp_path: Path, registry: Registry) -> None:
    IMAGE.put(registry.repository("app"), "1")
    root, name = tmp_path / "root", f"{registry.host}/app:1"
    assert run(root, "pull", name).returncode == 0
    pruner = subprocess.Popen(
        ["sh", "-c", 'while :; do "$@" || exit 1; done', "sh", *command(root, "prune", "--force", "--all")],
        stdout=subprocess.DEVNULL, env=environment(tmp_path), start_new_session=True,
    )
    try:
        for _ in range(6):
            pulled = run(root, "pull", name)
            assert pulled.returncode == 0, pulled.stderr
    finally:
        assert pruner.poll() is None
        os.killpg(pruner.pid, signal.SIGKILL)
        pruner.wait()
    assert run(root, "pull", name).returncode == 0
    assert run(root, "check").returncode == 0
    assert run(root, "cat", name, "/top").stdout == "top"


def test_ctrl_c_on_a_stalled_download_ends_at_once_and_keeps_what_came(
    tmp_path: Path, registry: Registry
) -> None:
    IMAGE.put(registry.repository("app"), "1")
    root, name = tmp_path / "root", f"{registry.host}/app:1"
    big = IMAGE.layers[1]
    over = threading.Event()

    class Stalling(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 2_000_000:
                over.wait(60)
            return super().read(min(size or -1, 65536))

    def stall(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.url.endswith(f"/blobs/{big.descriptor.digest}"):
            return Response(200, Headers([("Content-Length", str(len(big.blob)))]), Stalling(big.blob))
        return response

    registry.twist = stall
    pull = subprocess.Popen(
        command(root, "pull", name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(tmp_path),
    )
    while not any(path.stat().st_size >= 1_000_000 for path in root.glob("ingest/*/data")):
        assert pull.poll() is None
        time.sleep(0.05)
    pull.send_signal(signal.SIGINT)
    _out, said = pull.communicate(timeout=30)  # the stall lasts for a minute
    assert pull.returncode == 130
    assert "interrupted" in said
    registry.twist = None
    over.set()
    registry.requests.clear()
    assert run(root, "pull", name).returncode == 0
    assert run(root, "check").returncode == 0
