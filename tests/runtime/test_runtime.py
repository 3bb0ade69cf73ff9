"""Which runtime is taken: the one that was asked for, or the best that works here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lamina.runtime import runtime
from lamina.runtime.network import programs as network_programs
from lamina.runtime.runtime import RuntimeUnavailable, candidates, choose_runtime
from lamina.snapshot.namespace import Identity, Ownership

KEPT = Identity(ownership=Ownership.KEPT)
RANGES = Identity(ownership=Ownership.MAPPED, is_initial=False)
SINGLE = Identity(ownership=Ownership.SINGLE, is_initial=False)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Only what is in here is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    def which(name: str, *_: object, **__: object) -> str | None:
        return str(tmp_path / name) if (tmp_path / name).exists() else None

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(network_programs, "find_program", lambda name, _places: which(name) or "")
    monkeypatch.setattr(runtime, "is_hybrid", lambda: False)
    monkeypatch.setattr(runtime, "has_groups", lambda: True)
    return tmp_path


def install(programs: Path, *names: str) -> None:
    for name in names:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)


@pytest.mark.parametrize(("installed", "chosen"), [
    (("crun", "runc"), "crun"), (("runc",), "runc"), (("crun",), "crun"), ((), "embedded"),
])
def test_the_first_that_works_is_taken(programs: Path, installed: tuple[str, ...], chosen: str) -> None:
    install(programs, *installed)
    assert choose_runtime("", KEPT).name == chosen


def test_crun_is_left_out_where_it_fails(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "is_hybrid", lambda: True)
    install(programs, "crun", "runc")
    assert choose_runtime("", KEPT).name == "runc"
    assert choose_runtime("crun", KEPT).name == "crun"


def test_root_without_control_groups_gets_our_own(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_groups", lambda: False)
    install(programs, "crun", "runc")
    assert choose_runtime("", KEPT).name == "embedded"
    assert choose_runtime("", RANGES).name == "crun"


def test_one_that_was_asked_for_must_be_there(programs: Path) -> None:
    install(programs, "runc")
    assert choose_runtime("runc", KEPT).name == "runc"
    assert choose_runtime("embedded", KEPT).name == "embedded"
    with pytest.raises(RuntimeUnavailable, match="runtime youki: not installed; `--runtime embedded` needs nothing"):
        choose_runtime("youki", KEPT)


def test_one_that_was_asked_for_is_looked_for_where_the_default_one_is(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(programs, "runc")
    monkeypatch.setenv("PATH", "/nowhere")
    assert choose_runtime("runc", KEPT).name == choose_runtime("", KEPT).name == "runc"
    assert choose_runtime(str(programs / "runc"), KEPT).name == "runc"
    with pytest.raises(RuntimeUnavailable, match="not installed"):
        choose_runtime(str(programs), KEPT)


def test_an_ordinary_user_with_one_id_gets_our_own(programs: Path) -> None:
    install(programs, "crun", "runc")
    assert choose_runtime("", SINGLE).name == "embedded"


def test_all_candidates_are_explained(programs: Path) -> None:
    found = candidates(KEPT)
    assert [(each.name, each.is_usable) for each in found] == [("crun", False), ("runc", False), ("embedded", True)]
    assert all(each.reason for each in found)
