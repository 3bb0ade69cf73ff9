"""The program between our runner and a container's: run for real on this machine."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct

import pytest

from lamina.runtime.trampoline import is_available, open_trampoline, program

F_GET_SEALS = 1034


def run(arguments: list[str], *, environ: dict[str, str] | None = None) -> tuple[int, bytes, bytes]:
    """Exit code, output, and what came through descriptor 3."""
    trampoline = open_trampoline()
    output, out = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(out, 1)
            os.dup2(tell, 9)
            os.dup2(9, 3)
            os.execve(trampoline, arguments, environ or {})
        finally:
            os._exit(99)
    for descriptor in (out, tell, trampoline):
        os.close(descriptor)
    with open(output, "rb") as first, open(told, "rb") as second:
        shown, reported = first.read(), second.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown, reported


def test_this_machine_has_one() -> None:
    assert is_available()


def test_it_becomes_the_program_with_its_arguments_and_environment() -> None:
    shell = shutil.which("sh") or "/bin/sh"
    assert run([shell, "name", "-c", "echo $0 $1 $A", "x", "y"], environ={"A": "b"}) == (0, b"x y b\n", b"")


def test_descriptor_3_ends_with_the_exec() -> None:
    shell = shutil.which("sh") or "/bin/sh"
    code, shown, _ = run([shell, "sh", "-c", "ls -l /proc/self/fd/3 >/dev/null 2>&1 && echo open; exit 7"],
                         environ={"PATH": os.environ["PATH"]})
    assert (code, shown) == (7, b"")


@pytest.mark.parametrize(("path", "number"), [("/nowhere", errno.ENOENT), ("/etc/passwd", errno.EACCES), ("/", errno.EACCES)])
def test_why_it_could_not_is_told(path: str, number: int) -> None:
    code, shown, reported = run([path, "x"])
    assert (code, shown) == (127, b"")
    assert struct.unpack("i", reported) == (number,)


def test_nobody_can_change_it() -> None:
    descriptor = open_trampoline()
    try:
        assert fcntl.fcntl(descriptor, F_GET_SEALS) == 15
        with pytest.raises(OSError):
            os.write(descriptor, b"x")
        with pytest.raises(OSError):
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            os.write(again, b"x")
    finally:
        os.close(descriptor)


def test_no_descriptor_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.close(open_trampoline())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_it_is_an_executable_of_its_machine(machine: str, number: int) -> None:
    content = program(machine)
    assert content[:4] == b"\x7fELF"
    assert struct.unpack_from("<HH", content, 16) == (2, number)
    (entry,) = struct.unpack_from("<Q", content, 24)
    address, _, size, in_memory = struct.unpack_from("<QQQQ", content, 64 + 16)
    assert size == in_memory == len(content) < 512
    assert address < entry < address + size
