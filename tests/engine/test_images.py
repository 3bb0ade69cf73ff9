"""Which images a name, a pattern or a filter chooses."""

from __future__ import annotations

import io
import tarfile

import pytest

from lamina.engine.engine import Engine
from lamina.errors import InvalidInput


@pytest.fixture
def named(engine: Engine) -> Engine:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    engine.import_image(io.BytesIO(tar.getvalue()), "app:1")
    for name in ("app:2", "api:1", "host.test/team/app:1"):
        engine.tag("app:1", name)
    return engine


def names(engine: Engine, *wanted: str, **filters: str) -> set[str]:
    found = engine.images(names=wanted, filters={key: [value] for key, value in filters.items()})
    return {f"{row.repository}:{row.tag}" for row in found}


@pytest.mark.parametrize(("wanted", "expected"), [
    ("app", {"app:1", "app:2"}), ("app:2", {"app:2"}), ("ap*", {"app:1", "app:2", "api:1"}),
    ("*:1", {"app:1", "api:1", "host.test/team/app:1"}), ("host.test/*/app", {"host.test/team/app:1"}), ("x*", set()),
])
def test_names_and_patterns(named: Engine, wanted: str, expected: set[str]) -> None:
    assert names(named, wanted) == expected


@pytest.mark.parametrize(("value", "count"), [("true", 0), ("1", 0), ("FALSE", 4), ("0", 4)])
def test_dangling(named: Engine, value: str, count: int) -> None:
    assert len(names(named, dangling=value)) == count


def test_dangling_is_a_switch(named: Engine) -> None:
    with pytest.raises(InvalidInput, match="dangling=maybe: expected true or false"):
        names(named, dangling="maybe")
