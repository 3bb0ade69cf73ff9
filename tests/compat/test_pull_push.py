"""Through a registry, both ways: what others push we pull, what we push they pull; digests never change."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.archive.saved import layout_members, tar, write_layout
from tests.compat.peers import Docker, Lamina, Podman, Skopeo, Umoci

from lamina.layer.compress import Compression
from lamina.oci.descriptor import Platform
from lamina.testing.images import (
    DIRECTORY,
    Link,
    MadeImage,
    directory,
    file,
    hardlink,
    make_image,
    make_index,
    make_layer,
    whiteout,
)

pytestmark = pytest.mark.compat

BASE = make_layer({"bin": DIRECTORY, "bin/tool": b"#!\n" * 90_000, "etc": DIRECTORY, "etc/passwd": b"root:x:0:0\n",
                   "lib": Link("bin")})
TOP = make_layer([directory("etc"), whiteout("etc/passwd"), file("etc/motd", b"hi", mode=0o600, uid=5, gid=6),
                  hardlink("etc/issue", "etc/motd")])
IMAGE = make_image([BASE, TOP], execution={"Cmd": ["/bin/tool"], "Env": ["PATH=/bin"]})
DOCKER_IMAGE = make_image([BASE, TOP], execution={"Cmd": ["/bin/tool"]}, is_docker=True)
PLATFORMS = ["linux/amd64", "linux/arm64", "linux/arm/v7"]


def layout(path: Path, image: object, tag: str = "1") -> Path:
    return write_layout(path, layout_members((image, {"org.opencontainers.image.ref.name": tag})))  # type: ignore[arg-type]


def plain_directory(path: Path, image: MadeImage) -> Path:
    """What skopeo calls ``dir:``: a manifest of any family, and blobs by their hex."""
    blobs = {layer.descriptor.digest.encoded: layer.blob for layer in image.layers}
    return write_layout(path, {
        "version": b"Directory Transport Version: 1.1\n", "manifest.json": image.manifest.raw,
        image.config.digest.encoded: image.config.raw, **blobs,
    })


def digest_line(said: str) -> str:
    found = re.search(r"^Digest: (sha256:\w{64})$", said, re.MULTILINE)
    assert found, said
    return found.group(1)


def digest(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@pytest.fixture(params=["oci", "docker"])
def image(request: pytest.FixtureRequest) -> MadeImage:
    return IMAGE if request.param == "oci" else DOCKER_IMAGE


@pytest.fixture
def repository(docker_registry: str, request: pytest.FixtureRequest) -> str:
    """A name of its own for each test, in a registry that all share."""
    return f"{docker_registry}/t{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}/image"


@pytest.fixture
def pushed(skopeo: Skopeo, repository: str, image: MadeImage, tmp_path: Path) -> str:
    """The made image, by its own digest, in the registry."""
    source = plain_directory(tmp_path / "source", image)
    skopeo.copy(f"dir:{source}", f"docker://{repository}:1", "--preserve-digests")
    return f"{repository}:1"


# -- theirs to ours


def test_pull_what_skopeo_pushed(lamina: Lamina, skopeo: Skopeo, pushed: str, image: MadeImage) -> None:
    said = lamina("pull", pushed)
    assert digest_line(said) == image.descriptor.digest == digest(skopeo.manifest(f"docker://{pushed}"))
    found = lamina.inspect(pushed)
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]
    again = lamina("pull", pushed)
    assert f"Status: Image is up to date for {pushed}" in again
    assert "Downloading" not in again


def test_pull_what_docker_pushed(
    lamina: Lamina, dockerd: Docker, repository: str, shared_images: Path
) -> None:
    name = f"{repository}:docker"
    loaded = dockerd("load", "-q", "-i", shared_images / "fourteen-layers.docker.tar").rpartition(" ")[2]
    dockerd("tag", loaded, name)
    pushed = re.search(r"digest: (sha256:\w+)", dockerd("push", name))
    assert pushed
    theirs = dockerd.inspect(name)
    dockerd.forget(name, loaded)
    assert digest_line(lamina("pull", name)) == pushed.group(1)
    ours = lamina.inspect(name)
    for field in ("Id", "RootFS", "Architecture", "Os", "Created", "RepoDigests"):
        assert ours[field] == theirs[field]
    assert {key: value for key, value in ours["Config"].items() if value} == {
        key: value for key, value in theirs["Config"].items() if value}


@pytest.mark.parametrize("options", [("--format", "oci"), ("--format", "v2s2"), ("--compression-format", "zstd")],
                         ids=" ".join)
def test_pull_what_podman_pushed(
    lamina: Lamina, podman: Podman, skopeo: Skopeo, repository: str, shared_images: Path, options: tuple[str, ...]
) -> None:
    """Podman rewrites a docker-archive's config when it pushes OCI, so the ID is what the registry has."""
    name = f"{repository}:podman"
    loaded = podman("load", "-q", "-i", shared_images / "opaque.docker.tar").rpartition(" ")[2]
    podman("push", "-q", "--tls-verify=false", *options, loaded, name)
    theirs = podman.inspect(loaded)
    podman.forget(loaded)
    manifest = skopeo.manifest(f"docker://{name}")
    assert digest_line(lamina("pull", name)) == digest(manifest)
    ours = lamina.inspect(name)
    assert ours["Id"] == json.loads(manifest)["config"]["digest"]
    assert ours["RootFS"]["Layers"] == theirs["RootFS"]["Layers"]


@pytest.fixture
def multi(skopeo: Skopeo, repository: str, tmp_path: Path) -> str:
    images = [make_image([{"arch": name.encode()}], platform=Platform.parse(name)) for name in PLATFORMS]
    source = layout(tmp_path / "multi", make_index(images))
    skopeo.copy(f"oci:{source}:1", f"docker://{repository}:multi", "--all", "--preserve-digests")
    return f"{repository}:multi"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_pull_one_platform_of_many(lamina: Lamina, skopeo: Skopeo, multi: str, platform: str) -> None:
    said = lamina("pull", "--platform", platform, multi)
    assert digest_line(said) == digest(skopeo.manifest(f"docker://{multi}"))
    assert lamina("cat", multi, "/arch") == platform
    name = lamina.inspect(multi)
    assert "/".join(filter(None, [name["Os"], name["Architecture"], name.get("Variant", "")])) == platform


def test_pull_by_digest_and_every_tag(lamina: Lamina, repository: str, pushed: str, image: MadeImage) -> None:
    by_digest = f"{repository}@{image.descriptor.digest}"
    assert digest_line(lamina("pull", by_digest)) == image.descriptor.digest
    lamina("pull", "--all-tags", repository)
    assert lamina.inspect(pushed)["Id"] == image.config.digest
    assert lamina("tags", repository).split() == ["1"]
    assert json.loads(lamina("manifest", "inspect", pushed))["layers"][0]["digest"] == BASE.descriptor.digest


# -- ours to theirs


def test_push_keeps_every_byte(lamina: Lamina, skopeo: Skopeo, repository: str, pushed: str, image: MadeImage) -> None:
    """Pulled and pushed elsewhere: the manifest's bytes are the ones that came."""
    lamina("pull", "-q", pushed)
    lamina("tag", pushed, f"{repository}-copy:2")
    said = lamina("push", f"{repository}-copy:2")
    assert f"digest: {image.descriptor.digest}" in said
    assert skopeo.manifest(f"docker://{repository}-copy:2") == image.manifest.raw


def test_others_pull_what_we_pushed(
    lamina: Lamina, dockerd: Docker, podman: Podman, repository: str, pushed: str, image: MadeImage
) -> None:
    name = f"{repository}-ours:1"
    lamina("pull", "-q", pushed)
    lamina("tag", pushed, name)
    lamina("push", "-q", name)
    dockerd("pull", "-q", name)
    assert dockerd.inspect(name)["Id"] == image.config.digest
    assert dockerd.inspect(name)["RepoDigests"] == [f"{repository}-ours@{image.descriptor.digest}"]
    dockerd.forget(name)
    podman("pull", "-q", "--tls-verify=false", name)
    assert podman.inspect(name)["Id"] == image.config.digest.encoded
    assert podman.inspect(name)["Digest"] == image.descriptor.digest
    with podman.mounted(name) as root:
        assert (root / "etc/issue").stat().st_ino == (root / "etc/motd").stat().st_ino
        assert not (root / "etc/passwd").exists()
    podman.forget(name)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_plain_layers_are_compressed_on_their_way(
    lamina: Lamina, podman: Podman, skopeo: Skopeo, repository: str, tmp_path: Path, compression: str
) -> None:
    (tmp_path / "root.tar").write_bytes(BASE.tar)
    name = f"{repository}:imported"
    lamina("import", tmp_path / "root.tar", name)
    lamina("push", "--compression", compression, name)
    (layer,) = json.loads(skopeo.manifest(f"docker://{name}"))["layers"]
    assert layer["mediaType"].endswith(f"+{compression}")
    podman("pull", "-q", "--tls-verify=false", name)
    assert podman.inspect(name)["Id"] == lamina.inspect(name)["Id"].removeprefix("sha256:")
    assert podman.inspect(name)["RootFS"]["Layers"] == [BASE.diff_id]
    podman.forget(name)


# -- archives from the command line


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_for_others(
    lamina: Lamina, dockerd: Docker, podman: Podman, skopeo: Skopeo, pushed: str, image: MadeImage, tmp_path: Path,
    form: str,
) -> None:
    lamina("pull", "-q", pushed)
    archive = tmp_path / "saved.tar"
    lamina("save", "--format", form, "-o", archive, pushed)
    if form == "docker-archive":
        assert dockerd("load", "-q", "-i", archive) == f"Loaded image: {pushed}"
        assert dockerd.inspect(pushed)["Id"] == image.config.digest
        dockerd.forget(pushed)
    assert podman("load", "-q", "-i", archive) == f"Loaded image: {pushed}"
    assert podman.inspect(pushed)["Id"] == image.config.digest.encoded
    podman.forget(pushed)
    if image is IMAGE:
        assert skopeo.manifest(f"oci-archive:{archive}:{pushed}") == image.manifest.raw


def test_load_from_others(lamina: Lamina, dockerd: Docker, podman: Podman, shared_images: Path, tmp_path: Path) -> None:
    archive = shared_images / "opaque.docker.tar"
    name = dockerd("load", "-q", "-i", archive).rpartition(" ")[2]
    dockerd("save", "-o", tmp_path / "docker.tar", name)
    theirs = dockerd.inspect(name)
    dockerd.forget(name)
    podman("load", "-q", "-i", archive)
    for form in ("docker-archive", "oci-archive", "oci-dir"):
        podman("save", "-q", "--format", form, "-o", tmp_path / form, name)
    podman.forget(name)
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress((tmp_path / "docker.tar").read_bytes(), 1))
    for path in ("docker.tar", "docker-archive", "oci-archive", "oci-dir", "packed.tar.gz"):
        said = lamina("load", "-q", "-i", tmp_path / path)
        loaded = said.rpartition(" ")[2]
        assert loaded.endswith("she/image_from_scratch:1.0")
        found = lamina.inspect(loaded)
        assert found["RootFS"] == theirs["RootFS"]
        assert path.startswith("oci") or found["Id"] == theirs["Id"]  # podman rewrites the config for OCI forms
        lamina("rmi", loaded)
    with (tmp_path / "packed.tar.gz").open("rb") as stream:
        assert name in lamina("load", "-q", stdin=stream)


def test_loading_the_liar_changes_nothing(lamina: Lamina, shared_images: Path) -> None:
    code, said = lamina.failing("load", "-i", shared_images / "size-mismatch.oci")
    assert code == 1
    assert "743 bytes" in said
    assert "744" in said
    assert lamina("images", "-q") == ""
    assert list((lamina.root / "blobs" / "sha256").iterdir()) == []


# -- our store, read where it lies


def test_store_is_a_layout_for_others(
    lamina: Lamina, skopeo: Skopeo, umoci: Umoci, repository: str, tmp_path: Path
) -> None:
    lamina("load", "-q", "-i", _archive(tmp_path / "a.tar", IMAGE, "made/one:1"))
    name = "docker.io/made/one:1"
    assert skopeo.manifest(f"oci:{lamina.root}:{name}") == IMAGE.manifest.raw
    skopeo.copy(f"oci:{lamina.root}:{name}", f"docker://{repository}:fromstore", "--preserve-digests")
    assert name in umoci("list", "--layout", lamina.root)
    with umoci.unpacked(f"{lamina.root}:{name}") as root:
        assert (root / "etc/motd").read_bytes() == b"hi"
        assert not (root / "etc/passwd").exists()


def _archive(path: Path, image: MadeImage, name: str) -> Path:
    path.write_bytes(tar(*layout_members((image, {"io.containerd.image.name": name})).items()))
    return path


# -- we are the registry


@pytest.fixture
def serving(lamina: Lamina, tmp_path: Path) -> Iterator[str]:
    lamina("load", "-q", "-i", _archive(tmp_path / "served.tar", IMAGE, "made/served:1"))
    with lamina.serving() as address:
        yield address


def test_others_pull_from_us(
    serving: str, dockerd: Docker, podman: Podman, skopeo: Skopeo, tmp_path: Path
) -> None:
    name = f"{serving}/made/served:1"
    dockerd("pull", "-q", name)
    assert dockerd.inspect(name)["Id"] == IMAGE.config.digest
    dockerd.forget(name)
    podman("pull", "-q", "--tls-verify=false", name)
    assert podman.inspect(name)["Digest"] == IMAGE.descriptor.digest
    podman.forget(name)
    skopeo.copy(f"docker://{name}", f"oci:{tmp_path}/copied:1")
    assert skopeo.manifest(f"docker://{name}") == IMAGE.manifest.raw == skopeo.manifest(f"oci:{tmp_path}/copied:1")


def test_others_push_to_us(
    serving: str, lamina: Lamina, dockerd: Docker, podman: Podman, skopeo: Skopeo, shared_images: Path, tmp_path: Path
) -> None:
    archive = shared_images / "fourteen-layers.docker.tar"
    for engine, options in ((dockerd, ()), (podman, ("--tls-verify=false",))):
        name = f"{serving}/pushed/{type(engine).__name__.lower()}:1"
        loaded = engine("load", "-q", "-i", archive).rpartition(" ")[2]
        engine("tag", loaded, name)
        engine("push", *options, name)
        theirs = engine.inspect(loaded)
        engine.forget(name, loaded)
        engine("pull", "-q", *options, name)
        assert engine.inspect(name)["Id"] == theirs["Id"]
        engine.forget(name)
    skopeo.copy(f"oci:{layout(tmp_path / 'pushed', IMAGE)}:1", f"docker://{serving}/pushed/skopeo:1", "--preserve-digests")
    assert skopeo.manifest(f"docker://{serving}/pushed/skopeo:1") == IMAGE.manifest.raw
    listed = lamina("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert {f"pushed/{peer}:1" for peer in ("docker", "podman", "skopeo")} <= set(listed)
    assert lamina("cat", "pushed/skopeo:1", "/etc/motd") == "hi"
    assert lamina.inspect("pushed/docker:1")["Id"].removeprefix("sha256:") == lamina.inspect(
        "pushed/podman:1")["Id"].removeprefix("sha256:")
    assert "made/served:1" in listed


def test_a_read_only_registry_refuses_pushes(lamina: Lamina, skopeo: Skopeo, tmp_path: Path) -> None:
    lamina("load", "-q", "-i", _archive(tmp_path / "served.tar", IMAGE, "made/served:1"))
    source = layout(tmp_path / "pushed", make_image([{"new": b"layer"}], execution={"Cmd": ["new"]}))
    with lamina.serving("--read-only") as address:
        skopeo.copy(f"docker://{address}/made/served:1", f"oci:{tmp_path}/copied:1")
        with pytest.raises(AssertionError, match="exit 1"):
            skopeo.copy(f"oci:{source}:1", f"docker://{address}/made/served:2")
    assert lamina("images", "-q").split() == [IMAGE.config.digest.short]


@pytest.mark.parametrize("compression", list(Compression))
def test_podman_reads_each_compression_from_us(
    lamina: Lamina, podman: Podman, tmp_path: Path, compression: Compression
) -> None:
    made = make_image([make_layer({"a": b"x" * 100_000}, compression=compression)])
    lamina("load", "-q", "-i", _archive(tmp_path / "served.tar", made, "made/packed:1"))
    with lamina.serving() as address:
        podman("pull", "-q", "--tls-verify=false", f"{address}/made/packed:1")
        assert podman.inspect(f"{address}/made/packed:1")["Id"] == made.config.digest.encoded
        podman.forget(f"{address}/made/packed:1")
