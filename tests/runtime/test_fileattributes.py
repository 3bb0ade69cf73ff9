"""The filter of a container that a project quota bounds: exactly the calls that move files out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lamina.runtime.fileattributes import guarded, others_than, without_attributes
from lamina.runtime.seccomp import default_profile

WORD = 0xC000FFFF
FORBIDDEN = (0x40006602, 0x40005820)
# FS_IOC_SETFLAGS for programs of 64 bits and of 32, and FS_IOC_FSSETXATTR.
REQUESTS = (0x40086602, 0x40046602, 0x401C5820)


def allowed(profile: dict[str, Any], request: int) -> bool:
    """As the kernel decides: the first rule whose arguments all fit."""
    for rule in profile["syscalls"]:
        if "ioctl" in rule["names"] and all(_fits(argument, request) for argument in rule.get("args", ())):
            return bool(rule["action"] == "SCMP_ACT_ALLOW")
    return bool(profile["defaultAction"] == "SCMP_ACT_ALLOW")


def _fits(argument: dict[str, Any], request: int) -> bool:
    assert (argument["index"], argument["op"]) == (1, "SCMP_CMP_MASKED_EQ")
    return bool(request & argument["value"] == argument["valueTwo"])


requests = st.integers(0, 2**64 - 1) | st.builds(
    lambda request, bit: request ^ 1 << bit, st.sampled_from(REQUESTS), st.integers(0, 63)
)


@given(requests)
def test_everything_else_is_allowed(request: int) -> None:
    expected = request & WORD not in FORBIDDEN
    assert allowed(without_attributes(default_profile((), "amd64")), request) is expected
    assert allowed(without_attributes({"defaultAction": "SCMP_ACT_ALLOW"}), request) is expected


def test_the_two_are_not() -> None:
    plain = default_profile((), "amd64")
    for request in REQUESTS:
        assert allowed(plain, request)
        assert not allowed(without_attributes(plain), request)
        assert not allowed(without_attributes(plain), request | 1 << 40)


def test_the_rest_of_a_profile_stays() -> None:
    plain = default_profile((), "amd64")
    found = without_attributes(plain)
    before, after = (
        {name for rule in each["syscalls"] for name in rule["names"]} for each in (plain, found)
    )
    assert before == after
    assert {**found, "syscalls": ()} == {**plain, "syscalls": ()}


def test_a_profile_of_somebody_who_allows_more() -> None:
    everything = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["file_setattr", "ioctl", "read"], "action": "SCMP_ACT_ALLOW"},
    ]}
    rules = without_attributes(everything)["syscalls"]
    assert [(rule["names"], rule["action"]) for rule in rules] == [
        (["read"], "SCMP_ACT_ALLOW"), (["ioctl"], "SCMP_ACT_ERRNO"), (["ioctl"], "SCMP_ACT_ERRNO"),
        (["file_setattr"], "SCMP_ACT_ERRNO"),
    ]
    nothing = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    assert without_attributes(nothing) == nothing


def test_who_is_not_bounded_may_do_as_before(tmp_path: Path) -> None:
    profile = default_profile((), "amd64")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert guarded(profile, root) is profile
        assert guarded(None, root) is None
    finally:
        os.close(root)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=5, unique=True), st.integers(0, 255))
def test_all_numbers_but_some(values: list[int], number: int) -> None:
    fitting = [mask for mask, value in others_than(values, 0xFF) if number & mask == value]
    assert len(fitting) == (number not in values)
