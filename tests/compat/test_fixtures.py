"""The peers themselves: that the fixtures start, talk, and hold what they are given."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from tests.compat.peers import Docker, Podman, Skopeo

pytestmark = pytest.mark.compat


def test_registry_answers(docker_registry: str) -> None:
    with urllib.request.urlopen(f"http://{docker_registry}/v2/", timeout=30) as response:
        assert response.status == 200


def test_peers_agree_on_an_image(
    shared_images: Path, dockerd: Docker, podman: Podman, skopeo: Skopeo, docker_registry: str
) -> None:
    """From docker's load through the registry into podman: the same image ID at both ends."""
    archive = shared_images / "opaque.docker.tar"
    name = f"{docker_registry}/peers/opaque:1"
    loaded = dockerd("load", "-q", "-i", archive).rpartition(" ")[2]
    dockerd("tag", loaded, name)
    dockerd("push", name)
    podman("pull", "-q", "--tls-verify=false", name)
    skopeo.copy(f"docker://{name}", f"dir:{skopeo.tmp}/opaque")
    assert podman.inspect(name)["Id"] == dockerd.inspect(name)["Id"].removeprefix("sha256:")
    with podman.mounted(name) as root:
        assert sorted(path.name for path in root.iterdir()) != []
    podman.forget(name)
    dockerd.forget(name, loaded)
