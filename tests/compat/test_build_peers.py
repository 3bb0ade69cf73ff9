"""Builds as docker and buildah have them: the same Dockerfiles, and every difference is one that is known.

docs/decisions/091-builds-as-docker-has-them.md says of each difference who is right, and why.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.compat.build_cases import CASES, Case
from tests.compat.build_differences import BUILDAH, BUILDKIT, DIFFERENCES, DOCKER, PEERS
from tests.compat.build_peers import (
    BASES,
    Builder,
    Built,
    Failed,
    build_all,
    build_ours,
    buildah_builder,
    differences,
    docker_builder,
    load,
    write_bases,
    write_context,
)
from tests.compat.peers import Docker
from tests.conftest import REPOSITORY

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings

pytestmark = pytest.mark.compat

OURS = "lamina"


@pytest.fixture(scope="module")
def built(workshop: Path, dockerd: Docker) -> Iterator[Mapping[str, Mapping[str, Built]]]:
    """What each builder makes of each case."""
    home = workshop / "builds"
    home.mkdir()
    for case in CASES:
        (home / case.name).mkdir()
        write_context(home / case.name / "ours", case.text, case.files)
        write_context(home / case.name / "theirs", case.older or case.text, case.files)
    bases = write_bases(home / "bases.tar")
    docker = docker_builder(dockerd.socket, home, is_buildkit=False)
    buildkit = docker_builder(dockerd.socket, home, is_buildkit=True)
    buildah = buildah_builder(workshop / "buildah")
    began = time.time() - 1  # tars have whole seconds
    found = {OURS: _ours(home, bases, began)}
    load(docker, bases)
    load(buildah, bases)
    with ThreadPoolExecutor() as pool:
        # One after the other: cases that build on others find those by the one name that both give them.
        dockers = pool.submit(lambda: [_theirs(each, home, began) for each in (docker, buildkit)])
        found[BUILDAH] = _theirs(buildah, home, began)
        found[DOCKER], found[BUILDKIT] = dockers.result()
    yield found
    # Other tests have other images of these names. The rest goes with the daemon.
    subprocess.run(
        [*docker.command, "image", "rm", "-f", *(f"{name}:1" for name in BASES)], env=dict(docker.environment),
        capture_output=True, check=False,
    )


def _ours(home: Path, bases: Path, began: float) -> dict[str, Built]:
    settings = Settings.load({"HOME": str(home)}, system=home / "etc")
    with Engine.open(home / "state", settings=settings) as engine, bases.open("rb") as archive:
        engine.load(archive)
        return build_ours(engine, CASES, home, began)


def _theirs(builder: Builder, home: Path, began: float) -> dict[str, Built]:
    return build_all(builder, [case for case in CASES if case.has(builder.name)], home, began)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_build_comes_to_what_the_peers_come_to(built: Mapping[str, Mapping[str, Built]], case: Case) -> None:
    ours = built[OURS][case.name]
    if case.fails:
        assert isinstance(ours, Failed)
        assert case.fails in ours.said
    else:
        assert not isinstance(ours, Failed), ours.said
    for peer in PEERS:
        if not case.has(peer):
            continue
        lines, reasons = differences(ours, built[peer][case.name]), case.unlike.get(peer)
        if reasons:
            assert lines, f"{peer} does as we do now, so this is no difference any more: {reasons}"
        else:
            assert not lines, f"{peer} comes to something else than we do:\n" + "\n".join(lines)


def test_the_decision_says_who_is_right() -> None:
    text = (REPOSITORY / "docs/decisions/091-builds-as-docker-has-them.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert rows - {"What", "---"} == set(DIFFERENCES)


def test_differences_are_of_cases() -> None:
    named = {name for peers in DIFFERENCES.values() for names in peers.values() for name in names.split()}
    assert named <= {case.name for case in CASES}
    assert {peer for peers in DIFFERENCES.values() for peer in peers} <= set(PEERS)
