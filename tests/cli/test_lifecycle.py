"""stop, kill, restart, wait, pause, rename, update, rm and prune: what is asked of the engine, and what is said."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.fakes import Command

from lamina.runtime.container import ContainerNotFound, ContainerNotRunning, ContainerRunning, NameInUse

ID = "c0ffee" + "0" * 58


@pytest.mark.parametrize(("words", "named"), [
    (["stop", "web"], {"seconds": None, "number": 0}),
    (["stop", "-t", "2", "web"], {"seconds": 2, "number": 0}),
    (["stop", "-t2", "web"], {"seconds": 2, "number": 0}),
    (["stop", "--timeout", "-1", "-s", "INT", "web"], {"seconds": -1, "number": 2}),
    (["stop", "--time=0", "web"], {"seconds": 0, "number": 0}),
])
def test_stop(command: Command, words: list[str], named: dict[str, Any]) -> None:
    result = command(*words, stop=None)
    assert (result.code, result.lines) == (0, ["web"])
    assert result.asked == [("stop", ("web",), named)]


@pytest.mark.parametrize(("words", "number"), [
    (["kill", "web"], 9), (["kill", "-s", "HUP", "web"], 1), (["kill", "-sSIGUSR1", "web"], 10), (["kill", "--signal=15", "web"], 15),
])
def test_kill(command: Command, words: list[str], number: int) -> None:
    result = command(*words, kill=None)
    assert (result.lines, result.asked) == (["web"], [("kill", ("web", number), {})])


def test_a_signal_that_there_is_not_is_told_before_anything_is_done(command: Command) -> None:
    result = command("kill", "-s", "NOPE", "web", kill=None)
    assert (result.code, result.asked) == (1, [])
    assert "signal 'NOPE': unknown" in result.err


def test_restart_stops_and_starts(command: Command) -> None:
    result = command("restart", "-t", "1", "web", stop=None, start=None)
    assert [verb for verb, _, _ in result.asked] == ["stop", "start"]
    assert result.lines == ["web"]


def test_one_failure_does_not_keep_the_others_from_it(command: Command) -> None:
    def stop(name: str, **_: object) -> None:
        if name == "b":
            raise ContainerNotFound("b: no such container")

    result = command("stop", "a", "b", "c", stop=stop)
    assert (result.code, result.lines, result.err) == (1, ["a", "c"], "lamina: b: no such container\n")


def test_wait_prints_exit_codes(command: Command) -> None:
    result = command("wait", "a", "b", wait=lambda name: {"a": 0, "b": 137}[name])
    assert (result.code, result.lines) == (0, ["0", "137"])


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_pause_and_unpause(command: Command, verb: str) -> None:
    result = command(verb, "a", "b", **{verb: None})
    assert (result.code, result.lines) == (0, ["a", "b"])
    result = command(verb, "a", **{verb: ContainerNotRunning("a: not running")})
    assert (result.code, result.out, result.err) == (1, "", "lamina: a: not running\n")


def test_rename(command: Command) -> None:
    result = command("rename", "web", "front", rename=None)
    assert (result.code, result.out, result.asked) == (0, "", [("rename", ("web", "front"), {})])
    assert command("rename", "web", "front", rename=NameInUse("front: taken")).code == 1


@pytest.mark.parametrize(("words", "changes"), [
    (["-m", "64m"], {"memory": 64 << 20}),
    (["--cpus", "1.5", "--pids-limit", "9"], {"cpus": 1.5, "pids_limit": 9}),
    (["--restart", "always"], {"restart": "always"}),
    (["--memory", "0"], {"memory": 0}),
])
def test_update(command: Command, words: list[str], changes: dict[str, Any]) -> None:
    result = command("update", *words, "web", update=("pids: not here",))
    assert result.asked == [("update", ("web", changes), {})]
    assert (result.code, result.lines, result.err) == (0, ["web"], "note: pids: not here\n")


@pytest.mark.parametrize(("words", "complaint"), [
    (["web"], "update: which limit is to change?"),
    (["--ulimit", "nofile=1", "web"], "update --ulimit: a running process keeps what it started with"),
    (["--oom-score-adj", "1", "web"], "update --oom-score-adj: a running process keeps"),
    (["-m", "64m"], "update needs CONTAINER"),
])
def test_update_that_makes_no_sense(command: Command, words: list[str], complaint: str) -> None:
    result = command("update", *words, update=())
    assert (result.code, result.asked) == (125, [])
    assert result.err.startswith(f"lamina: {complaint}")


def test_rm(command: Command) -> None:
    result = command("rm", "-v", "web", remove_container=None)
    assert result.asked == [("remove_container", ("web",), {"force": False, "with_volumes": True})]
    assert result.lines == ["web"]
    result = command("rm", "web", remove_container=ContainerRunning("web: running; stop it first, or use --force"))
    assert (result.code, result.out) == (1, "")


def test_rm_of_what_is_not_there(command: Command) -> None:
    gone = ContainerNotFound("web: no such container")
    assert command("rm", "web", remove_container=gone).code == 1
    result = command("rm", "-f", "web", remove_container=gone)
    assert (result.code, result.out, result.err) == (0, "", "lamina: web: no such container\n")


def test_prune_asks(command: Command) -> None:
    for answer, is_done in ((b"y\n", True), (b"YES\n", True), (b"n\n", False), (b"", False), (b"yeah\n", False)):
        command.input = answer
        result = command("container", "prune", prune_containers=((ID,), 1_500_000))
        assert bool(result.asked) is is_done
        assert result.err.startswith("WARNING! This will remove all containers that do not run.\nAre you sure")


def test_prune_says_what_went(command: Command) -> None:
    result = command("container", "prune", "-f", "--filter", "until=24h", "--filter", "label=a=b", prune_containers=((ID,), 1_500_000))
    assert result.asked == [("prune_containers", ({"until": ["24h"], "label": ["a=b"]},), {})]
    assert result.lines == ["Deleted Containers:", ID, "", "Total reclaimed space: 1.5MB"]
    assert command("container", "prune", "-f", prune_containers=((), 0)).lines == ["Total reclaimed space: 0B"]


@pytest.mark.parametrize("verb", ["stop", "kill", "restart", "wait", "pause", "rm", "start"])
def test_a_container_must_be_named(command: Command, verb: str) -> None:
    result = command(verb)
    assert (result.code, result.err.splitlines()[0]) == (125, f"lamina: {verb} needs CONTAINER")
