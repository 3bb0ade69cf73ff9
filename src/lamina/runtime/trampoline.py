"""A program of 200 bytes that becomes another one: the last step of our own runner into a container.

Whoever executes ``/proc/self/exe`` in a container, or names it behind ``#!``, runs what the runner itself
was: the host's interpreter, with a descriptor to write to it soon after (CVE-2019-5736). So the runner
becomes this program first, out of a sealed memory file, and this program becomes the container's. It gets
the file to execute, and then that one's argv; on failure it writes errno, four bytes, to descriptor 3. A
second time, as when the container's command is ``/proc/self/exe``, there is no descriptor 3, and it ends.
"""

from __future__ import annotations

import os
import struct

# as(1)'s output for: if (fcntl(3, F_SETFD, FD_CLOEXEC) < 0) exit_group(127); execve(argv[0], argv + 1, envp);
# write(3, &errno, 4); exit_group(127).
_CODE = {
    "x86_64": (
        62,  # EM_X86_64
        ("b848000000bf03000000be02000000ba010000000f0585c07831488b0c24488b7c2408488d742410488d54cc10b83b0000000f05"
         "f7d8504889e6bf03000000ba04000000b8010000000f05bf7f000000b8e70000000f05"),
    ),
    "aarch64": (
        183,  # EM_AARCH64
        "280380d2600080d2410080d2220080d2010000d4c001f837e90340f9e00740f9e1430091220c098ba81b80d2010000d4e003004be00f1ff8e1030091600080d2820080d2080880d2010000d4e00f80d2c80b80d2010000d4",
    ),
}
_BASE = 0x400000
_HEADERS = 64 + 56
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS = 1033
_ALL_SEALS = 1 | 2 | 4 | 8  # seal, shrink, grow, write


def is_available() -> bool:
    return os.uname().machine in _CODE


def program(machine: str) -> bytes:
    number, text = _CODE[machine]
    return executable(number, bytes.fromhex(text))


def executable(number: int, code: bytes) -> bytes:
    """An ELF file for the machine of that number: header, one loadable segment, code (elf(5))."""
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def open_trampoline() -> int:
    """A descriptor for ``os.execve``; nobody can write to what it names. Raises ``OSError``."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create("lamina", flags | _MFD_EXEC)
    except OSError:  # Linux before 6.3 does not know the flag, and makes all of them executable
        descriptor = os.memfd_create("lamina", flags)
    try:
        os.write(descriptor, program(os.uname().machine))
        os.fchmod(descriptor, 0o555)
        _seal(descriptor)
        # An execve of a file that is open for writing is ETXTBSY: take it anew, for reading alone.
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def _seal(descriptor: int) -> None:
    import fcntl  # noqa: PLC0415 - only where something is run

    fcntl.fcntl(descriptor, _F_ADD_SEALS, _ALL_SEALS)
