"""Everything that dive finds is found: on images that other tools made."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.insight import dive
from tests.insight.told import Told
from tests.layer import tarbytes
from tests.layer.test_real_layers import IMAGES, layers_of

from lamina.layer.compress import inflate


def test_the_rule() -> None:
    layers = [
        tarbytes.tar(tarbytes.member("d/a", b"123"), tarbytes.member("d/b", b"12"), tarbytes.member("c", b"1"),
                     tarbytes.member("e", b"")),
        tarbytes.tar(tarbytes.member("c", b"12345"), tarbytes.member(".wh.d"), tarbytes.member("e", b"1")),
        tarbytes.tar(tarbytes.member("c", b""), tarbytes.member("d/a", b"1")),
    ]
    assert dive.wasted(layers) == {"c": 6, "d": 5, "d/a": 3}, "it counts what went with d, and d/a once more"


@pytest.mark.shared_images
@pytest.mark.parametrize("name", IMAGES)
def test_all_that_dive_finds(name: str, shared_images: Path) -> None:
    tars = [inflate(io.BytesIO(blob)).read() for blob in layers_of(shared_images / name)]
    found = Told(*tars).waste
    for path, size in dive.wasted(tars).items():
        ours = [item.bytes for item in found.items if item.path == path or item.path.startswith(path + "/")]
        assert sum(ours) >= size, path
    assert sum(item.bytes for item in found.items) == found.wasted_bytes <= found.total_bytes


@pytest.mark.shared_images
def test_the_collection_has_waste_in_it(shared_images: Path) -> None:
    """So that the test above does not compare nothing with nothing."""
    found = {}
    for name in IMAGES:
        tars = [inflate(io.BytesIO(blob)).read() for blob in layers_of(shared_images / name)]
        found[name] = len(dive.wasted(tars)), Told(*tars).waste.wasted_bytes
    assert found["forty-nine-layers.docker.tar"][0] > 0
    assert found["fourteen-layers.docker.tar"] == (4, 57_645)
