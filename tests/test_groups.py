"""Tests that share something of the machine say so, and the test runner keeps them on one worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHARING = """
import pytest
pytestmark = pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_it(number, worker_id):
    print("ran on", worker_id)
"""


def test_a_group_runs_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_sharing.py").write_text(SHARING)
    words = ("-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-rP", "--rootdir", str(tmp_path), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
    )
    workers = {line for line in done.stdout.splitlines() if line.startswith("ran on")}
    assert (done.returncode, len(workers)) == (0, 1), done.stdout
