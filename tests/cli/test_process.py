"""The command as a process: what a shell sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lamina

LAMINA = [sys.executable, "-m", "lamina"]


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "LAMINA_ROOT": str(home / "root"), "PATH": os.environ["PATH"], **more}


def run(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAMINA, *words], env=environ(home, **more), capture_output=True, text=True, check=False)


def test_module_and_version(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lamina version {lamina.__version__}\n", "")


def test_exit_codes_and_streams(tmp_path: Path) -> None:
    done = run(tmp_path, "imags")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("lamina: there is no verb 'imags'")
    done = run(tmp_path, "inspect", "nothing:here")
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert done.stderr.startswith("lamina: nothing:here: no such image")


@pytest.mark.parametrize("words", [("help",), ("images",)])
def test_a_reader_that_left(tmp_path: Path, words: tuple[str, ...]) -> None:
    run(tmp_path, "images")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*LAMINA, *words], env=environ(tmp_path), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [("help",), ("images",)])
def test_a_full_output(tmp_path: Path, words: tuple[str, ...]) -> None:
    run(tmp_path, "images")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*LAMINA, *words], env=environ(tmp_path), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"lamina: standard output: no space left on device\n"


@pytest.mark.parametrize("words", [("help",), ("images",), ("images", "--format", "json"), ("inspect", "x:y")])
def test_closed_streams(tmp_path: Path, words: tuple[str, ...]) -> None:
    run(tmp_path, "images")
    line = ["sh", "-c", '"$@" <&- >&-', "sh", *LAMINA, *words]
    done = subprocess.run(line, env=environ(tmp_path), capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == (0 if words[-1] == "json" else 1)
    assert done.stderr.endswith("lamina: standard output: bad file descriptor\n" if words[-1] != "json" else "")
    assert "Traceback" not in done.stderr
    line[2] = '"$@" 2>&-'
    done = subprocess.run(line, env=environ(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == (1 if words[0] == "inspect" else 0)


def test_an_encoding_that_lacks_a_letter(tmp_path: Path) -> None:
    done = run(tmp_path, "tag", "caf\u00e9", "x", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr.startswith("lamina: 'caf\\xe9'")


def test_ctrl_c_is_130_and_one_line(tmp_path: Path) -> None:
    """``load`` waits for its standard input, where nothing comes."""
    process = subprocess.Popen([*LAMINA, "load"], env=environ(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdin is not None
    root = tmp_path / "root" / "oci-layout"
    while not root.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err.decode().strip() == "lamina: interrupted"


@pytest.mark.parametrize("comes", [
    "exec('raise KeyboardInterrupt')",  # as while a dataclass is made: CPython would then end by the signal itself
    "type('Made', (), {'field': Named()})",  # as in __set_name__, which Python 3.11 reports as an error of its own
])
def test_an_interrupt_ends_with_130_wherever_it_comes(tmp_path: Path, comes: str) -> None:
    code = textwrap.dedent(f"""
        import lamina.cli.dispatch as dispatch
        from lamina.cli.main import run
        class Named:
            def __set_name__(self, owner, name):
                raise KeyboardInterrupt
        dispatch._dispatch = lambda *words: {comes}
        run()
    """)
    (tmp_path / "interrupted.py").write_text(code)  # a module, since `python -m` looks at what happened on the way
    done = subprocess.run([sys.executable, "-m", "interrupted", "load"], env=environ(tmp_path), cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "lamina: interrupted"


def test_serve_says_where_and_ends_with_its_signal(tmp_path: Path) -> None:
    import urllib.request

    process = subprocess.Popen([*LAMINA, "serve", "--port", "0"], env=environ(tmp_path), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with urllib.request.urlopen(f"{url}/v2/") as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 0
    assert err.startswith("Serving ")
