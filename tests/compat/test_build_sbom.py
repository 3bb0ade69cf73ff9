"""An image with an SBOM beside it, for those who know of neither, and for those who look for it where BuildKit puts it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from tests.compat.debian import write_root
from tests.compat.peers import Docker, Lamina, Podman, Skopeo

pytestmark = pytest.mark.compat

STATUS = "Package: good\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\nMaintainer: M <m@x>\nDescription: d\n\n"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_an_image_with_an_sbom_goes_around(
    lamina: Lamina, dockerd: Docker, podman: Podman, skopeo: Skopeo, docker_registry: str, tmp_path: Path, compression: str,
) -> None:
    lamina("import", write_root(tmp_path / "libc.tar", "libc6"), "libc:1")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/status").write_text(STATUS)
    (tmp_path / "c/Dockerfile").write_text("FROM libc:1\nCOPY status /var/lib/dpkg/status\n")
    name = f"{docker_registry}/sbom/app:{compression}"
    lamina("build", "-t", name, "--sbom", "--push", "--compression", compression, tmp_path / "c")
    index = json.loads(skopeo.manifest(f"docker://{name}"))
    image, beside = index["manifests"]
    assert beside["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert beside["annotations"] == {
        "vnd.docker.reference.digest": image["digest"], "vnd.docker.reference.type": "attestation-manifest",
    }
    repository = name.rpartition(":")[0]
    manifest = json.loads(skopeo.manifest(f"docker://{repository}@{beside['digest']}"))
    (layer,) = manifest["layers"]
    assert layer["annotations"] == {"in-toto.io/predicate-type": "https://spdx.dev/Document"}
    registry, _, path = repository.partition("/")
    with urllib.request.urlopen(f"http://{registry}/v2/{path}/blobs/{layer['digest']}") as answer:
        said = json.load(answer)
    assert [f"sha256:{one['digest']['sha256']}" for one in said["subject"]] == [image["digest"]]
    assert "good" in {one["name"] for one in said["predicate"]["packages"]}
    for engine, more in ((podman, ["--tls-verify=false"]), *(((dockerd, []),) if compression == "none" else ())):
        engine("pull", "-q", *more, name)
        assert engine.inspect(name)["Id"].removeprefix("sha256:") == lamina.inspect(name)["Id"].removeprefix("sha256:")
        engine.forget(name)
    # Who pulls gets the image alone; what is said of it is fetched when somebody asks.
    other = Lamina(lamina.root.parent / "other")
    other("pull", "-q", name)
    assert json.loads(other("builder", "sbom", name)) == json.loads(lamina("builder", "sbom", name)) == said["predicate"]
