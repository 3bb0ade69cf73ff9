"""Which devices a container may use, as the program that version 2 of control groups asks.

The kernel's Documentation/admin-guide/cgroup-v2, "Device controller". Version 1 has files for it. Without
either, root in a container that may make device nodes (CAP_MKNOD is one of docker's defaults) makes one for
the machine's disk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lamina.runtime.bpf import native
from lamina.runtime.syscallnumbers import numbers
from lamina.values import dataclass

# linux/bpf.h
_PROG_LOAD = 5
_PROG_ATTACH = 8
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2  # a group below may have its own as well: a container in the container
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERYTHING = 7

# Instructions: code, destination, source, offset, constant. w = 32 bits.
_LOAD_WORD = 0x61
_AND_WORD = 0x54
_SHIFT_WORD = 0x74
_COPY_WORD = 0xBC
_SET = 0xB7
_JUMP_DIFFERENT = 0x55
_JUMP_SAME = 0x15
_JUMP_DIFFERENT_REGISTER = 0x5D
_EXIT = 0x95

_Instruction = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Exception:
    """``None`` fits everything."""

    type: int | None
    major: int | None
    minor: int | None
    access: int


def reduced(rules: Iterable[Mapping[str, Any]]) -> tuple[bool, list[_Exception]]:
    """What holds by default, and the exceptions from it: as version 1 takes rules, one by one."""
    allows, exceptions = True, dict[tuple[int | None, int | None, int | None], int]()
    for rule in rules:
        does_allow = bool(rule.get("allow"))
        kind = _TYPES.get(rule.get("type") or "a")
        access = sum(_ACCESS[letter] for letter in set(rule.get("access") or "rwm"))
        if kind is None and access == _EVERYTHING:
            allows, exceptions = does_allow, {}
            continue
        kinds = (kind,) if kind is not None else tuple(_TYPES.values())
        for place in ((item, _number(rule.get("major")), _number(rule.get("minor"))) for item in kinds):
            before = exceptions.get(place, 0)
            exceptions[place] = before & ~access if does_allow == allows else before | access
    return allows, [_Exception(*place, access) for place, access in exceptions.items() if access]


def compile_rules(rules: Sequence[Mapping[str, Any]]) -> bytes:
    """An array of ``struct bpf_insn``; empty when everything is allowed and no program is needed."""
    allows, exceptions = reduced(rules)
    if allows and not exceptions:
        return b""
    # r1 is struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor
    code: list[_Instruction] = [
        (_LOAD_WORD, 2, 1, 0, 0), (_COPY_WORD, 3, 2, 0, 0), (_AND_WORD, 2, 0, 0, 0xFFFF),
        (_SHIFT_WORD, 3, 0, 0, 16), (_LOAD_WORD, 4, 1, 4, 0), (_LOAD_WORD, 5, 1, 8, 0),
    ]
    for exception in exceptions:
        code += _test(exception, allows=allows)
    code += [(_SET, 0, 0, 0, int(allows)), (_EXIT, 0, 0, 0, 0)]
    return b"".join(
        [struct.pack("=BBhi", name, source << 4 | to, offset, k) for name, to, source, offset, k in code]
    )


def attach(directory: str, program: bytes) -> None:
    """To the group of this directory, for as long as it lives. ``OSError`` (EPERM without CAP_BPF)."""
    import ctypes  # noqa: PLC0415 - 8 ms that most commands need not spend

    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    loaded = _bpf(_PROG_LOAD, struct.pack(
        "=IIQQIIQII16sII", _TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code),
        ctypes.addressof(license_text), 0, 0, 0, 0, 0, b"lamina_devices", 0, _ATTACH_CGROUP_DEVICE,
    ))  # fmt: skip
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attributes = struct.pack("=IIII", group, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
            _bpf(_PROG_ATTACH, attributes)
        finally:
            os.close(group)
    finally:
        os.close(loaded)


def _test(exception: _Exception, *, allows: bool) -> list[_Instruction]:
    """Answers the opposite of the default if the exception fits, and goes on behind itself if not."""
    checks = [
        (register, value)
        for register, value in ((2, exception.type), (4, exception.major), (5, exception.minor))
        if value is not None
    ]
    verdict: list[_Instruction] = [(_COPY_WORD, 1, 3, 0, 0), (_AND_WORD, 1, 0, 0, exception.access)]
    # To allow, all of the access must be in it; to deny, any of it.
    verdict.append((_JUMP_SAME, 1, 0, 2, 0) if allows else (_JUMP_DIFFERENT_REGISTER, 1, 3, 2, 0))
    verdict += [(_SET, 0, 0, 0, int(not allows)), (_EXIT, 0, 0, 0, 0)]
    code: list[_Instruction] = []
    for place, (register, value) in enumerate(checks):
        code.append((_JUMP_DIFFERENT, register, 0, len(checks) - 1 - place + len(verdict), value))
    return code + verdict


def _number(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


def _bpf(command: int, attributes: bytes) -> int:
    import ctypes  # noqa: PLC0415 - loaded already

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = libc.syscall(
        ctypes.c_long(numbers(native())["bpf"]), ctypes.c_long(command), buffer,
        ctypes.c_long(len(attributes)),
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "bpf")
    return result
