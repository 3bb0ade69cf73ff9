"""Archives both ways: what we write they load, what they save we read, and digests survive the journey."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.archive.saved import loaded
from tests.compat.peers import Docker, Podman, Skopeo, Umoci, program

from lamina.archive.source import ArchiveSource
from lamina.archive.writer import ArchiveWriter
from lamina.content.memory import MemoryStore
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.testing.images import (
    DIRECTORY,
    Link,
    MadeImage,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    whiteout,
)

pytestmark = pytest.mark.compat

NAME = "localhost:5000/made/image:1"
FORMS = ["docker-archive", "oci-archive"]
BASE = make_layer({"bin": DIRECTORY, "bin/tool": b"#!\n" * 5000, "bin/alias": Link("tool"), "etc": DIRECTORY,
                   "etc/passwd": b"root:x:0:0::/:\n", "var": DIRECTORY, "var/old": b"old", "lib": Link("/bin")})
MIDDLE = make_layer(
    [directory("etc"), whiteout("etc/passwd"), directory("var"), opaque("var"), file("var/new", b"new", uid=7, gid=8),
     file("bin/second", b"2" * 70_000, mode=0o4755), hardlink("bin/third", "bin/second")],
    compression=Compression.NONE,
)
TOP = make_layer({"b" * 90 + "/" + "c" * 90: b"long", "späte-änderung": b"x"}, compression=Compression.ZSTD)


@pytest.fixture(scope="module")
def image() -> MadeImage:
    return make_image([BASE, MIDDLE, TOP, BASE], execution={"Cmd": ["/bin/tool"], "Env": ["PATH=/bin"]})


@pytest.fixture(scope="module")
def plain_image() -> MadeImage:
    """Without zstd, which docker 20.10 cannot read."""
    return make_image([BASE, MIDDLE], execution={"Cmd": ["/bin/tool"]})


def save(path: Path, form: str, images: Sequence[tuple[MadeImage, str]]) -> Path:
    store = MemoryStore()
    with path.open("wb") as out:
        writer = ArchiveWriter(out, form)
        for image, name in images:
            writer.add(store, image.put(store), [name] if name else [])
        writer.finish()
    return path


def read(path: Path, scratch: Path) -> list[tuple[tuple[str, ...], Image]]:
    """Every image, verified to its last byte."""
    with ArchiveSource(path, scratch=scratch) as source:
        return [(names, Image.load(loaded(source, root), root, None)) for names, root in source.images()]


def diff_ids(image: MadeImage | Image) -> list[str]:
    return [str(layer.diff_id) for layer in image.layers]


@pytest.fixture
def archive(request: pytest.FixtureRequest, tmp_path: Path, image: MadeImage) -> Path:
    return save(tmp_path / "saved.tar", request.param, [(image, NAME)])


# -- ours to theirs


@pytest.mark.parametrize("archive", ["docker-archive"], indirect=True)
def test_docker_loads(dockerd: Docker, archive: Path, image: MadeImage) -> None:
    assert dockerd("load", "-q", "-i", archive) == f"Loaded image: {NAME}"
    found = dockerd.inspect(NAME)
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == diff_ids(image)
    dockerd.forget(NAME)


def test_docker_loads_from_a_pipe_and_without_a_name(dockerd: Docker, tmp_path: Path, image: MadeImage) -> None:
    path = save(tmp_path / "saved.tar", "docker-archive", [(image, "")])
    with path.open("rb") as stream:
        said = dockerd("load", "-q", stdin=stream)
    assert said == f"Loaded image ID: {image.config.digest}"
    dockerd.forget(image.config.digest)


@pytest.mark.parametrize("form", FORMS)
def test_podman_loads(podman: Podman, tmp_path: Path, image: MadeImage, form: str) -> None:
    """Podman 4.3 takes a layer that occurs twice for one of a broken store, so the image has it once."""
    made = make_image(image.layers[:3], execution={"Cmd": ["/bin/tool"]})
    path = save(tmp_path / "saved.tar", form, [(made, NAME)])
    assert podman("load", "-q", "-i", path) == f"Loaded image: {NAME}"
    found = podman.inspect(NAME)
    assert found["Id"] == made.config.digest.encoded
    assert found["RootFS"]["Layers"] == diff_ids(made)
    with podman.mounted(NAME) as root:
        assert (root / "var/new").read_bytes() == b"new"
        assert not (root / "var/old").exists()
        assert (root / "späte-änderung").read_bytes() == b"x"
    podman.forget(NAME)


@pytest.mark.parametrize("archive", FORMS, indirect=True)
def test_skopeo_reads(skopeo: Skopeo, tmp_path: Path, archive: Path, image: MadeImage) -> None:
    """Both forms by their own transport; a docker-archive also as the OCI archive that it is at once."""
    with tarfile.open(archive) as tar:
        is_docker = "manifest.json" in tar.getnames()
    if is_docker:
        skopeo.copy(f"docker-archive:{archive}:{NAME}", f"dir:{tmp_path}/docker")
    skopeo.copy(f"oci-archive:{archive}:{NAME}", f"oci:{tmp_path}/layout:1", "--preserve-digests")
    ((_names, found),) = read(tmp_path / "layout", tmp_path)
    assert found.config.raw == image.config.raw
    if not is_docker:
        assert found.manifest.raw == image.manifest.raw


def test_umoci_unpacks_the_layout_inside(umoci: Umoci, tmp_path: Path, plain_image: MadeImage) -> None:
    path = save(tmp_path / "saved.tar", "docker-archive", [(plain_image, "made:1")])
    (tmp_path / "layout").mkdir()
    subprocess.run([program("tar"), "-xf", path, "-C", tmp_path / "layout"], check=True)
    with umoci.unpacked(f"{tmp_path}/layout:made:1") as root:
        assert (root / "var/new").stat().st_uid == 7
        assert (root / "bin/third").stat().st_ino == (root / "bin/second").stat().st_ino
        assert not (root / "etc/passwd").exists()


@pytest.mark.parametrize("form", FORMS)
def test_several_images(
    dockerd: Docker, podman: Podman, tmp_path: Path, image: MadeImage, plain_image: MadeImage, form: str
) -> None:
    images = [(plain_image, "made/one:1"), (make_image([BASE]), "made/two:2")]
    path = save(tmp_path / "saved.tar", form, images)
    if form == "docker-archive":
        dockerd("load", "-q", "-i", path)
        for made, name in images:
            assert dockerd.inspect(name)["Id"] == made.config.digest
            dockerd.forget(name)
        podman("load", "-q", "-i", path)
        for made, name in images:
            assert podman.inspect(name)["Id"] == made.config.digest.encoded
            podman.forget(name)
    for made, name in images:
        subprocess.run(
            [program("skopeo"), "inspect", "--raw", f"oci-archive:{path}:{name}"], check=True, capture_output=True)
        assert made.config.raw in [found.config.raw for _names, found in read(path, tmp_path)]


# -- theirs to ours


@pytest.fixture(scope="module")
def in_docker(dockerd: Docker, plain_image: MadeImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    directory = tmp_path_factory.mktemp("in-docker")
    images = [(plain_image, NAME), (make_image([BASE]), "made/base:1")]
    dockerd("load", "-q", "-i", save(directory / "a.tar", "docker-archive", images))
    yield dockerd
    dockerd.forget(NAME, "made/base:1")


@pytest.fixture(scope="module")
def in_podman(podman: Podman, plain_image: MadeImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("in-podman")
    images = [(plain_image, NAME), (make_image([BASE]), "made/base:1")]
    podman("load", "-q", "-i", save(directory / "a.tar", "docker-archive", images))
    yield podman
    podman.forget(NAME, "made/base:1")


@pytest.mark.parametrize("is_packed", [False, True])
def test_docker_save(in_docker: Docker, tmp_path: Path, plain_image: MadeImage, is_packed: bool) -> None:
    path = tmp_path / "saved"
    in_docker("save", "-o", path, NAME, "made/base:1")
    if is_packed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    found = dict(read(path, tmp_path))
    assert found[NAME,].config.raw == plain_image.config.raw
    assert diff_ids(found[NAME,]) == diff_ids(plain_image)
    assert diff_ids(found["made/base:1",]) == [BASE.diff_id]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_podman_save(in_podman: Podman, tmp_path: Path, plain_image: MadeImage, form: str) -> None:
    path = tmp_path / "saved"
    in_podman("save", "-q", "--format", form, "-o", path, NAME)
    ((names, image),) = read(path, tmp_path)
    assert names == (NAME,)
    assert diff_ids(image) == diff_ids(plain_image)
    assert image.config.raw == plain_image.config.raw


def test_podman_save_several(in_podman: Podman, tmp_path: Path, plain_image: MadeImage) -> None:
    path = tmp_path / "saved"
    in_podman("save", "-q", "--multi-image-archive", "-o", path, NAME, "made/base:1")
    found = {name: image for names, image in read(path, tmp_path) for name in names}
    assert found[NAME].config.raw == plain_image.config.raw
    assert len(found) == 2


@pytest.mark.parametrize("target", ["docker-archive:{}:" + NAME, "oci-archive:{}:" + NAME, "oci:{}:" + NAME])
@pytest.mark.parametrize("options", [(), ("--dest-compress-format=zstd",)], ids=["kept", "zstd"])
def test_skopeo_writes(
    skopeo: Skopeo, tmp_path: Path, plain_image: MadeImage, target: str, options: tuple[str, ...]
) -> None:
    source = save(tmp_path / "source.tar", "oci-archive", [(plain_image, NAME)])
    path = tmp_path / "saved"
    skopeo.copy(f"oci-archive:{source}:{NAME}", target.format(path), *options)
    ((names, image),) = read(path, tmp_path)
    assert names == (NAME,)
    assert image.config.raw == plain_image.config.raw
    if target.startswith("oci") and not options:
        assert image.manifest.layers[0] == plain_image.manifest.layers[0]


def test_umoci_writes(umoci: Umoci, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:made")
    with umoci.unpacked(f"{layout}:made") as root:
        (root / "file").write_bytes(b"content" * 1000)
        umoci("repack", "--image", f"{layout}:made", root.parent)
    ((names, image),) = read(layout, tmp_path)
    assert names == ()
    assert len(image.layers) == 1
    blob = (layout / "blobs/sha256" / image.layers[0].descriptor.digest.encoded).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        assert "file" in tar.getnames()


def test_real_archives_pass_through_us(
    shared_images: Path, dockerd: Docker, podman: Podman, tmp_path: Path
) -> None:
    """A foreign archive read and written again gives docker and podman the image they know from the original."""
    for name in ("fourteen-layers.docker.tar", "opaque.docker.tar", "alpine-3.11.docker.tar.gz"):
        said = dockerd("load", "-q", "-i", shared_images / name).rpartition(" ")[2]
        original = dockerd.inspect(said)
        dockerd.forget(said)
        with ArchiveSource(shared_images / name, scratch=tmp_path) as source, (tmp_path / "ours").open("wb") as out:
            writer = ArchiveWriter(out)
            for names, root in source.images():
                writer.add(source, root, names)
            writer.finish()
        for engine in (dockerd, podman):
            engine("load", "-q", "-i", tmp_path / "ours")
            found = engine.inspect(said)
            assert found["RootFS"]["Layers"] == original["RootFS"]["Layers"]
            assert found["Id"].removeprefix("sha256:") == original["Id"].removeprefix("sha256:")
            engine.forget(said)
    shutil.rmtree(tmp_path / "ours", ignore_errors=True)
