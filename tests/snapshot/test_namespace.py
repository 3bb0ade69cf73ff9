"""Identities: which ids a user has, and the names that trees get from that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.snapshot.hands import identity_document, read_identity
from lamina.snapshot.namespace import (
    Identity,
    IdRange,
    Ownership,
    current_identity,
    planned_identity,
    single_identity,
    unprivileged_identity,
)

ME = os.geteuid()


def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subuid: str, subgid: str | None = None) -> Identity:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "subuid").write_text(subuid)
    (tmp_path / "subgid").write_text(subuid if subgid is None else subgid)
    return planned_identity(subuid=tmp_path / "subuid", subgid=tmp_path / "subgid")


def test_ranges_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(tmp_path, monkeypatch, f"somebody:1:9\n{ME}:100000:65536\n\n#x\n{ME}:900000:1000\n")
    assert found.ownership is Ownership.MAPPED
    assert found.uid_map == (IdRange(0, ME, 1), IdRange(1, 100_000, 65_536), IdRange(65_537, 900_000, 1000))
    assert not found.is_entered
    assert found.may_mount
    assert found.xattr_namespace == "user"


@pytest.mark.parametrize("subuid", [
    "", "nobody-here:100000:65536", f"{ME}:100000:", f"{ME}:x:65536", f"{ME}:100000:0", f"{ME}:100000:1000",
    f"{ME}:100000:65536:more", ":::", f"{ME}",
])
def test_without_useful_ranges_there_is_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subuid: str
) -> None:
    found = planned(tmp_path, monkeypatch, subuid)
    assert found.ownership is Ownership.SINGLE
    assert found.uid_map == (IdRange(0, ME, 1),)


def test_ranges_for_users_alone_are_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(tmp_path, monkeypatch, f"{ME}:100000:65536", "").ownership is Ownership.SINGLE


def test_ranges_are_nothing_without_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "subuid").write_text(f"{ME}:100000:65536")
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = planned_identity(subuid=tmp_path / "subuid", subgid=tmp_path / "subuid")
    assert found.ownership is Ownership.SINGLE


def test_keys_tell_mappings_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = planned(tmp_path, monkeypatch, f"{ME}:100000:65536")
    other = planned(tmp_path, monkeypatch, f"{ME}:200000:65536")
    assert one.key != other.key
    assert one.key == planned(tmp_path, monkeypatch, f"{ME}:100000:65536").key
    assert one.key.startswith("mapped-")
    assert "/" not in one.key
    assert single_identity().key == unprivileged_identity().key == "single"
    assert Identity(ownership=Ownership.KEPT).key == "kept"


def test_only_root_of_the_machine_has_trusted_xattrs() -> None:
    assert Identity(ownership=Ownership.KEPT).xattr_namespace == "trusted"
    assert Identity(ownership=Ownership.KEPT, is_initial=False).xattr_namespace == "user"
    assert single_identity().xattr_namespace == "user"


def test_an_identity_survives_the_wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for identity in (planned(tmp_path, monkeypatch, f"{ME}:100000:65536"), single_identity(),
                     unprivileged_identity(), current_identity()):
        assert read_identity(identity_document(identity)) == identity
