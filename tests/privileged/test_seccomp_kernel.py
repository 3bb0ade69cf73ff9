"""Filters in the kernel: what a process may still do after the default profile is installed."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import pwd
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lamina.runtime import bpf
from lamina.runtime.capabilities import ALL, DEFAULT
from lamina.runtime.seccomp import default_profile
from lamina.runtime.syscallnumbers import numbers

pytestmark = pytest.mark.privileged

PR_SET_NO_NEW_PRIVS = 38
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes) -> str:
    """``ok``, or the name of the error."""
    LIBC.syscall.restype = ctypes.c_long
    converted = [ctypes.c_char_p(item) if isinstance(item, bytes) else ctypes.c_long(item) for item in arguments]
    result = LIBC.syscall(ctypes.c_long(numbers(bpf.native()).get(name, 600)), *converted)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a forked process, or the signal that killed it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException as error:
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return json.loads(told)


def confined(work: Callable[[], Any], *, user: str = "", capabilities: tuple[str, ...] = DEFAULT) -> Any:
    program = bpf.compile_filter(default_profile(capabilities, platform.machine()))

    def child() -> Any:
        if user:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
            assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        bpf.install(program)
        return work()

    return in_child(child)


def forbidden() -> dict[str, str]:
    return {
        "mount": call("mount", b"none", b"/nonexistent", b"tmpfs", 0, 0),
        "unshare": call("unshare", 0x10000000),
        "clone": call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
        "clone3": call("clone3", 0, 0),
        "keyctl": call("keyctl", 0, 0, 0, 0, 0),
        "bpf": call("bpf", 0, 0, 0),
        "userfaultfd": call("userfaultfd", 0),
        "io_uring_setup": call("io_uring_setup", 1, 0),
        "kexec_load": call("kexec_load", 0, 0, 0, 0),
        "AF_ALG": call("socket", 38, 5, 0),
        "AF_ALG in half": call("socket", 38 + (1 << 32), 5, 0),
        "AF_VSOCK": call("socket", 40, 1, 0),
        "personality": call("personality", 0x0400000),
        "newer than the profile": call("no such call"),
    }


@pytest.mark.parametrize("user", ["", "lamina-test", "lamina-nosub"])
def test_default_profile_refuses(user: str) -> None:
    told = confined(forbidden, user=user)
    assert (told.pop("clone3"), told.pop("newer than the profile")) == ("ENOSYS", "ENOSYS")
    assert set(told.values()) == {"EPERM"}, told


def ordinary() -> str:
    with socket.socketpair()[0], socket.socket(socket.AF_INET), socket.socket(socket.AF_INET6):
        pass
    mmap.mmap(-1, 8192).close()
    worker = threading.Thread(target=os.getpid)
    worker.start()
    worker.join()
    child = os.fork()
    if child == 0:
        assert call("ptrace", 0, 0, 0, 0) == "ok"  # PTRACE_TRACEME
        os.execv("/bin/sh", ["sh", "-c", "echo $(echo 42) | grep -q 42"])
    _, status = os.waitpid(child, 0)
    assert os.WIFSTOPPED(status)  # at its execve, being traced
    while os.WIFSTOPPED(status):
        LIBC.ptrace(7, child, 0, 0)  # PTRACE_CONT
        _, status = os.waitpid(child, 0)
    assert status == 0
    assert call("personality", 0xFFFFFFFF) == "ok"
    return call("prctl", 3, 0, 0, 0, 0)


@pytest.mark.parametrize("user", ["", "lamina-test"])
def test_ordinary_work_goes_on(user: str) -> None:
    assert confined(ordinary, user=user) == "ok"


def test_a_capability_opens_its_calls() -> None:
    told = confined(forbidden, capabilities=ALL)
    assert told["mount"] == "ENOENT"
    assert told["clone3"] == "EINVAL"
    assert told["keyctl"] == "EPERM"


def test_programs_started_later_are_confined_too() -> None:
    def work() -> int:
        child = os.fork()
        if child == 0:
            os.execv("/usr/bin/unshare", ["unshare", "--user", "true"])
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_child(lambda: os.waitstatus_to_exitcode(os.system("unshare --user true"))) == 0
    assert confined(work) != 0


def test_without_no_new_privs_an_ordinary_user_is_refused() -> None:
    program = bpf.compile_filter(default_profile(DEFAULT, platform.machine()))

    def work() -> str:
        os.setresuid(65534, 65534, 65534)
        try:
            bpf.install(program)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "installed"

    assert in_child(work) == "EACCES"


@pytest.mark.parametrize(("action", "outcome"), [
    ("SCMP_ACT_ALLOW", "ok"), ("SCMP_ACT_LOG", "ok"), ("SCMP_ACT_ERRNO", "EDOM"), ("SCMP_ACT_TRAP", "SIGSYS"),
    ("SCMP_ACT_KILL_PROCESS", "SIGSYS"), ("SCMP_ACT_KILL_THREAD", "SIGSYS"), ("SCMP_ACT_KILL", "SIGSYS"),
    ("SCMP_ACT_TRACE", "ENOSYS"),  # nobody traces it
    ("SCMP_ACT_NOTIFY", "ENOSYS"),  # nobody listens
])  # fmt: skip
def test_every_action_does_what_it_says(action: str, outcome: str) -> None:
    rule = {"names": ["getpgrp", "getpgid"], "action": action, "errnoRet": errno.EDOM}
    program = bpf.compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})

    def work() -> str:
        bpf.install(program)
        return call("getpgid", 0)

    assert in_child(work) == outcome


def test_programs_may_be_as_long_as_the_kernel_takes_them() -> None:
    def conditions(count: int) -> dict[str, Any]:
        rules = [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": value << 32 | 7}]} for value in range(1, count)
        ]  # fmt: skip
        return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}

    program = bpf.compile_filter(conditions(815))
    assert 4000 < len(program) // 8 <= 4096

    def work() -> list[str]:
        bpf.install(program)
        return [call("ioctl", 0, 814 << 32 | 7, 0), call("getpid")]

    assert in_child(work) == ["EPERM", "ok"]


def test_a_listener_is_told() -> None:
    rule = {"names": ["getpgrp", "getpgid"], "action": "SCMP_ACT_NOTIFY"}
    program = bpf.compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})

    def work() -> bool:
        descriptor = bpf.install(program, listener=True)
        return "seccomp notify" in os.readlink(f"/proc/self/fd/{descriptor}")

    assert in_child(work) is True


@pytest.mark.skipif(platform.machine() != "x86_64", reason="i386 programs run on x86_64")
def test_i386_programs_have_their_own_numbers() -> None:
    """``int 0x80`` enters the kernel as i386 does: 20 is getpid there, 21 mount, 165 getresuid."""
    # mov eax, edi; push rbx; xor ebx, ebx; int 0x80; pop rbx; ret
    code = bytes.fromhex("89f85331dbcd805bc3")

    def work() -> list[int]:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)
        return [enter(20) - os.getpid(), enter(21), enter(310)]

    assert in_child(work)[0] == 0, "this kernel does not run i386 programs"
    assert confined(work) == [0, -errno.EPERM, -errno.EPERM]
