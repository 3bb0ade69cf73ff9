"""What a container would see: our union of every real image against what umoci and podman unpack.

Type, mode, owner, time, link, extended attributes and content, path by path. Ours is taken several ways:
as the tar that export writes, unpacked by GNU tar; as mounted by the best driver there is; and by others.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.compat.peers import SYSTEM_PATH, Lamina, Podman, Skopeo, Umoci, program
from tests.compat.trees import Tree, differences, read_tree, without

pytestmark = [pytest.mark.compat, pytest.mark.shared_images]

IMAGES = [
    "alpine-3.11.docker.tar.gz", "busybox-1.38.0.oci", "forty-nine-layers.docker.tar",
    "fourteen-layers.docker.tar", "hardlink.oci", "opaque.docker.tar",
]
ROOT = b"."


@pytest.fixture(params=IMAGES)
def original(request: pytest.FixtureRequest, shared_images: Path, tmp_path: Path) -> Path:
    """The image as others can read it: inflated, and the text that stands for a link in busybox's layout made one."""
    path = shared_images / request.param
    if path.suffix == ".gz":
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        return tmp_path / path.stem
    if request.param != "busybox-1.38.0.oci":
        return path
    copy = tmp_path / request.param
    shutil.copytree(path, copy)
    for blob in (copy / "blobs/sha256").iterdir():
        text = blob.read_bytes()
        if text.startswith(b"../"):
            blob.chmod(0o644)
            blob.unlink()
            os.symlink(os.fsdecode(text), blob)
    return copy


def podmans(podman: Podman, original: Path) -> Tree:
    name = podman("load", "-q", "-i", original).rpartition(" ")[2]
    with podman.mounted(name) as root:
        tree = read_tree(root)
    podman.forget(name)
    return tree


def umocis(umoci: Umoci, skopeo: Skopeo, original: Path, scratch: Path) -> Tree:
    source = f"oci:{original}" if original.suffix == ".oci" else f"docker-archive:{original}"
    skopeo.copy(source, f"oci:{scratch}/for-umoci:1")
    with umoci.unpacked(f"{scratch}/for-umoci:1") as root:
        return read_tree(root)


def exported(lamina: Lamina, name: str, scratch: Path) -> Tree:
    lamina("export", name, "-o", scratch / "union.tar")
    root = scratch / "exported"
    root.mkdir()
    subprocess.run(
        [program("tar"), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", scratch / "union.tar", "-C", root],
        check=True, timeout=120, env={"PATH": SYSTEM_PATH},
    )
    return read_tree(root)


def mounted(lamina: Lamina, name: str, *options: str) -> Tree:
    path = Path(lamina(*options, "mount", name))
    try:
        return read_tree(path)
    finally:
        lamina(*options, "umount", name)


def test_union(
    lamina: Lamina, podman: Podman, umoci: Umoci, skopeo: Skopeo, shared_images: Path, original: Path, tmp_path: Path
) -> None:
    """Loaded from the collection itself. The root's own attributes are the image's only if a layer lists it."""
    (path,) = shared_images.glob(f"{original.name}*")
    name = lamina("load", "-q", "-i", path).rpartition(" ")[2]
    ours = {
        "exported": exported(lamina, name, tmp_path),
        "mounted": mounted(lamina, name),
        "overlay2": mounted(lamina, name, "--storage-driver", "overlay2"),
        "vfs": mounted(lamina, name, "--storage-driver", "vfs"),
    }
    theirs = {"podman": podmans(podman, original), "umoci": umocis(umoci, skopeo, original, tmp_path)}
    assert len(theirs["podman"]) > 1
    found = {
        f"{form}, {peer}": differences(without(tree, ROOT), without(other, ROOT))
        for form, tree in ours.items() for peer, other in theirs.items()
    }
    assert {pair: lines for pair, lines in found.items() if lines} == {}
    assert differences(ours["mounted"], ours["vfs"]) == []
    assert differences(ours["mounted"], ours["overlay2"]) == []
