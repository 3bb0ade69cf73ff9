"""Containers that stand still for a moment, and what others do with them meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import Place, based, wait_for

from lamina.engine.containers import find, group_of
from lamina.engine.engine import Engine
from lamina.engine.pausing import standing_still
from lamina.engine.settings import Settings
from lamina.errors import Conflict
from lamina.runtime.container import PAUSED, ContainerDirectory, Status

pytestmark = pytest.mark.privileged


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with based(tmp_path_factory.mktemp("place") / "root", "embedded") as made:
        yield made


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    with Engine.open(settings=Settings.load({}, flags={"data-root": str(place.root)})) as opened:
        place.say("run", "-d", "--name", "one", "--network", "none", "base:1", "sleep", "600")
        yield opened
        place.say("rm", "-f", "one")


def is_frozen(engine: Engine) -> bool:
    return group_of(find(engine, "one").state, "one").is_frozen


def flag(engine: Engine) -> Path:
    return ContainerDirectory(engine.root, find(engine, "one").container.id).path / PAUSED


def standing(engine: Engine) -> tuple[bool, bool, Status]:
    return is_frozen(engine), flag(engine).exists(), find(engine, "one").state.status


STILL = (True, True, Status.PAUSED)
GOING = (False, False, Status.RUNNING)


def test_it_is_paused_as_anybody_pauses_it(engine: Engine) -> None:
    with standing_still(engine, find(engine, "one")):
        assert standing(engine) == STILL
        with pytest.raises(Conflict, match=r"^one: paused already$"):
            engine.pause("one")
    assert standing(engine) == GOING


def test_who_looked_before_it_was_paused_pauses_it_no_second_time(engine: Engine) -> None:
    seen = find(engine, "one")
    with standing_still(engine, seen):
        with standing_still(engine, seen):
            assert standing(engine) == STILL
        assert standing(engine) == STILL
    assert standing(engine) == GOING


def test_it_goes_on_after_a_failure_too(engine: Engine) -> None:
    with contextlib.suppress(KeyError), standing_still(engine, find(engine, "one")):
        raise KeyError
    assert standing(engine) == GOING


def test_one_that_is_paused_stays_so(engine: Engine) -> None:
    engine.pause("one")
    with standing_still(engine, find(engine, "one")):
        assert standing(engine) == STILL
    assert standing(engine) == STILL
    engine.unpause("one")
    assert standing(engine) == GOING


def test_a_commit_undoes_no_pause_of_somebody_else(engine: Engine) -> None:
    with standing_still(engine, find(engine, "one")):
        engine.unpause("one")
        assert standing(engine) == GOING
        engine.pause("one")
    assert standing(engine) == STILL


@pytest.mark.parametrize("end", [["stop", "-t", "0"], ["kill"], ["rm", "-f"]], ids="-".join)
def test_it_may_end_meanwhile(place: Place, engine: Engine, end: list[str]) -> None:
    with standing_still(engine, find(engine, "one")):
        place.say(*end, "one")
    if end[0] == "rm":
        place.say("run", "-d", "--name", "one", "--network", "none", "base:1", "sleep", "600")
    else:
        place.say("start", "one")
    assert standing(engine) == GOING


def test_what_a_killed_commit_left_is_unpaused(place: Place, engine: Engine) -> None:
    code = (
        "import os, signal, sys; from lamina.engine.engine import Engine\n"
        "from lamina.engine.containers import find; from lamina.engine.pausing import standing_still\n"
        "from lamina.engine.settings import Settings\n"
        "with Engine.open(settings=Settings.load({}, flags={'data-root': sys.argv[1]})) as engine:\n"
        "    with standing_still(engine, find(engine, 'one')):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, place.root], check=False, timeout=60)
    assert standing(engine) == STILL
    place.say("unpause", "one")
    assert standing(engine) == GOING


def test_what_was_frozen_by_other_hands_is_unpaused(engine: Engine) -> None:
    group_of(find(engine, "one").state, "one").freeze()
    assert standing(engine) == (True, False, Status.RUNNING)
    engine.unpause("one")
    assert standing(engine) == GOING


def test_a_commit_is_a_pause(place: Place, engine: Engine) -> None:
    """With so much to read that somebody can see it."""
    place.run("exec", "one", "dd", "if=/dev/zero", "of=/tmp/big", "bs=1048576", "count=200")
    commit = place.start("commit", "one", "made:1")
    wait_for(lambda: standing(engine) == STILL or commit.poll() is not None)
    assert commit.poll() is None
    _, complaint = commit.communicate()
    assert (commit.returncode, complaint) == (0, "")
    assert standing(engine) == GOING
