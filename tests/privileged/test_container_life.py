"""The life of a container as told by the drivers that need nothing but this machine's own filesystem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.life import live, make_base
from tests.privileged.places import Place, owned_directory

pytestmark = pytest.mark.privileged

WAYS = [
    ("root", "overlay2", "runc"), ("root", "overlay2", "embedded"), ("root", "erofs", "runc"),
    ("root", "vfs", "runc"), ("root", "vfs", "embedded"),
    ("ranges", "overlay2", "runc"), ("ranges", "overlay2", "embedded"), ("ranges", "vfs", "runc"),
    ("single", "overlay2", "embedded"), ("single", "vfs", "embedded"),
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with owned_directory(None) as path:
        path.chmod(0o755)
        yield make_base(path / "layout")


@pytest.fixture(params=WAYS, ids="-".join)
def place(
    request: pytest.FixtureRequest, ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser
) -> Iterator[Place]:
    who, driver, runtime = request.param
    user = {"root": None, "ranges": ordinary_user, "single": user_without_ranges}[who]
    with owned_directory(user) as path:
        made = Place(path / "root", user, driver, runtime)
        try:
            yield made
        finally:
            made.clear()


def test_a_life(place: Place, layout: Path) -> None:
    context = place.root.parent / "context"
    context.mkdir()
    context.chmod(0o755)
    live(place, layout, context)
