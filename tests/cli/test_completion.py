"""Completion: the words that may come next, and the scripts that ask for them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from tests.cli.fakes import Command

from lamina.cli import verbs
from lamina.snapshot.drivers import ORDER


def words(command: Command, *asked: str) -> list[str]:
    result = command("__complete", *asked)
    assert (result.code, result.err) == (0, "")
    return [line.partition("\t")[0] for line in result.lines]


@pytest.fixture
def with_names(command: Command) -> Command:
    root = command.home / "root"
    root.mkdir()
    connection = sqlite3.connect(root / "state.sqlite")
    connection.execute("CREATE TABLE names (name TEXT, image TEXT)")
    connection.executemany("INSERT INTO names VALUES (?, '')", [
        ("docker.io/library/redis:7",), ("docker.io/library/redis:latest",), ("registry.test:5000/app:1",),
    ])
    connection.commit()
    connection.close()
    return command


def test_verbs(command: Command) -> None:
    assert words(command, "") == [*dict.fromkeys(name.split()[0] for name in verbs.names())]
    assert words(command, "im") == ["import", "images", "image"]
    assert words(command, "zz") == []
    assert words(command, "--debug", "la") == ["layers"]


def test_groups(command: Command) -> None:
    assert words(command, "system", "") == ["df", "prune", "info"]
    assert words(command, "image", "l") == ["load", "ls", "list"]
    assert words(command, "manifest", "i") == ["inspect"]


def test_options(command: Command) -> None:
    assert "--platform" in words(command, "pull", "--")
    assert "--root" in words(command, "pull", "--")
    assert words(command, "images", "--no") == ["--no-trunc"]
    assert "--config-file" in words(command, "--")


def test_values(command: Command) -> None:
    assert words(command, "pull", "--platform", "linux/arm") == ["linux/arm64", "linux/arm/v7"]
    assert words(command, "save", "--format", "") == ["docker-archive", "oci-archive"]
    assert words(command, "--storage-driver", "o") == ["overlay2"]
    assert words(command, "--storage-driver", "")[: len(ORDER)] == list(ORDER)
    assert words(command, "rm", "--storage-driver", "z") == ["zfs"]
    assert words(command, "storage", "migrate", "--to", "b") == ["btrfs"]
    assert words(command, "squash", "--to", "b") == []
    assert words(command, "storage", "bench", "--drivers", "overlay2,vfs,") == [
        f"overlay2,vfs,{name}" for name in ORDER if name not in ("overlay2", "vfs")]
    assert words(command, "run", "--storage-opt", "") == ["size="]
    assert words(command, "create", "--storage-opt", "s") == ["size="]
    assert words(command, "save", "-o", "") == [":files"]
    assert words(command, "waste", "--kind", "m") == ["metadata", "moved", "marker"]
    assert words(command, "load", "-i", "x") == [":files"]
    assert words(command, "import", "") == [":files"]
    assert words(command, "waste", "./a") == [":files"]
    assert words(command, "--root", "") == [":files"]
    assert words(command, "completion", "") == ["bash", "zsh", "fish"]
    assert words(command, "help", "sys") == ["system df"]
    assert words(command, "help", "storage", "") == ["ls", "migrate", "bench"]
    assert words(command, "help", "pull", "") == []


def test_options_of_drivers_before_and_after_the_verb(command: Command) -> None:
    found = words(command, "--storage-opt", "")
    assert {"overlay2.size=", "btrfs.min_space=", "zfs.fsname=", "dm.basesize="} <= set(found)
    assert len(found) == len(set(found))
    assert words(command, "--storage-opt", "zfs.") == ["zfs.fsname="]
    assert words(command, "storage", "migrate", "--storage-opt", "b") == ["btrfs.min_space="]
    assert words(command, "--storage-opt", "zfs.fsname=t") == []


def test_values_behind_an_equals_sign(command: Command) -> None:
    assert words(command, "storage", "migrate", "--to=b") == ["--to=btrfs"]
    assert words(command, "storage", "migrate", "--to=") == [f"--to={name}" for name in ORDER]
    assert words(command, "--storage-driver=z") == ["--storage-driver=zfs"]
    assert words(command, "rm", "--storage-driver=z") == ["--storage-driver=zfs"]
    assert words(command, "--storage-opt=zfs.") == ["--storage-opt=zfs.fsname="]
    assert words(command, "run", "--storage-opt=") == ["--storage-opt=size="]
    assert words(command, "storage", "bench", "--drivers=zfs,v") == ["--drivers=zfs,vfs"]
    assert words(command, "pull", "--platform=linux/arm") == ["--platform=linux/arm64", "--platform=linux/arm/v7"]
    assert words(command, "--root=/t") == [":files"]
    assert words(command, "save", "--output=x") == [":files"]


@pytest.mark.parametrize("line", [
    ("--quiet=",), ("--nonsense=",), ("zz", "--to="), ("storage", "--to="), ("storage", "migrate", "--dry-run="),
    ("rm", "--nonsense="), ("squash", "--to=b"),
])
def test_nothing_behind_the_equals_sign_of_what_takes_no_value(command: Command, line: tuple[str, ...]) -> None:
    assert words(command, *line) == []


def test_images(with_names: Command) -> None:
    assert words(with_names, "inspect", "") == ["redis:7", "redis:latest", "registry.test:5000/app:1"]
    assert words(with_names, "image", "rm", "redis:") == ["redis:7", "redis:latest"]
    assert words(with_names, "layers", "reg") == ["registry.test:5000/app:1"]
    for verb in ("drop", "fetch"):
        assert words(with_names, "blobs", verb, "redis:7", "redis:") == ["redis:7", "redis:latest"]


def test_images_as_values_of_options(with_names: Command) -> None:
    assert words(with_names, "squash", "--base", "redis:") == ["redis:7", "redis:latest"]
    assert words(with_names, "squash", "-t", "reg") == ["registry.test:5000/app:1"]


@pytest.fixture
def with_containers(with_names: Command) -> Command:
    root = with_names.home / "root"
    connection = sqlite3.connect(root / "state.sqlite")
    connection.execute("CREATE TABLE containers (name TEXT, created REAL)")
    connection.executemany("INSERT INTO containers VALUES (?, ?)", [("web", 1.0), ("cache", 2.0)])
    connection.commit()
    connection.close()
    for name in ("data", "a" * 64, ".removing-1"):
        (root / "volumes" / name).mkdir(parents=True)
    (root / "networks").mkdir()
    for name in ("bridge.json", "back.json", "lock"):
        (root / "networks" / name).touch()
    return with_names


@pytest.mark.parametrize("verb", ["start", "stop", "rm", "kill", "wait", "restart", "pause", "unpause", "update",
                                  "stats"])
def test_containers_newest_first(with_containers: Command, verb: str) -> None:
    assert words(with_containers, verb, "") == ["cache", "web"]
    assert words(with_containers, "container", verb, "cache", "w") == ["web"]


@pytest.mark.parametrize("verb", ["exec", "logs", "attach", "top", "port", "commit", "rename"])
def test_one_container_and_then_something_else(with_containers: Command, verb: str) -> None:
    assert words(with_containers, verb, "c") == ["cache"]
    assert words(with_containers, verb, "cache", "") == []


def test_options_with_values_come_before_the_container(with_containers: Command) -> None:
    assert words(with_containers, "exec", "-it", "-u", "app", "w") == ["web"]
    assert words(with_containers, "exec", "-u", "app", "web", "w") == []


def test_images_to_run_and_nothing_for_the_command(with_containers: Command) -> None:
    assert words(with_containers, "run", "--rm", "--name", "x", "redis:") == ["redis:7", "redis:latest"]
    assert words(with_containers, "run", "redis:7", "redis:") == []


def test_what_containers_and_images_have_in_common(with_containers: Command) -> None:
    assert words(with_containers, "inspect", "") == ["cache", "web", "redis:7", "redis:latest",
                                                     "registry.test:5000/app:1"]
    assert words(with_containers, "diff", "w") == ["web"]


def test_paths_in_containers(with_containers: Command) -> None:
    assert words(with_containers, "cp", "w") == ["web:", ":files"]


def test_volumes_and_networks(with_containers: Command) -> None:
    assert words(with_containers, "volume", "rm", "") == ["data"]
    assert words(with_containers, "network", "inspect", "") == ["back", "bridge", "host", "none"]
    assert words(with_containers, "run", "--network", "b") == ["back", "bridge"]
    assert words(with_containers, "run", "-v", "d") == ["data:", ":files"]
    assert words(with_containers, "run", "--volumes-from", "") == ["cache", "web"]
    assert words(with_containers, "run", "--runtime", "e") == ["embedded"]


def test_images_of_a_chosen_state_directory(with_names: Command, tmp_path: Path) -> None:
    with_names.environ = {"LAMINA_ROOT": str(tmp_path / "other")}
    root = str(with_names.home / "root")
    for chosen in (("--root", root), (f"--root={root}",)):
        assert words(with_names, *chosen, "inspect", "redis:7") == ["redis:7"]
    assert words(with_names, "inspect", "") == []


def test_without_a_store_there_is_nothing_to_complete(command: Command) -> None:
    assert words(command, "inspect", "") == []
    assert words(command, "volume", "rm", "") == []
    assert words(command, "network", "rm", "") == ["bridge", "host", "none"]
    (command.home / "root").mkdir()
    (command.home / "root" / "state.sqlite").write_bytes(b"not a database")
    assert words(command, "inspect", "") == []


def test_descriptions_follow_a_tab(command: Command) -> None:
    assert command("__complete", "demo").lines == [f"demo\t{verbs.entry('demo')[2]}"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_ask_the_hidden_verb(command: Command, shell: str) -> None:
    assert "lamina __complete" in command("completion", shell).out


def test_an_unknown_shell(command: Command) -> None:
    assert command("completion", "tcsh").code == 125


@pytest.mark.parametrize(("line", "replies"), [
    ("lamina inspect comp", ["got:inspect comp:", "redis:7", "completion"]),
    ("lamina inspect ", ["got:inspect :", "redis:7", "completion", "lamina"]),
    ("lamina diff a:1 redis:", ["got:diff a:1 redis::", "7"]),
    ("lamina --root=comp", ["got:--root=comp:", "completion", "redis:7"]),
])
def test_bash_completes(command: Command, tmp_path: Path, line: str, replies: list[str]) -> None:
    """The real script in a real bash, with a stand-in for the command."""
    says = 'shift\nprintf "%s\\tabout it\\n" "got:$*:" redis:7\necho :files'
    assert sorted(completed(command, tmp_path, line, says)) == sorted(replies)


@pytest.mark.parametrize("line", ["lamina storage migrate --to=", "lamina storage migrate --to=b"])
def test_bash_keeps_what_stands_before_an_equals_sign(command: Command, tmp_path: Path, line: str) -> None:
    assert completed(command, tmp_path, line, 'printf "%s\\n" --to=btrfs --to=b:2') == ["btrfs", "b:2"]


def completed(command: Command, tmp_path: Path, line: str, says: str) -> list[str]:
    """Bash's replies, with a stand-in for the command that is a script."""
    script = tmp_path / "completion"
    script.write_text(command("completion", "bash").out)
    stand_in = tmp_path / "lamina"
    stand_in.write_text(f"#!/bin/sh\n{says}\n")
    stand_in.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    asked = (
        f"cd {tmp_path}; PATH={tmp_path}:$PATH; . {script}; COMP_LINE='{line}'; COMP_POINT={len(line)}; "
        '_lamina; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "--norc", "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
