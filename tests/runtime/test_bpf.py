"""Filter programs: run on a small machine in here, and compared with the rules read directly."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.runtime.bpf import ACTIONS, AUDIT, COMPARISONS, compile_filter
from lamina.runtime.capabilities import ALL, DEFAULT
from lamina.runtime.seccomp import default_profile
from lamina.runtime.syscallnumbers import numbers

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x50000
EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
X86_64, I386, AARCH64, ARM = (AUDIT[f"SCMP_ARCH_{name}"] for name in ("X86_64", "X86", "AARCH64", "ARM"))
HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")


def run(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the kernel would answer. Every jump must land inside, and forward, as its verifier demands."""
    data = struct.pack("<iIQ6Q", number - (1 << 32 if number >= 1 << 31 else 0), arch, 0xDEAD_0000_BEEF,
                       *arguments, *[0] * (6 - len(arguments)))  # fmt: skip
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    for _ in range(len(code)):
        operation, jump_true, jump_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, k)[0]
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += jump_true if accumulator == k else jump_false
            case 0x25:
                at += jump_true if accumulator > k else jump_false
            case 0x35:
                at += jump_true if accumulator >= k else jump_false
            case 0x06:
                return int(k)
            case other:
                raise AssertionError(f"instruction {other:#x}")
    raise AssertionError("it does not end")


def fits(condition: Mapping[str, Any], arguments: Sequence[int]) -> bool:
    value, other = arguments[condition["index"]], condition["value"]
    return {
        "SCMP_CMP_EQ": value == other, "SCMP_CMP_NE": value != other, "SCMP_CMP_LT": value < other,
        "SCMP_CMP_LE": value <= other, "SCMP_CMP_GT": value > other, "SCMP_CMP_GE": value >= other,
        "SCMP_CMP_MASKED_EQ": value & other == condition.get("valueTwo", 0),
    }[condition["op"]]  # fmt: skip


def answer(action: str, number: int | None) -> int:
    with_number = action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
    return ACTIONS[action] | ((1 if number is None else number) if with_number else 0)


def interpret(
    profile: Mapping[str, Any], own: str, foreign: str, arch: int, number: int, arguments: Sequence[int]
) -> int:
    """The rules as the specification's text has them, one after the other."""
    if arch == AUDIT[own]:
        table = numbers(own)
    elif arch == AUDIT[foreign] and foreign in profile.get("architectures", ()):
        table = numbers(foreign)
    else:
        return KILL_PROCESS
    if arch == X86_64 and number >= 0x40000000:
        return ENOSYS
    mine = [rule for rule in profile["syscalls"] if number in [table.get(name) for name in rule["names"]]]
    for rule in mine:
        if not rule.get("args"):
            return answer(rule["action"], rule.get("errnoRet"))
    for rule in mine:
        results = [fits(condition, arguments) for condition in rule["args"]]
        indexes = [condition["index"] for condition in rule["args"]]
        if any(results) if len(set(indexes)) < len(indexes) else all(results):
            return answer(rule["action"], rule.get("errnoRet"))
    known = [table[name] for rule in profile["syscalls"] for name in rule["names"] if name in table]
    refuses = profile["defaultAction"] in (
        "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP",
    )
    public = [item for item in known if item < 0xF0000]
    if public and refuses and number not in known and number > max(public):
        return ENOSYS
    return answer(profile["defaultAction"], profile.get("defaultErrnoRet"))


# Few different values, so that comparisons meet their equals, in both halves.
WORDS = st.sampled_from([0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
VALUES = st.builds(lambda high, low: high << 32 | low, WORDS, WORDS)
NAMES = st.sampled_from(["read", "write", "clone", "socket", "statx", "time", "set_tls", "mseal", "no_such_call", "ioctl"])
CONDITIONS = st.builds(
    lambda index, op, value, second: {"index": index, "op": op, "value": value, "valueTwo": second},
    st.integers(0, 5), st.sampled_from(COMPARISONS), VALUES, VALUES,
)
RULES = st.builds(
    lambda names, action, number, args: {"names": names, "action": action, "errnoRet": number, "args": args},
    st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(sorted(ACTIONS)), st.integers(0, 4095) | st.none(),
    st.lists(CONDITIONS, max_size=7) | st.just([]),
)
PROFILES = st.builds(
    lambda action, number, architectures, rules: {
        "defaultAction": action, "defaultErrnoRet": number, "architectures": architectures, "syscalls": rules,
    },
    st.sampled_from(sorted(ACTIONS)), st.integers(0, 4095) | st.none(),
    st.lists(st.sampled_from(["SCMP_ARCH_X86", "SCMP_ARCH_ARM", "SCMP_ARCH_X32"])),
    st.lists(RULES, min_size=1, max_size=12),
)
MACHINES = st.sampled_from([("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"), ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")])


@settings(max_examples=100, deadline=None)
@given(PROFILES, MACHINES, st.data())
def test_programs_answer_what_the_rules_say(profile: dict[str, Any], machine: tuple[str, str], data: Any) -> None:
    program = compile_filter(profile, machine[0])
    named = [numbers(item)[name] for item in machine for rule in profile["syscalls"] for name in rule["names"]
             if name in numbers(item)]  # fmt: skip
    near = [number + step for number in named for step in (-1, 0, 0, 0, 1) if number + step >= 0]
    for _ in range(8):
        arch = data.draw(st.sampled_from([AUDIT[machine[0]], AUDIT[machine[0]], AUDIT[machine[1]], 0x1234]))
        number = data.draw(st.sampled_from([*near, 0x40000000, 0x40000001, 0xFFFFFFFF, 1000]))
        arguments = data.draw(st.lists(VALUES, min_size=6, max_size=6))
        assert run(program, arch, number, arguments) == interpret(profile, *machine, arch, number, arguments)


@pytest.mark.parametrize("machine", [("x86_64", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
                                     ("aarch64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")])  # fmt: skip
@pytest.mark.parametrize("capabilities", [DEFAULT, ALL, ()])
def test_default_profile_answers_for_every_number(machine: tuple[str, str, str], capabilities: tuple[str, ...]) -> None:
    profile = default_profile(capabilities, machine[0])
    program = compile_filter(profile, machine[1])
    for arch, name in ((AUDIT[item], item) for item in machine[1:]):
        looked_at = [numbers(name)[call] for call in ("clone", "socket", "personality")]
        for number in (*range(500), 983041, 983045, 0x40000000, 0xFFFFFFFF):
            for first in (0, 0x20000, 0x10000000, 38, 39, 40, 38 + 2**32) if number in looked_at else (1,):
                arguments = [first, 0, 0, 0, 0, 0]
                expected = interpret(profile, machine[1], machine[2], arch, number, arguments)
                assert run(program, arch, number, arguments) == expected


def test_default_profile_in_examples() -> None:
    program = compile_filter(default_profile(DEFAULT, "x86_64"), "SCMP_ARCH_X86_64")

    def told(name: str, *arguments: int, arch: str = "SCMP_ARCH_X86_64") -> int:
        return run(program, AUDIT[arch], numbers(arch)[name], arguments)

    assert told("read") == ALLOW
    assert told("mount") == EPERM
    assert told("clone3") == ENOSYS
    assert told("clone", 0x10000000 | 17) == EPERM
    assert told("clone", 0x3D0F00) == ALLOW
    assert told("open_tree_attr") == ENOSYS  # newer than the profile
    assert [told("socket", family) for family in (1, 2, 10, 16, 38, 40, 2**32 + 38)] == [ALLOW] * 4 + [EPERM] * 3
    assert told("personality", 0xFFFFFFFF) == ALLOW
    assert told("personality", 0x400000) == EPERM
    assert told("waitpid", arch="SCMP_ARCH_X86") == ALLOW
    assert told("mount", arch="SCMP_ARCH_X86") == EPERM
    assert run(program, X86_64, 0x40000000) == ENOSYS
    assert run(program, AARCH64, 0) == KILL_PROCESS


def test_another_architecture_needs_to_be_listed() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_LOG"}]}
    assert run(compile_filter(profile, "SCMP_ARCH_X86_64"), I386, 3) == KILL_PROCESS
    program = compile_filter({**profile, "architectures": ["SCMP_ARCH_X86"]}, "SCMP_ARCH_X86_64")
    assert run(program, I386, 21) == 0x7FFC0000
    assert run(program, I386, 165) == ALLOW


def test_no_rules_and_allow_is_no_filter_for_any_architecture() -> None:
    program = compile_filter({"defaultAction": "SCMP_ACT_ALLOW"}, "SCMP_ARCH_X86_64")
    assert len(program) == 8
    assert run(program, 0x1234, 0x40000001) == ALLOW


def test_long_programs_jump_far() -> None:
    """One byte is all that a conditional jump has."""
    rules = [
        {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": value}]}
        for value in range(600)
    ]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
               "syscalls": [*rules, {"names": ["read", "write", "statx"], "action": "SCMP_ACT_LOG"}]}  # fmt: skip
    program = compile_filter({**profile, "architectures": []}, "SCMP_ARCH_X86_64")
    assert run(program, X86_64, 16, [0, 599]) == ALLOW
    assert run(program, X86_64, 16, [0, 600]) == EPERM
    assert run(program, X86_64, 332) == 0x7FFC0000
    with pytest.raises(InvalidInput, match="4096"):
        compile_filter(profile, "SCMP_ARCH_X86_64")


def test_the_same_profile_gives_the_same_bytes() -> None:
    profile = default_profile(DEFAULT, "amd64")
    assert compile_filter(profile, "SCMP_ARCH_X86_64") == compile_filter(profile, "SCMP_ARCH_X86_64")


@pytest.mark.parametrize("broken", [
    {"defaultAction": "SCMP_ACT_BANANA"},
    {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096},
    {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}]}]},
])  # fmt: skip
def test_broken_profiles_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        compile_filter(broken, "SCMP_ARCH_X86_64")


def test_numbers_are_those_of_the_kernel_headers() -> None:
    for name, header in (("SCMP_ARCH_X86_64", "unistd_64.h"), ("SCMP_ARCH_X86", "unistd_32.h")):
        words = [line.split() for line in (HEADERS / header).read_text().splitlines() if "__NR_" in line]
        listed = {word[1].removeprefix("__NR_"): int(word[2]) for word in words if word[0] == "#define"}
        assert len(listed) > 350
        assert listed.items() <= numbers(name).items()
        assert len(set(numbers(name).values())) == len(numbers(name))
    assert {numbers("SCMP_ARCH_AARCH64")[name] for name in ("io_setup", "rseq", "openat2", "mseal")} == {0, 293, 437, 462}
    assert {numbers("SCMP_ARCH_ARM")[name] for name in ("exit", "socket", "set_tls", "mseal")} == {1, 281, 983045, 462}
