"""The runtimes that other tests do not reach on a machine like this: crun, and our own for want of control groups.

crun refuses cgroups in hybrid mode; so here they are not, in a namespace of mounts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import Place, based

pytestmark = pytest.mark.privileged

UNIFIED = "/sys/fs/cgroup/unified"
NONE = 'mount -t tmpfs -o ro none /sys/fs/cgroup; exec "$@"'
SCRIPT = f'if mountpoint -q {UNIFIED}; then umount {UNIFIED}; fi; exec "$@"'


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with based(tmp_path / "root", "runc") as made:
        yield made


def lamina(place: Place, *words: str, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-m", "lamina"]
    environ = {**os.environ, "LAMINA_ROOT": str(place.root)}
    return subprocess.run([*command, *words], env=environ, capture_output=True, text=True, check=False, timeout=60)


def run(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return lamina(place, "run", "--rm", "--network", "none", *words)


def test_it_is_chosen_where_it_works_and_says_how_a_command_ended(place: Place) -> None:
    done = run(place, "base:1", "sh", "-c", "echo out; echo err >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
    for command, code in (("nosuch", 127), ("/etc", 126)):
        done = run(place, "base:1", command)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.startswith("lamina: "), done


def test_a_container_of_its_own_has_limits_and_is_entered_and_stopped(place: Place) -> None:
    words = ("--name", "one", "--memory", "64m", "--network", "none", "base:1", "sleep", "100")
    assert lamina(place, "run", "-d", *words).returncode == 0
    try:
        assert lamina(place, "inspect", "-f", "{{.State.Status}} {{.Runtime}}", "one").stdout == "running crun\n"
        limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
        assert lamina(place, "exec", "one", "sh", "-c", limit).stdout == f"{64 << 20}\n"
        assert lamina(place, "exec", "one", "sh", "-c", "exit 3").returncode == 3
        assert lamina(place, "stop", "-t", "0", "one").returncode == 0
        assert lamina(place, "inspect", "-f", "{{.State.ExitCode}}", "one").stdout == "137\n"
    finally:
        lamina(place, "rm", "-f", "one")
    assert lamina(place, "ps", "-aq").stdout == ""


def test_root_without_control_groups_has_containers_all_the_same(place: Place) -> None:
    """As inside a container of a CI service: runc and crun refuse there."""
    words = ("run", "--rm", "--network", "none", "--memory", "64m", "base:1", "sh", "-c", "echo $$; exit 4")
    done = lamina(place, *words, script=NONE)
    assert (done.returncode, done.stdout) == (4, "1\n"), done
    assert done.stderr.startswith("note: limits are not applied: ")
    assert "Runtime: embedded\n" in lamina(place, "info", script=NONE).stdout


@pytest.mark.parametrize("runtime", ["runc", "embedded"])
def test_what_is_removed_at_its_end_takes_its_anonymous_volumes_along(place: Place, runtime: str) -> None:
    """And no volume that has a name, nor one that another container borrowed."""
    options = ("--network", "none", "--runtime", runtime)
    place.say("run", "--rm", *options, "-v", "/data", "-v", "named:/named", "base:1", "touch", "/data/x", "/named/x")
    assert place.lines("volume", "ls", "-q") == ["named"]
    assert place.run("run", "--rm", *options, "-v", "/data", "base:1", "nosuch").returncode == 127
    assert place.lines("volume", "ls", "-q") == ["named"]
    place.say("create", "--rm", *options, "--name", "lender", "-v", "/data", "base:1", "true")
    place.say("create", "--name", "borrower", *options, "--volumes-from", "lender", "base:1", "true")
    place.say("start", "-a", "lender")
    assert len(place.lines("volume", "ls", "-q")) == 2
    place.say("rm", "borrower")
