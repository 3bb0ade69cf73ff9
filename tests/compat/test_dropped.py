"""Dropped blobs against docker's registry: pull, offline work, push elsewhere, and a registry that is gone."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.archive.saved import layout_members, write_layout
from tests.compat.peers import Docker, Lamina, Skopeo, daemon, program, run, wait_for
from tests.privileged.places import disk_use

from lamina.testing.images import MadeImage, directory, file, make_image, make_layer, whiteout

pytestmark = pytest.mark.compat

DRIVERS = ("overlay2", "erofs", "vfs")


class Texts:
    """Files as an image has them: of all sizes, and in part compressible."""

    def __init__(self, size: int) -> None:
        chance = random.Random("texts")
        words = [chance.randbytes(6).hex() for _ in range(4000)]
        self.entries = [directory(f"usr/{number}") for number in range(20)]
        left, number = size, 0
        while left > 0:
            part = min(left, int(chance.lognormvariate(9, 1.6)) + 1)
            text = " ".join(chance.choices(words, k=part // 13 + 1)).encode()[:part]
            self.entries.append(file(f"usr/{number % 20}/{number}", text, mode=0o755 if number % 7 == 0 else 0o644))
            left, number = left - part, number + 1


@pytest.fixture(scope="module")
def image() -> MadeImage:
    base = [directory("usr"), *Texts(12_000_000).entries]
    top = [directory("etc"), file("etc/motd", b"hello\n"), directory("usr"), directory("usr/3"), whiteout("usr/3/3")]
    return make_image([make_layer(base), make_layer(top)], execution={"Cmd": ["/bin/true"]})


@pytest.fixture
def name(docker_registry: str, skopeo: Skopeo, image: MadeImage, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    repository = f"{docker_registry}/d{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}/image"
    source = write_layout(tmp_path / "source", layout_members((image, {"org.opencontainers.image.ref.name": "1"})))
    skopeo.copy(f"oci:{source}:1", f"docker://{repository}:1", "--preserve-digests")
    return f"{repository}:1"


@pytest.fixture
def second_registry(tmp_path: Path) -> Iterator[str]:
    config, log = tmp_path / "config.yml", tmp_path / "registry.log"
    config.write_text(
        "version: 0.1\nlog: {level: info, formatter: json}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )
    with daemon([program("docker-registry"), "serve", config], log) as process:
        def address() -> str:
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
            return found.group(1) if found else ""

        yield wait_for("docker-registry", log, process, address)


def layers_here(lamina: Lamina, image: MadeImage) -> list[int]:
    return [
        number for number, layer in enumerate(image.layers)
        if (lamina.root / "blobs" / "sha256" / layer.descriptor.digest.encoded).exists()
    ]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_whole_course(
    lamina: Lamina, skopeo: Skopeo, name: str, second_registry: str, image: MadeImage, driver: str
) -> None:
    """Pulled and dropped; pushed to another registry by its digests; and from there, as its origin, once more."""
    base = ("--storage-driver", driver)
    lamina(*base, "pull", "-q", "--blobs", "drop-refetchable", name)
    assert layers_here(lamina, image) == []
    assert lamina(*base, "check", "--online") == ""
    assert "Image is up to date" in lamina(*base, "pull", name)
    lamina(*base, "squash", "-q", "--all", name, "-t", "flat:1")
    assert lamina(*base, "cat", "flat:1", "/etc/motd") == "hello"
    other = f"{second_registry}/mine:1"
    lamina(*base, "tag", name, other)
    assert f"digest: {image.descriptor.digest}" in lamina(*base, "push", other)
    assert skopeo.manifest(f"docker://{other}") == image.manifest.raw
    assert layers_here(lamina, image) == []
    lamina(*base, "blobs", "fetch", name)
    assert layers_here(lamina, image) == [0, 1]
    for layer in image.layers:
        path = lamina.root / "blobs" / "sha256" / layer.descriptor.digest.encoded
        assert path.read_bytes() == layer.blob
    assert lamina(*base, "check") == ""


def test_a_sibling_repository_mounts_it(lamina: Lamina, skopeo: Skopeo, name: str, image: MadeImage) -> None:
    lamina("pull", "-q", "--blobs", "drop-refetchable", name)
    copy = name.replace("/image:1", "/copy:1")
    lamina("tag", name, copy)
    said = run(*lamina.command("push", copy), env=lamina.environment)
    assert str(image.descriptor.digest) in said
    assert skopeo.manifest(f"docker://{copy}") == image.manifest.raw


def test_a_registry_that_lost_it(lamina: Lamina, name: str, image: MadeImage, tmp_path: Path) -> None:
    """Deleted there: one sentence, and no half archive; what needs only the layer goes on."""
    lamina("pull", "-q", "--blobs", "drop-refetchable", name)
    repository, digest = name.removesuffix(":1"), image.layers[0].descriptor.digest
    host, _, path = repository.partition("/")
    run("curl", "-sf", "-X", "DELETE", f"http://{host}/v2/{path}/blobs/{digest}")
    sentence = f"{digest}: was dropped here, and {repository} no longer serves it"
    for words in (("blobs", "fetch", name), ("save", "-o", tmp_path / "saved.tar", name)):
        code, said = lamina.failing(*words)
        assert code == 1
        assert sentence in said
        assert "Traceback" not in said
    assert not (tmp_path / "saved.tar").exists()
    code, _said = lamina.failing("check", "--online")
    assert code == 1
    assert lamina("cat", name, "/etc/motd") == "hello"
    assert lamina("check") == ""
    assert json.loads(lamina("blobs", "ls", "--format", "json").splitlines()[0])["Repository"] == repository


def test_a_registry_that_is_gone(
    lamina: Lamina, skopeo: Skopeo, image: MadeImage, tmp_path: Path, docker_registry: str
) -> None:
    source = write_layout(tmp_path / "source", layout_members((image, {"org.opencontainers.image.ref.name": "1"})))
    with lamina_elsewhere(tmp_path).serving() as host:
        skopeo.copy(f"oci:{source}:1", f"docker://{host}/app:1", "--preserve-digests")
        lamina("pull", "-q", "--blobs", "drop-refetchable", f"{host}/app:1")
        assert layers_here(lamina, image) == []
    other = f"{docker_registry}/gone/app:1"
    lamina("tag", f"{host}/app:1", other)
    code, said = lamina.failing("push", other)
    assert code == 1
    assert f"was dropped here, and {host}/app cannot be asked for it" in said
    lamina("squash", "-q", "--all", f"{host}/app:1", "-t", f"{docker_registry}/gone/flat:1")
    lamina("push", "-q", f"{docker_registry}/gone/flat:1")


def lamina_elsewhere(tmp_path: Path) -> Lamina:
    return Lamina(tmp_path / "registry")


def test_other_tools_miss_it(lamina: Lamina, skopeo: Skopeo, name: str, image: MadeImage, tmp_path: Path) -> None:
    """The directory is a layout that lacks blobs, until they are fetched."""
    lamina("pull", "-q", "--blobs", "drop-refetchable", name)
    assert skopeo("inspect", "--raw", f"oci:{lamina.root}:{name}") == image.manifest.raw.decode()
    with pytest.raises(AssertionError, match=image.layers[0].descriptor.digest.encoded):
        skopeo.copy(f"oci:{lamina.root}:{name}", f"oci:{tmp_path / 'copy'}:1")
    lamina("blobs", "fetch", "-q", name)
    skopeo.copy(f"oci:{lamina.root}:{name}", f"oci:{tmp_path / 'copy'}:1")


@pytest.mark.parametrize("driver", ["overlay2", "erofs"])
def test_takes_no_more_room_than_docker(
    lamina: Lamina, dockerd: Docker, name: str, driver: str, workshop: Path
) -> None:
    """Both beyond what an empty one takes, which with lamina is mostly the room kept for a full disk."""
    home = workshop / "d" / "data"
    assert dockerd("info", "--format", "{{.Driver}}") == "overlay2"
    before = disk_use(home)
    dockerd("pull", "-q", name)
    run("sync")
    theirs = disk_use(home) - before
    dockerd.forget(name)
    lamina("--storage-driver", driver, "ps")
    before = disk_use(lamina.root)
    lamina("--storage-driver", driver, "pull", "-q", "--blobs", "drop-refetchable", name)
    ours = disk_use(lamina.root) - before
    print(f"{driver}: {ours / 1e6:.2f} MB, docker {theirs / 1e6:.2f} MB")
    # With overlay2 both have the same tree, and what remakes the tar of it: a few blocks either way.
    assert ours <= theirs + (64 << 10 if driver == "overlay2" else 0)
