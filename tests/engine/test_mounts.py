"""Mounts as far as they need no privilege: what there is to say of those that are not there."""

from __future__ import annotations

import pytest

from lamina.engine.engine import Engine
from lamina.errors import NotFound


@pytest.mark.parametrize("name", ["nothing:here", "/nowhere", "../x", "UPPER", ""])
def test_what_is_not_mounted_is_named(engine: Engine, name: str) -> None:
    with pytest.raises(NotFound, match="neither a mounted image nor where one is mounted") as caught:
        engine.unmount(name)
    assert str(caught.value).startswith(f"{name}: ")
