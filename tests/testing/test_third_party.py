"""The storage driver of the documentation, installed as anybody's package, does all that a driver must do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

from lamina.testing.conformance import CASES

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("third party driver")]
EXAMPLE = REPOSITORY / "docs/examples/storage-driver"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed, in a directory of its own."""
    target, source = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("source") / "driver"
    shutil.copytree(EXAMPLE, source)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--root-user-action", "ignore", "--target", target, source],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture(scope="module")
def problems(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The whole conformance suite, in one process."""
    root = tmp_path_factory.mktemp("conformance")
    done = subprocess.run(
        [sys.executable, "-m", "lamina.testing.conformance", "plain", "--root", root, "--json"],
        capture_output=True, text=True, check=False, env=installed,
    )
    found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == CASES.keys(), done.stderr
    return found


@pytest.mark.parametrize("name", CASES)
def test_case(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""


def lamina(installed: dict[str, str], root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lamina", "--root", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=installed)


def test_it_is_listed_beside_ours_with_what_it_promises(installed: dict[str, str], tmp_path: Path) -> None:
    done = lamina(installed, tmp_path / "root", "storage", "ls", "--format", "{{.Name}} {{.Usable}}: {{.Reason}}")
    assert "plain true: copies files, as an example" in done.stdout.splitlines(), done.stderr


def test_its_options_reach_it_and_are_remembered(installed: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    wanted = ("--storage-driver", "plain", "--storage-opt", f"plain.home={home}")
    done = lamina(installed, tmp_path / "root", *wanted, "storage", "migrate", "--to", "plain")
    assert done.returncode == 1
    assert f"storage driver plain: plain.home={home}: no such directory" in done.stderr
    home.mkdir()
    assert lamina(installed, tmp_path / "root", *wanted, "storage", "migrate", "--to", "plain").returncode == 0
    choice = json.loads((tmp_path / "root/snapshots/driver.json").read_text())
    assert (choice["driver"], choice["options"]) == ("plain", {"plain.home": str(home)})
