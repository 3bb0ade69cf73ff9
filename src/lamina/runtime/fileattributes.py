"""Keeping a container from moving its files out of the project that bounds their size.

Whoever owns a file may give it another project, or take it from a directory (FS_IOC_FSSETXATTR and
FS_IOC_SETFLAGS): overlayfs passes both on, and outside of user namespaces the kernel asks for no capability.
So a container that a project quota bounds gets a filter that refuses these two, and file_setattr(2) (Linux
6.17), which no profile of ours allows.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lamina.snapshot.projectquota import is_bounded

_ALLOW = "SCMP_ACT_ALLOW"
# Direction, type and number of an ioctl's request. The size differs between 32-bit programs and others, and
# what is above 32 bits the kernel does not look at.
_MASK = 0xC000FFFF
_SET_FLAGS, _SET_ATTRIBUTES = 0x40006602, 0x40005820
_REQUEST = 1


def guarded(profile: Mapping[str, Any] | None, root: int) -> Mapping[str, Any] | None:
    """The profile of a container whose root directory is open; without one it is as it was asked for."""
    if profile is None or not is_bounded(root):
        return profile
    return without_attributes(profile)


def without_attributes(profile: Mapping[str, Any]) -> dict[str, Any]:
    rules = [rest for rule in profile.get("syscalls", ()) if (rest := _without(rule))["names"]]
    if profile["defaultAction"] == _ALLOW:
        rules += [
            {**_rule(_MASK, request), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
            for request in (_SET_FLAGS, _SET_ATTRIBUTES)
        ]
        rules.append({"names": ["file_setattr"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM})
    elif any(map(_is_general, profile.get("syscalls", ()))):
        others = others_than((_SET_FLAGS, _SET_ATTRIBUTES), _MASK)
        rules += [_rule(mask, value) for mask, value in others]
    return {**profile, "syscalls": rules}


def others_than(values: Sequence[int], mask: int) -> Iterator[tuple[int, int]]:
    """All numbers but ``values``, each by one mask and what it leaves: a filter has no "neither of these".

    Bit by bit from the top: what leaves the common way at a bit, is allowed there.
    """
    waiting = [(list(values), mask, 0)]
    while waiting:
        left, rest, known = waiting.pop()
        if not rest:
            continue
        bit = 1 << rest.bit_length() - 1
        for side in (0, bit):
            found = [value for value in left if value & bit == side]
            if found:
                waiting.append((found, rest & ~bit, known | bit))
            else:
                yield known | bit, left[0] & known | side


def _is_general(rule: Mapping[str, Any]) -> bool:
    return rule["action"] == _ALLOW and "ioctl" in rule["names"] and not rule.get("args")


def _without(rule: Mapping[str, Any]) -> dict[str, Any]:
    refused = {"file_setattr"} if rule["action"] == _ALLOW else set()
    if _is_general(rule):
        refused.add("ioctl")
    return {**rule, "names": [name for name in rule["names"] if name not in refused]}


def _rule(mask: int, value: int) -> dict[str, Any]:
    argument = {"index": _REQUEST, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"names": ["ioctl"], "action": _ALLOW, "args": [argument]}
