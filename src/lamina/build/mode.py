"""``--chmod``: a number in octal, or letters as chmod(1) has them where the umask is 022."""

from __future__ import annotations

import re
from collections.abc import Callable

from lamina.build.failure import printable
from lamina.errors import InvalidInput

# From the mode so far, and whether it is a directory's.
Change = Callable[[int, bool], int]

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_SET_IDS = {"u": 0o4000, "g": 0o2000, "o": 0}
_STICKY = 0o1000
_UMASK = 0o022


def parse_mode(text: str) -> Change:
    """Raises ``InvalidInput``."""
    if text and not text.strip("01234567"):
        number = int(text, 8) if len(text) <= 6 else -1
        if 0 <= number <= 0o7777:
            return lambda _mode, _is_directory: number
    clauses = [_CLAUSE.fullmatch(each) for each in text.split(",")]
    if not all(clauses):
        raise InvalidInput(f"--chmod: expected a mode such as 755 or u=rwX,go=rX, got {printable(text)!r}")
    parts = [
        (clause[1], action[1], action[2])
        for clause in clauses if clause for action in _ACTION.finditer(clause[2])
    ]

    def change(mode: int, is_directory: bool) -> int:
        for who, sign, letters in parts:
            mode = _changed(mode, who, sign, letters, is_directory)
        return mode

    return change


def _changed(mode: int, who: str, sign: str, letters: str, is_directory: bool) -> int:
    names = "ugo" if not who or "a" in who else who
    bits = 0
    for name in names:
        bits |= _permissions(mode, letters, is_directory) << _SHIFTS[name]
        bits |= _SET_IDS[name] if "s" in letters else 0
    if "t" in letters and "o" in names:
        bits |= _STICKY
    if not who:
        bits &= ~_UMASK
    if sign == "-":
        return mode & ~bits
    if sign == "=":
        for name in set(names):
            mode &= ~(7 << _SHIFTS[name])
            # A directory keeps these, as GNU chmod has it.
            mode &= ~(0 if is_directory else _SET_IDS[name])
        if "o" in names:
            mode &= ~_STICKY
    return mode | bits


def _permissions(mode: int, letters: str, is_directory: bool) -> int:
    if letters in _SHIFTS:
        return mode >> _SHIFTS[letters] & 7
    found = sum(value for letter, value in (("r", 4), ("w", 2), ("x", 1)) if letter in letters)
    return found | int("X" in letters and (is_directory or bool(mode & 0o111)))
