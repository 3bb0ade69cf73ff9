"""Trials of drivers: what they leave when they are killed, and what nobody takes from one that goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.snapshot import trying
from lamina.snapshot.hands import Hands
from lamina.snapshot.namespace import unprivileged_identity


@pytest.fixture
def hands() -> Hands:
    return Hands(unprivileged_identity())


def test_what_was_killed_is_swept(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if child == 0:
        with trying.scratch(tmp_path, hands) as path:
            (path / "file").write_bytes(bytes(9000))
            os._exit(0)
    os.waitpid(child, 0)
    assert list(trying.leftovers(tmp_path)) == []  # it is young: somebody may be about to lock it
    monkeypatch.setattr(trying, "_YOUNG", 0.0)
    ((path, size),) = trying.leftovers(tmp_path)
    assert size >= 9000
    assert trying.sweep(tmp_path) == size
    assert not path.exists()


def test_one_that_goes_on_stays(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "_YOUNG", 0.0)
    with trying.scratch(tmp_path, hands) as path:
        assert trying.sweep(tmp_path) == 0
        assert path.exists()
    assert not path.exists()
