"""Damage on the disk: told in a sentence when it is met, found by `check`, and made again by `check --repair`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import Place, busybox_layer, make_layout, owned_directory

pytestmark = pytest.mark.privileged

RUN = ("run", "--rm", "--network", "none", "base:1", "cat", "/etc/passwd")
PASSWD = "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"


@pytest.fixture(params=["erofs", "overlay2", "vfs"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", driver=request.param)
        made.say("load", "-q", "-i", make_layout(path / "layout", [busybox_layer()]))
        try:
            yield made
        finally:
            made.clear()


def damage(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1, path
    path.write_bytes(data.replace(old, new))


def layer_file(place: Place, pattern: str) -> Path:
    (found,) = (place.root / "layers" / "sha256").glob(pattern)
    return found


def test_a_damaged_layer_is_unpacked_again_under_the_containers_that_stand_on_it(place: Place) -> None:
    assert place.say(*RUN) == PASSWD
    place.say("create", "--name", "kept", "--network", "none", "base:1", "cat", "/etc/passwd")
    where = "*/trees/*/etc/passwd" if place.driver == "overlay2" else "*/tar"
    damage(layer_file(place, where), b"app:x:1000", b"app:x:0000")
    found = place.run("check")
    assert (found.returncode, "unpacked layer is damaged" in found.stdout) == (1, True)
    repaired = place.run("check", "--repair")
    assert (repaired.returncode, "(repaired)" in repaired.stdout) == (0, True), repaired
    assert place.run("check").returncode == 0
    assert place.say(*RUN) == PASSWD
    if place.driver != "vfs":  # which copied its tree while it was whole
        assert place.say("start", "-a", "kept") == PASSWD


@pytest.mark.parametrize("place", ["erofs"], indirect=True)
def test_an_image_that_is_damaged_is_not_mounted(place: Place) -> None:
    image = layer_file(place, "*/erofs/alone")
    data = bytearray(image.read_bytes())
    data[1100] ^= 1
    image.write_bytes(data)
    refused = place.run(*RUN)
    assert refused.returncode == 125
    assert refused.stderr.endswith("damaged; `lamina check --repair` makes it again\n")
    assert place.run("check").returncode == 1
    assert place.run("check", "--repair").returncode == 0
    assert place.say(*RUN) == PASSWD


@pytest.mark.parametrize("place", ["overlay2"], indirect=True)
def test_a_tree_is_looked_at_where_a_tar_is_kept_too(place: Place) -> None:
    with_erofs = Place(place.root, driver="erofs")
    assert with_erofs.say(*RUN) == PASSWD
    damage(layer_file(place, "*/trees/*/etc/passwd"), b"app:x:1000", b"app:x:0000")
    found = place.run("check")
    assert (found.returncode, "unpacked layer is damaged: its tree" in found.stdout) == (1, True)
    assert place.run("check", "--repair").returncode == 0
    assert place.say(*RUN) == with_erofs.say(*RUN) == PASSWD
