"""A seccomp profile as the program that the kernel runs at every system call (seccomp(2)).

The program first asks which architecture's call it is, then finds the call's number by halving a sorted list
of ranges that have one answer, and looks at arguments only where a rule does. The kernel works out by itself
which calls are always allowed, and does not run the program for those (Linux 5.11).

Where the specification is silent, we do as runc with libseccomp, so that a profile means the same everywhere:

- A rule without arguments beats rules with arguments for the same call; else the first that fits decides.
- A rule that looks at one argument twice fits if either comparison does.
- Names that an architecture does not have are skipped.
- If the default is to refuse, a number above all that the profile knows gets ENOSYS: a C library takes that,
  and not EPERM, as "this kernel is older than I am", and uses the older call. A profile that knows no call at
  all says nothing about its age: there the default stands.

A call through another architecture's entry (i386 programs on x86_64) has that architecture's numbers, if the
profile lists it; if it does not, the process is killed. The x32 entry of x86_64 answers ENOSYS, whatever the
profile says: nearly no kernel has it, and its numbers are a way around a filter (seccomp(2), "x32").
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.syscallnumbers import numbers
from lamina.values import dataclass

MAX_ERRNO = 4095
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# SECCOMP_RET_* of linux/seccomp.h
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_TRACE = 0x7FF00000
_ALLOW = 0x7FFF0000
ACTIONS = {
    "SCMP_ACT_ALLOW": _ALLOW,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_TRAP": 0x00030000,
}
_WITH_NUMBER = (_ERRNO, _TRACE)
REFUSING = tuple(f"SCMP_ACT_{name}" for name in ("ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP"))
COMPARISONS = tuple(f"SCMP_CMP_{name}" for name in ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"))
_NO_SUCH_CALL = _ERRNO | errno.ENOSYS

# AUDIT_ARCH_* of linux/audit.h
AUDIT = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
}
# What a kernel for the first runs besides it.
_FOREIGN = {"SCMP_ARCH_X86_64": ("SCMP_ARCH_X86",), "SCMP_ARCH_AARCH64": ("SCMP_ARCH_ARM",)}
_MACHINES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "riscv64": "SCMP_ARCH_RISCV64"}
_X32_BIT = 0x40000000

# linux/bpf_common.h: what the instructions are made of, put together.
_LOAD = 0x20  # A = the 32-bit word of struct seccomp_data at k
_AND = 0x54
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_JUMP_NOT_LESS = 0x35
_RETURN = 0x06

# struct seccomp_data: nr, arch, instruction_pointer, args[6]. The lower half of an argument comes first: all
# the architectures above are little-endian.
_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_ARGUMENTS_AT = 16

# linux/seccomp.h
_SET_MODE_FILTER = 1
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_NEW_LISTENER = 8

_Instruction = tuple[int, int, int, int]


class ProgramTooLong(InvalidInput):
    """``length`` is in instructions."""

    length = 0


@dataclass(frozen=True, slots=True)
class _Rule:
    """What to answer if every condition (argument, comparison, value, second value) is so."""

    answer: int
    conditions: tuple[tuple[int, str, int, int], ...] = ()


# One answer, or rules to try in their order and an answer if none of them fits.
_Decision = int | tuple[tuple[_Rule, ...], int]


def native() -> str:
    """The specification's name of this machine's architecture."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise Unsupported(
            f"seccomp: filters for {machine} cannot be made here (only for {', '.join(_MACHINES)}); "
            "use a runtime with libseccomp such as runc, or --security-opt seccomp=unconfined"
        )
    return _MACHINES[machine]


def compile_filter(profile: Mapping[str, Any], architecture: str | None = None) -> bytes:
    """An array of ``struct sock_filter``, from a ``linux.seccomp`` object of the runtime specification.

    Pure: the same profile gives the same bytes. ``architecture`` is :func:`native` by default.
    """
    own = architecture or native()
    default = _answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
    if default == _ALLOW and not profile.get("syscalls"):
        return _packed([(_RETURN, 0, 0, _ALLOW)])
    rules = [
        (item["names"], rule) for item in profile.get("syscalls") or () for rule in _rules(item)
    ]
    beyond = _NO_SUCH_CALL if profile["defaultAction"] in REFUSING else default
    listed = profile.get("architectures") or ()
    programs = [
        (AUDIT[name], _program(name, rules, default, beyond))
        for name in (own, *(other for other in _FOREIGN.get(own, ()) if other in listed))
    ]
    return _packed(_by_architecture(programs))


def install(
    program: bytes, *, listener: bool = False, flags: Iterable[str] = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)
) -> int:
    """From here on, for this thread and what it starts. EACCES: no_new_privs is not set, and no privilege.

    ``flags`` are the specification's; the default is docker's. With ``listener`` the result is the descriptor
    on which NOTIFY is answered, else 0.
    """
    import ctypes  # noqa: PLC0415 - 8 ms that most commands need not spend

    bits = _NEW_LISTENER if listener else 0
    for flag in flags:
        bits |= FLAGS[flag]
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a length of 16 bits, then a pointer at its own alignment.
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(
        ctypes.c_long(numbers(native())["seccomp"]), ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(bits),
        ctypes.c_char_p(head),
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp")
    return result


def _answer(action: str, number: int | None) -> int:
    if action not in ACTIONS:
        raise InvalidInput(f"seccomp: there is no action {action!r}")
    answer = ACTIONS[action]
    if answer not in _WITH_NUMBER:
        return answer
    value = errno.EPERM if number is None else number
    if not 0 <= value <= (MAX_ERRNO if answer == _ERRNO else 0xFFFF):
        raise InvalidInput(f"seccomp: {action} with {value}: error numbers are 0 to {MAX_ERRNO}")
    return answer | value


def _rules(item: Mapping[str, Any]) -> list[_Rule]:
    answer = _answer(item["action"], item.get("errnoRet"))
    conditions = []
    for given in item.get("args") or ():
        index, comparison = given.get("index", 0), given["op"]
        if comparison not in COMPARISONS or not 0 <= index <= 5:
            raise InvalidInput(f"seccomp: {item['names']}: no comparison {comparison!r} of argument {index}")
        conditions.append((index, comparison, given.get("value", 0), given.get("valueTwo", 0)))
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [_Rule(answer, (condition,)) for condition in conditions]
    return [_Rule(answer, tuple(conditions))]


def _program(
    architecture: str, rules: Sequence[tuple[Sequence[str], _Rule]], default: int, beyond: int
) -> list[_Instruction]:
    """The part for one architecture. It begins by loading the number and always returns."""
    table = numbers(architecture)
    plain: dict[int, int] = {}
    conditional: dict[int, list[_Rule]] = {}
    for names, rule in rules:
        for name in names:
            number = table.get(name)
            if number is None:
                continue
            if rule.conditions:
                conditional.setdefault(number, []).append(rule)
            else:
                plain.setdefault(number, rule.answer)
    decisions: dict[int, _Decision] = {
        number: (tuple(found), default) for number, found in conditional.items()
    }
    decisions |= plain
    return [(_LOAD, 0, 0, _NUMBER_AT), *_search(_ranges(architecture, decisions, default, beyond))]


def _ranges(
    architecture: str, decisions: Mapping[int, _Decision], default: int, beyond: int
) -> list[tuple[int, _Decision]]:
    """Where each stretch of numbers with one decision begins, from 0 on."""
    # ARM's private calls (0xf0000 and up) do not say how new the other calls are that a profile knows.
    highest = max((number for number in decisions if number < 0xF0000), default=1 << 32)
    edges: list[tuple[int, _Decision]] = [(0, default)]
    for number in sorted(decisions):
        edges += [(number, decisions[number]), (number + 1, default if number < highest else beyond)]
    if architecture == "SCMP_ARCH_X86_64":
        edges.append((_X32_BIT, _NO_SUCH_CALL))
    ranges: list[tuple[int, _Decision]] = []
    for start, decision in edges:
        if ranges and ranges[-1][0] == start:
            ranges.pop()
        if not ranges or ranges[-1][1] != decision:
            ranges.append((start, decision))
    return ranges


def _search(ranges: Sequence[tuple[int, _Decision]]) -> list[_Instruction]:
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    left, right = _search(ranges[:middle]), _search(ranges[middle:])
    start = ranges[middle][0]
    if len(left) <= 255:
        return [(_JUMP_NOT_LESS, len(left), 0, start), *left, *right]
    return [(_JUMP_NOT_LESS, 0, 1, start), (_JUMP, 0, 0, len(left)), *left, *right]


def _decide(decision: _Decision) -> list[_Instruction]:
    if isinstance(decision, int):
        return [(_RETURN, 0, 0, decision)]
    rules, otherwise = decision
    code: list[_Instruction] = []
    for rule in rules:
        tests: list[_Instruction] = [(_RETURN, 0, 0, rule.answer)]
        for condition in reversed(rule.conditions):
            tests = [*_compare(condition, len(tests)), *tests]
        code += tests
    return [*code, (_RETURN, 0, 0, otherwise)]


def _compare(condition: tuple[int, str, int, int], rest: int) -> list[_Instruction]:
    """Goes on behind itself if it is so, and ``rest`` instructions further if it is not.

    The machine has words of 32 bits, so the upper halves are compared first.
    """
    index, comparison, value, second = condition
    low = _ARGUMENTS_AT + 8 * index
    high = low + 4
    value_high, value_low = value >> 32, value & 0xFFFFFFFF
    if comparison == "SCMP_CMP_MASKED_EQ":
        return [
            (_LOAD, 0, 0, high), (_AND, 0, 0, value_high), (_JUMP_EQUAL, 0, rest + 3, second >> 32),
            (_LOAD, 0, 0, low), (_AND, 0, 0, value_low), (_JUMP_EQUAL, 0, rest, second & 0xFFFFFFFF),
        ]
    if comparison == "SCMP_CMP_EQ":
        return [
            (_LOAD, 0, 0, high), (_JUMP_EQUAL, 0, rest + 2, value_high),
            (_LOAD, 0, 0, low), (_JUMP_EQUAL, 0, rest, value_low),
        ]
    if comparison == "SCMP_CMP_NE":
        return [
            (_LOAD, 0, 0, high), (_JUMP_EQUAL, 0, 2, value_high),
            (_LOAD, 0, 0, low), (_JUMP_EQUAL, rest, 0, value_low),
        ]
    last = _JUMP_GREATER if comparison in ("SCMP_CMP_GT", "SCMP_CMP_LE") else _JUMP_NOT_LESS
    if comparison in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        return [
            (_LOAD, 0, 0, high), (_JUMP_GREATER, 3, 0, value_high), (_JUMP_EQUAL, 0, rest + 2, value_high),
            (_LOAD, 0, 0, low), (last, 0, rest, value_low),
        ]
    return [
        (_LOAD, 0, 0, high), (_JUMP_GREATER, rest + 3, 0, value_high), (_JUMP_EQUAL, 0, 2, value_high),
        (_LOAD, 0, 0, low), (last, rest, 0, value_low),
    ]


def _by_architecture(programs: Sequence[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    code: list[_Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE_AT)]
    distance = 2 * len(programs) - 1  # from behind the first jump to the first program
    for audit, program in programs:
        code += [(_JUMP_EQUAL, 0, 1, audit), (_JUMP, 0, 0, distance)]
        distance += len(program) - 2
    code.append((_RETURN, 0, 0, _KILL_PROCESS))
    for _, program in programs:
        code += program
    return code


def _packed(code: Sequence[_Instruction]) -> bytes:
    if len(code) > MAX_INSTRUCTIONS:
        error = ProgramTooLong(
            f"seccomp: the profile takes {len(code)} instructions, and the kernel's limit is "
            f"{MAX_INSTRUCTIONS}; use fewer rules that look at arguments"
        )
        error.length = len(code)
        raise error
    return b"".join([struct.pack("=HBBI", *instruction) for instruction in code])
