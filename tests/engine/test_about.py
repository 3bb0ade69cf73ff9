"""What ``info`` says of this system."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.engine.engine import Engine
from lamina.runtime.runtime import Candidate
from lamina.runtime.weaknesses import weaknesses


def test_every_runtime_has_a_reason_and_the_chosen_one_is_usable(engine: Engine) -> None:
    found = engine.info()
    candidates = {each["Name"]: each for each in found["RuntimeCandidates"]}
    assert list(candidates) == ["crun", "runc", "embedded"]
    assert all(each["Reason"] for each in candidates.values())
    assert candidates[found["Runtime"]]["Usable"] is True
    assert candidates["embedded"]["Usable"] is True
    assert any("CAP_SYS_PTRACE" in each for each in candidates["embedded"]["Weaker"])


def test_what_containers_need_of_the_system_is_told(engine: Engine) -> None:
    found = engine.info()
    assert found["Cgroups"]["Version"] in ("1", "2", "hybrid")
    programs = {each["Name"]: each for each in found["NetworkPrograms"]}
    assert list(programs) == ["netavark", "aardvark-dns", "cni-plugins", "pasta", "slirp4netns"]
    assert all(each["Reason"] == "not installed" or each["Usable"] for each in programs.values())
    assert found["UserNamespaces"]["Allowed"] is not bool(found["UserNamespaces"]["Reason"])


@pytest.mark.parametrize(("version", "is_weaker"), [
    ("1.1.5+ds1", True), ("1.2.7", True), ("1.2.8", False), ("1.3.3", False), ("1.4", False), ("garbage", False),
])
def test_an_old_runc_is_said_to_be_one(version: str, is_weaker: bool, tmp_path: Path) -> None:
    program = tmp_path / "runc"
    program.write_text(f"#!/bin/sh\necho 'runc version {version}'\n")
    program.chmod(0o755)
    found = weaknesses(Candidate(name="runc", path=str(program), is_usable=True, reason=""))
    assert any("CVE-2025-31133" in each for each in found) == is_weaker
    assert weaknesses(Candidate(name="runc", path="", is_usable=False, reason="")) == ()
