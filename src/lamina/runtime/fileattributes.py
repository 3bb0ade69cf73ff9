"""Keeping a container from moving its files out of the project that bounds their size.

Whoever owns a file may give it another project, or take it from a directory (FS_IOC_FSSETXATTR and
FS_IOC_SETFLAGS): overlayfs passes both on, and outside of user namespaces the kernel asks for no capability.
So a container that a project quota bounds gets a filter that refuses these two, and file_setattr(2) (Linux
6.17), whatever a profile of its own says: the calls that a rule lets pass become fewer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lamina.runtime.bpf import MAX_INSTRUCTIONS, REFUSING, ProgramTooLong, compile_filter
from lamina.runtime.seccomp import open_profile
from lamina.snapshot.projectquota import is_bounded

_EQUAL, _MASKED, _OTHER = "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
_REFUSE = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
# Direction, type and number of an ioctl's request. The size differs between 32-bit programs and others, and
# what is above 32 bits the kernel does not look at.
_MASK = 0xC000FFFF
_SET_FLAGS, _SET_ATTRIBUTES = 0x40006602, 0x40005820
_WORD = 2**64 - 1
_REQUEST = 1

# Numbers that have this value under this mask.
_Pattern = tuple[int, int]
_FORBIDDEN: tuple[_Pattern, ...] = ((_MASK, _SET_FLAGS), (_MASK, _SET_ATTRIBUTES))


def guarded(
    profile: Mapping[str, Any] | None, root: int, *, is_privileged: bool = False,
    is_compiled_here: bool = True,
) -> Mapping[str, Any] | None:
    """The profile of a container whose root directory is open.

    One without a profile gets this much of one. Who is privileged could mount the device, too. Where the
    profile ``is_compiled_here``, raises ``ProgramTooLong``.
    """
    if (profile is None and is_privileged) or not is_bounded(root):
        return profile
    if profile is None or _allows_all(profile):
        profile = {**(profile or {}), **open_profile(os.uname().machine)}
    found = without_attributes(profile)
    if is_compiled_here:
        _insist_short(profile, found)
    return found


def _insist_short(profile: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Says that it is our doing, unless the profile is too long as it is."""
    try:
        compile_filter(found)
    except ProgramTooLong as error:
        compile_filter(profile)
        raise ProgramTooLong(
            "seccomp: what keeps files of a container within its size limit makes the profile "
            f"{error.length} instructions long, and the kernel's limit is {MAX_INSTRUCTIONS}; use fewer "
            "rules for ioctl that look at arguments, or no size limit"
        ) from None


def _allows_all(profile: Mapping[str, Any]) -> bool:
    """To programs of any architecture, listed or not; with a rule it would be those that are listed."""
    return profile["defaultAction"] == "SCMP_ACT_ALLOW" and not profile.get("syscalls")


def without_attributes(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Rules that refuse stay as they are, and no other is about these calls any more.

    One for ``ioctl`` that says what the default is would have to be as long, and goes.
    """
    default = profile["defaultAction"]
    rules: list[Mapping[str, Any]] = []
    for rule in _heeded(profile.get("syscalls") or ()):
        rules += [rule] if rule["action"] in REFUSING else _narrowed(rule, default)
    if default not in REFUSING:
        rules += [_about_request(_REFUSE, (), pattern) for pattern in _FORBIDDEN]
        rules.append({"names": ["file_setattr"], **_REFUSE})
    return {**profile, "syscalls": rules}


def _heeded(rules: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Without what a rule for ``ioctl`` that has no conditions beats; it will have some (see ``bpf``)."""
    plain = next((rule for rule in rules if "ioctl" in rule["names"] and not rule.get("args")), None)
    for rule in rules:
        if plain is None or rule is plain or "ioctl" not in rule["names"]:
            yield rule
        elif others := [name for name in rule["names"] if name != "ioctl"]:
            yield {**rule, "names": others}


def _narrowed(rule: Mapping[str, Any], default: str) -> Iterator[dict[str, Any]]:
    others = [name for name in rule["names"] if name not in ("ioctl", "file_setattr")]
    if others:
        yield {**rule, "names": others}
    if "ioctl" in rule["names"] and rule["action"] != default:
        for conditions in _alternatives(rule.get("args") or ()):
            rest = [each for each in conditions if each.get("index", 0) != _REQUEST]
            for pattern in _remaining([each for each in conditions if each.get("index", 0) == _REQUEST]):
                yield _about_request(rule, rest, pattern)


def _alternatives(conditions: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """A rule that looks at one argument twice fits if either comparison does (see ``bpf``)."""
    if len({each.get("index", 0) for each in conditions}) < len(conditions):
        return [[each] for each in conditions]
    return [conditions]


def _remaining(conditions: Sequence[Mapping[str, Any]]) -> Iterator[_Pattern]:
    """The requests that a rule's condition, if it has one, lets pass and that are not forbidden.

    Of an order between numbers none remain: nobody means these, and it would take too many rules.
    """
    if not conditions:
        yield from others_than(_FORBIDDEN)
        return
    (condition,) = conditions
    comparison, value = condition["op"], condition.get("value", 0)
    if comparison == _OTHER:
        yield from others_than([*_FORBIDDEN, (_WORD, value)])
    elif comparison == _EQUAL:
        if all(value & mask != found for mask, found in _FORBIDDEN):
            yield _WORD, value
    elif comparison == _MASKED:
        second = condition.get("valueTwo", 0)
        if second & ~value == 0:  # else nothing fits
            yield from _both((value, second), others_than(_FORBIDDEN))


def _both(one: _Pattern, others: Iterator[_Pattern]) -> Iterator[_Pattern]:
    mask, value = one
    for other_mask, other in others:
        if not (value ^ other) & mask & other_mask:
            yield mask | other_mask, value | other


def others_than(patterns: Sequence[_Pattern]) -> Iterator[_Pattern]:
    """All numbers that fit none of ``patterns``, each by one mask: a filter has no "neither of these".

    Bit by bit, those first that more patterns look at: what leaves the common way at a bit fits none.
    """
    bits = sorted(
        (bit for bit in (1 << place for place in range(64)) if any(mask & bit for mask, _value in patterns)),
        key=lambda bit: (-sum(bool(mask & bit) for mask, _value in patterns), -bit),
    )
    waiting = [(list(patterns), 0, 0, 0)]
    while waiting:
        left, place, known, common = waiting.pop()
        if not left:
            yield known, common
        elif not any(mask & ~known == 0 for mask, _value in left):  # else all that is left fits that one
            bit = bits[place]
            for side in (0, bit):
                fitting = [(mask, value) for mask, value in left if not mask & bit or value & bit == side]
                waiting.append((fitting, place + 1, known | bit, common | side))


def _about_request(
    rule: Mapping[str, Any], conditions: Sequence[Mapping[str, Any]], pattern: _Pattern
) -> dict[str, Any]:
    mask, value = pattern
    argument = {"index": _REQUEST, "value": mask, "valueTwo": value, "op": _MASKED}
    return {**rule, "names": ["ioctl"], "args": [*conditions, argument]}
