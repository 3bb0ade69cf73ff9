"""The completion scripts in the shells that they are for, beyond bash: with the real command behind them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.compat]

# What is typed before the tab, and what must stand there afterwards. A blank follows where a word is complete.
CASES = [
    ("lamina storage migrate --to ov", "lamina storage migrate --to overlay2 "),
    ("lamina storage migrate --to=ov", "lamina storage migrate --to=overlay2 "),
    ("lamina --storage-opt btr", "lamina --storage-opt btrfs.min_space="),
    ("lamina run --storage-opt s", "lamina run --storage-opt size="),
    ("lamina load -i archi", "lamina load -i archive.tar "),
    ("lamina load --input=archi", "lamina load --input=archive.tar "),
    ("lamina conta", "lamina container "),
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "archive.tar").touch()
    place = Path(sys.executable).parent
    return {
        "PATH": f"{place}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "LANG": "C.UTF-8",
        "LAMINA_ROOT": str(tmp_path / "root"),
    }


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_fish(environ: dict[str, str], tmp_path: Path, typed: str, expected: str) -> None:
    asked = f"lamina completion fish | source; complete -C '{typed}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", asked], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    word = expected.rstrip().rpartition(" ")[2]
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [word]


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_zsh(environ: dict[str, str], tmp_path: Path, typed: str, expected: str) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], environ)
    try:
        os.write(terminal, b"PS1=; autoload -U compinit; compinit -u; source <(lamina completion zsh); print rea''dy\n")
        read_until(terminal, "ready\r\n")
        os.write(terminal, f"{typed}\t".encode())
        read_until(terminal, expected)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def read_until(terminal: int, text: str) -> None:
    shown = ""
    deadline = time.monotonic() + 30
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{text!r} does not come in {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")
