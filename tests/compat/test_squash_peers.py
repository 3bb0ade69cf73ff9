"""Squash against docker's own, podman's and buildah's; and our results in their hands."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compat.peers import Docker, Lamina, Podman, Skopeo, program, run
from tests.compat.trees import Tree, differences, read_tree, with_mtimes_of, without

pytestmark = pytest.mark.compat

SECRET = "correct horse battery staple"
DOCKERFILE = """\
FROM lamina-base
ENV PATH=/bin
COPY token /root/token
RUN mkdir -p /d/deep && echo 1 >/d/a && ln /d/a /d/b && ln -s /d/deep /link && chown 7:8 /d/deep
RUN rm /root/token
RUN echo 2 >/d/a && chmod 4755 /d/a
RUN rm -r /etc/x && mkdir /etc/x && echo y >/etc/x/y
RUN rm /opt/file && mkdir /opt/file && echo in >/opt/file/in && rmdir /opt/dir && echo now a file >/opt/dir
RUN mv /var/old /var/new && mkfifo /var/pipe && touch "/var/notes.wh.txt"
RUN chmod 711 /srv && echo 3 >/link/through
LABEL stays=yes
CMD ["/bin/cat", "/etc/x/y"]
"""
ROOT = b"."


def rootfs() -> bytes:
    """A base with one static program, and things for the Dockerfile to hide, replace and move."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("etc/x", 0o755), ("opt", 0o755), ("opt/dir", 0o755),
                           ("root", 0o700), ("srv", 0o755), ("var", 0o755), ("tmp", 0o1777)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, mode, 1_700_000_000
            tar.addfile(member)
        busybox = Path(program("busybox")).read_bytes()
        for name, data in (("bin/busybox", busybox), ("etc/x/z", b"hidden"), ("opt/file", b"1"), ("var/old", b"moved")):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o755, 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
        for name in ("sh", "cat", "rm", "mkdir", "rmdir", "ln", "chown", "chmod", "mv", "mkfifo", "touch", "echo"):
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname, member.mtime = tarfile.SYMTYPE, "busybox", 1_700_000_000
            tar.addfile(member)
    return out.getvalue()


def build(docker: Docker, context: Path, name: str, *options: str) -> None:
    docker("build", "-q", "--network", "none", *options, "-t", name, context)


@pytest.fixture(scope="module")
def built(dockerd: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``lamina-plain``, built by docker with a layer each instruction; and ``lamina-docker``, squashed by docker."""
    top = tmp_path_factory.mktemp("built")
    base, context = top / "base", top / "context"
    base.mkdir()
    (base / "rootfs.tar").write_bytes(rootfs())
    (base / "Dockerfile").write_text("FROM scratch\nADD rootfs.tar /\n")
    context.mkdir()
    (context / "token").write_text(SECRET)
    (context / "Dockerfile").write_text(DOCKERFILE)
    build(dockerd, base, "lamina-base")
    build(dockerd, context, "lamina-plain")
    build(dockerd, context, "lamina-docker", "--squash")
    archive = top / "built.tar"
    dockerd("save", "-o", archive, "lamina-base", "lamina-plain", "lamina-docker")
    yield archive
    dockerd.forget("lamina-docker", "lamina-plain", "lamina-base")


def seen(lamina: Lamina, name: str, *options: str) -> Tree:
    path = Path(lamina(*options, "mount", name))
    try:
        return without(read_tree(path), ROOT)
    finally:
        lamina(*options, "umount", name)


def history(lamina: Lamina, name: str) -> list[tuple[str, str]]:
    shown = lamina("history", "--no-trunc", "--format", "json", name)
    rows: list[dict[str, Any]] = [json.loads(line) for line in shown.splitlines()]
    return [(row["CreatedBy"], row["Comment"]) for row in rows]


def everything(lamina: Lamina) -> bytes:
    blobs = (lamina.root / "blobs" / "sha256").iterdir()
    return b"".join(blob.read_bytes() for blob in blobs)


@pytest.mark.parametrize("driver", ["erofs", "overlay2", "vfs"])
def test_the_same_as_docker_build_squash(lamina: Lamina, built: Path, driver: str) -> None:
    options = ("--storage-driver", driver)
    lamina(*options, "load", "-q", "-i", built)
    lamina(*options, "squash", "-q", "lamina-plain", "-t", "ours")
    mine, theirs_tree = seen(lamina, "ours", *options), seen(lamina, "lamina-docker", *options)
    assert differences(mine, seen(lamina, "lamina-plain", *options)) == []
    # docker forgets the new time of a directory in which something was only added and removed again.
    assert differences(mine, with_mtimes_of(theirs_tree, mine, frozenset({"directory"}))) == []
    ours, theirs = lamina.inspect("ours"), lamina.inspect("lamina-docker")
    assert ours["Config"] == theirs["Config"]
    assert len(ours["RootFS"]["Layers"]) == len(theirs["RootFS"]["Layers"]) == 2
    assert history(lamina, "ours") == history(lamina, "lamina-docker")


def test_the_secret_is_in_no_byte_of_the_result(lamina: Lamina, built: Path, tmp_path: Path) -> None:
    lamina("load", "-q", "-i", built)
    assert SECRET.encode() in everything(lamina)
    lamina("squash", "-q", "lamina-plain", "-t", f"oci-archive:{tmp_path}/ours.tar:ours")
    assert SECRET.encode() not in (tmp_path / "ours.tar").read_bytes()


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_flat_is_what_podman_and_buildah_make(
    lamina: Lamina, podman: Podman, built: Path, tmp_path: Path, tool: str
) -> None:
    podman("load", "-q", "-i", built)
    if tool == "podman":
        (tmp_path / "Containerfile").write_text("FROM localhost/lamina-plain\n")
        podman("build", "-q", "--pull=never", "--squash-all", "-t", "theirs", "-f", tmp_path / "Containerfile", tmp_path)
    else:
        store = ["--root", podman.home / "root", "--runroot", podman.home / "run", "--storage-driver", "overlay"]
        container = run(program("buildah"), *store, "from", "--pull-never", "localhost/lamina-plain")
        run(program("buildah"), *store, "commit", "-q", "--squash", "--rm", container, "theirs")
    with podman.mounted("theirs") as root:
        theirs = without(read_tree(root), ROOT)
    lamina("load", "-q", "-i", built)
    lamina("squash", "-q", "--all", "lamina-plain", "-t", "flat")
    assert differences(seen(lamina, "flat"), theirs) == []
    podman.forget("theirs", "localhost/lamina-plain", "localhost/lamina-docker", "localhost/lamina-base")


@pytest.mark.parametrize("arguments", [(), ("--all",), ("-n", "3"), ("--from", "1", "--to", "4"), ("--compression", "gzip")])
def test_docker_runs_and_pushes_what_we_squashed(
    lamina: Lamina, dockerd: Docker, docker_registry: str, built: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    name = f"{docker_registry}/squashed:{abs(hash(arguments))}"
    lamina("load", "-q", "-i", built)
    lamina("squash", "-q", *arguments, "lamina-plain", "-t", f"docker-archive:{tmp_path}/out.tar:{name}")
    dockerd("load", "-q", "-i", tmp_path / "out.tar")
    assert dockerd("run", "--rm", "--network", "none", name) == "y"
    assert dockerd("run", "--rm", "--network", "none", name, "cat", "/d/a", "/d/b", "/opt/file/in") == "2\n1\nin"
    dockerd("push", "-q", name)
    lamina("pull", "-q", name)
    assert differences(seen(lamina, name), seen(lamina, "lamina-plain")) == []
    dockerd.forget(name)


def test_podman_pulls_runs_and_pushes_what_we_pushed(
    lamina: Lamina, podman: Podman, docker_registry: str, built: Path
) -> None:
    name = f"{docker_registry}/for-podman:1"
    lamina("load", "-q", "-i", built)
    lamina("squash", "-q", "lamina-plain", "-t", f"docker://{name}")
    podman("pull", "-q", "--tls-verify=false", name)
    with podman.mounted(name) as root:
        theirs = without(read_tree(root), ROOT)
    assert differences(theirs, seen(lamina, "lamina-plain")) == []
    # Without limits of its own: podman's defaults are above what a container in CI may have.
    alone = ("--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    # crun refuses the hybrid of both versions of control groups; runc takes any.
    assert podman("--runtime", program("runc"), "run", *alone, name) == "y"
    podman("push", "-q", "--tls-verify=false", name, f"{docker_registry}/again:1")
    lamina("pull", "-q", f"{docker_registry}/again:1")
    podman.forget(name)


def test_skopeo_reads_the_layout_that_we_write(lamina: Lamina, skopeo: Skopeo, built: Path, tmp_path: Path) -> None:
    lamina("load", "-q", "-i", built)
    lamina("squash", "-q", "lamina-plain", "-t", f"oci:{tmp_path}/layout:one")
    skopeo.copy(f"oci:{tmp_path}/layout:one", f"oci:{tmp_path}/copy:one")
    lamina("squash", "-q", "--all", f"oci:{tmp_path}/copy:one", "-t", "from-skopeo")
    assert differences(seen(lamina, "from-skopeo"), seen(lamina, "lamina-plain")) == []
