"""The filter of a container that a project quota bounds: exactly the calls that move files out of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.runtime import bpf
from lamina.runtime.fileattributes import guarded, others_than, without_attributes
from lamina.runtime.seccomp import default_profile, open_profile, read_profile

WORD = 0xC000FFFF
FORBIDDEN = (0x40006602, 0x40005820)
# FS_IOC_SETFLAGS for programs of 64 bits and of 32, and FS_IOC_FSSETXATTR.
REQUESTS = (0x40086602, 0x40046602, 0x401C5820)
ALLOW, REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def answer(profile: dict[str, Any], arguments: tuple[int, ...]) -> str:
    """As the kernel is told to decide (see ``bpf``)."""
    rules = [rule for rule in profile["syscalls"] if "ioctl" in rule["names"]]
    for rule in rules:
        if not rule.get("args"):
            return str(rule["action"])
    for rule in rules:
        fits = [_fits(each, arguments[each["index"]]) for each in rule["args"]]
        is_split = len({each["index"] for each in rule["args"]}) < len(fits)
        if any(fits) if is_split else all(fits):
            return str(rule["action"])
    return str(profile["defaultAction"])


def _fits(condition: dict[str, Any], number: int) -> bool:
    value, second = condition["value"], condition.get("valueTwo", 0)
    return {
        "SCMP_CMP_EQ": number == value, "SCMP_CMP_NE": number != value, "SCMP_CMP_LT": number < value,
        "SCMP_CMP_LE": number <= value, "SCMP_CMP_GT": number > value, "SCMP_CMP_GE": number >= value,
        "SCMP_CMP_MASKED_EQ": number & value == second,
    }[str(condition["op"])]


def allowed(profile: dict[str, Any], request: int) -> bool:
    return answer(profile, (3, request, 0)) == ALLOW


def is_forbidden(request: int) -> bool:
    return request & WORD in FORBIDDEN


requests = st.integers(0, 2**64 - 1) | st.builds(
    lambda request, bit: request ^ 1 << bit, st.sampled_from(REQUESTS), st.integers(0, 63)
) | st.sampled_from(REQUESTS)
actions = st.sampled_from([ALLOW, "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY", REFUSE, "SCMP_ACT_TRAP"])
exact = st.sampled_from(["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ"])
ordered = st.sampled_from(["SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE"])


def conditions(comparisons: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    masked = st.builds(
        lambda mask, value: {"op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value & mask},
        requests | st.just(WORD) | st.just(0xFF00), requests,
    )
    plain = st.builds(lambda op, value: {"op": op, "value": value}, comparisons, requests)
    return st.builds(lambda index, rest: {"index": index, **rest}, st.sampled_from([0, 1, 1, 2]), plain | masked)


def profiles(comparisons: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    rules = st.builds(
        lambda action, args: {"names": ["read", "ioctl", "file_setattr"], "action": action, "args": args},
        actions, st.lists(conditions(comparisons), max_size=3),
    )
    return st.builds(
        lambda action, found: {"defaultAction": action, "syscalls": found}, actions, st.lists(rules, max_size=4)
    )


@given(profiles(exact | ordered), st.integers(0, 5), requests)
def test_no_profile_lets_them_pass(profile: dict[str, Any], descriptor: int, request: int) -> None:
    if is_forbidden(request):
        assert answer(without_attributes(profile), (descriptor, request, 0)) in bpf.REFUSING
    bare = [rule for rule in without_attributes(profile)["syscalls"] if "file_setattr" in rule["names"]]
    assert all(rule["action"] in bpf.REFUSING for rule in bare)
    assert bare or profile["defaultAction"] in bpf.REFUSING


@given(profiles(exact), st.integers(0, 5), requests)
def test_what_one_rule_lets_pass_it_still_does(profile: dict[str, Any], descriptor: int, request: int) -> None:
    profile = {**profile, "syscalls": profile["syscalls"][:1]}
    if not is_forbidden(request):
        found = answer(profile, (descriptor, request, 0))
        assert answer(without_attributes(profile), (descriptor, request, 0)) == found


@given(profiles(exact), actions, st.integers(0, 4), st.integers(0, 5), requests)
def test_a_rule_without_conditions_beats_the_others_as_before(
    profile: dict[str, Any], action: str, place: int, descriptor: int, request: int
) -> None:
    profile["syscalls"].insert(place, {"names": ["ioctl"], "action": action})
    if not is_forbidden(request):
        found = answer(profile, (descriptor, request, 0))
        assert answer(without_attributes(profile), (descriptor, request, 0)) == found


@given(requests)
def test_everything_else_is_allowed(request: int) -> None:
    expected = not is_forbidden(request)
    assert allowed(without_attributes(default_profile((), "amd64")), request) is expected
    assert allowed(without_attributes(open_profile("amd64") | {"syscalls": []}), request) is expected


def test_the_rest_of_a_profile_stays() -> None:
    plain = default_profile((), "amd64")
    found = without_attributes(plain)
    before, after = (
        {name for rule in each["syscalls"] for name in rule["names"]} for each in (plain, found)
    )
    assert before == after
    assert {**found, "syscalls": ()} == {**plain, "syscalls": ()}


def test_a_profile_of_somebody_who_allows_more() -> None:
    everything = {"defaultAction": ALLOW, "syscalls": [
        {"names": ["file_setattr", "ioctl", "read"], "action": ALLOW},
    ]}
    rules = without_attributes(everything)["syscalls"]
    assert [(rule["names"], rule["action"]) for rule in rules] == [
        (["read"], ALLOW), (["ioctl"], REFUSE), (["ioctl"], REFUSE), (["file_setattr"], REFUSE),
    ]
    nothing = {"defaultAction": REFUSE, "syscalls": [{"names": ["read"], "action": ALLOW}]}
    assert without_attributes(nothing) == nothing


def test_a_profile_that_is_no_filter_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`{}` lists no architectures, and i386 programs ran with it."""
    monkeypatch.setattr("lamina.runtime.fileattributes.is_bounded", lambda _root: True)
    file = tmp_path / "profile"
    file.write_text("{}")
    found = guarded(read_profile(str(file), (), "amd64"), 0)
    assert found == guarded(None, 0)
    assert found is not None
    assert found["architectures"] == open_profile(os.uname().machine)["architectures"]


def test_a_profile_that_becomes_too_long_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.runtime.fileattributes.is_bounded", lambda _root: True)
    rules = [{"names": ["ioctl"], "action": ALLOW, "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": number}]}
             for number in range(40)]
    profile = {"defaultAction": REFUSE, "syscalls": rules}
    bpf.compile_filter(profile)
    with pytest.raises(bpf.ProgramTooLong, match=r"size limit makes the profile \d+ instructions .*, or no size limit$"):
        guarded(profile, 0)
    assert guarded(profile, 0, is_compiled_here=False) == without_attributes(profile)
    with pytest.raises(bpf.ProgramTooLong, match=r"^seccomp: the profile takes"):
        guarded({**profile, "syscalls": rules * 30}, 0)


def test_who_is_not_bounded_may_do_as_before(tmp_path: Path) -> None:
    profile = default_profile((), "amd64")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert guarded(profile, root) is profile
        assert guarded(None, root) is None
    finally:
        os.close(root)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 255))
def test_all_numbers_but_some(pairs: list[tuple[int, int]], number: int) -> None:
    patterns = [(mask, value & mask) for mask, value in pairs]
    fitting = [mask for mask, value in others_than(patterns) if number & mask == value]
    assert len(fitting) == (not any(number & mask == value for mask, value in patterns))


# -- the kernel's own word

# SETXATTR and SETFLAGS by each of its numbers, and a request that terminals know: on a pipe, ENOTTY says that
# the call got through.
_TRIES = """
import fcntl, json, os, sys
from lamina.runtime import bpf
from lamina.snapshot import syscalls
program = bpf.compile_filter(json.loads(sys.argv[1]))
syscalls.load()
syscalls.set_no_new_privileges()
bpf.install(program)
found = []
for request in map(int, sys.argv[2:]):
    try:
        fcntl.ioctl(0, request, bytes(64))
        found.append(0)
    except OSError as error:
        found.append(error.errno)
print(json.dumps(found))
"""
_READ_ATTRIBUTES, _TERMINAL = 0x801C581F, 0x5413


def tried(profile: dict[str, Any]) -> list[int]:
    numbers = [str(number - (1 << 32 if number >> 31 else 0)) for number in (*REQUESTS, _READ_ATTRIBUTES, _TERMINAL)]
    done = subprocess.run(
        [sys.executable, "-c", _TRIES, json.dumps(profile), *numbers], capture_output=True, check=True, text=True,
        input="",
    )
    found: list[int] = json.loads(done.stdout)
    return found


HOSTILE = {
    "equal": [{"op": "SCMP_CMP_EQ", "value": number} for number in REQUESTS],
    "unlike": [{"op": "SCMP_CMP_NE", "value": 0x5412}],
    "masked": [{"op": "SCMP_CMP_MASKED_EQ", "value": 0x40000000, "valueTwo": 0x40000000},
               {"op": "SCMP_CMP_MASKED_EQ", "value": 0x40000000, "valueTwo": 0}],
    "ordered": [{"op": "SCMP_CMP_GT", "value": 0}],
    "of the file": [{"op": "SCMP_CMP_GE", "value": 0, "index": 0}],
    "none": [],
}


@pytest.mark.parametrize("default", [REFUSE, ALLOW, "SCMP_ACT_LOG"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_profile_in_the_kernel(tmp_path: Path, kind: str, default: str) -> None:
    rules = [{"names": ["ioctl", "file_setattr"], "action": ALLOW, "args": [{"index": 1, **condition}]}
             for condition in HOSTILE[kind]] or [{"names": ["ioctl", "file_setattr"], "action": ALLOW}]
    everything = sorted({name for rule in default_profile((), "amd64")["syscalls"] for name in rule["names"]} - {"ioctl"})
    file = tmp_path / "profile"
    file.write_text(json.dumps({"defaultAction": default, "syscalls": [
        {"names": everything, "action": ALLOW}, *rules,
    ]}))
    profile = read_profile(str(file), (), os.uname().machine)
    assert tried(profile)[:3] == [errno.ENOTTY] * 3
    guard = tried(without_attributes(profile))
    assert guard[:3] == [errno.EPERM] * 3
    if kind not in ("equal", "ordered") or default != REFUSE:
        assert guard[3:] == [errno.ENOTTY] * 2
