"""The driver vfs passes every case, whoever runs this; the others need tests/privileged/test_drivers.py."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from lamina.testing.conformance import CASES

pytestmark = pytest.mark.xdist_group("conformance of vfs")


@cache
def results(directory: str) -> dict[str, str]:
    """All cases in one process, in a namespace of its own where there can be one."""
    done = subprocess.run(
        [sys.executable, "-m", "lamina.testing.conformance", "vfs", "--root", directory, "--json"],
        capture_output=True, text=True, check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return {line["case"]: line["problem"] for line in lines}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("vfs"))


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, directory: str) -> None:
    assert results(directory)[name] == ""


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 45
