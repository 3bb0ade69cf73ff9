"""Images made by other tools, from the collection that lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.archive.saved import loaded

from lamina.archive.source import ArchiveSource
from lamina.content.store import SizeMismatch
from lamina.image import Image

pytestmark = pytest.mark.shared_images


@pytest.mark.parametrize(("name", "names", "layers"), [
    ("busybox-1.38.0.oci", ("busybox:1.38.0-glibc",), 1),
    ("hardlink.oci", (), 2),
    ("alpine-3.11.docker.tar.gz", ("alpine:3.11",), 1),
    ("fourteen-layers.docker.tar", ("dive-test:latest",), 14),
    ("forty-nine-layers.docker.tar", ("gcr.io/tejal-gke1/my-image:latest",), 49),
    ("opaque.docker.tar", ("she/image_from_scratch:1.0",), 4),
])
def test_loads_whole(shared_images: Path, tmp_path: Path, name: str, names: tuple[str, ...], layers: int) -> None:
    with ArchiveSource(shared_images / name, scratch=tmp_path) as source:
        (image,) = source.images()
        assert image.names == names
        found = Image.load(loaded(source, image.root), image.root, None)
        assert len(found.layers) == layers


def test_the_liar_is_refused_with_both_sizes(shared_images: Path, tmp_path: Path) -> None:
    with (
        ArchiveSource(shared_images / "size-mismatch.oci", scratch=tmp_path) as source,
        pytest.raises(SizeMismatch, match="743 bytes, but the archive holds 744"),
    ):
        loaded(source, source.images()[0].root)


def test_a_root_filesystem_is_no_image(shared_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="import"):
        ArchiveSource(shared_images / "alpine-minirootfs-3.20.3.tar.gz", scratch=tmp_path)
