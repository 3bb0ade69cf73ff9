"""Flags of instructions, ``--name=value``, and what their values may be."""

from __future__ import annotations

from lamina.errors import InvalidInput, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# What each instruction takes: a text, a truth, or a list that may be given more than once.
_TEXT, _TRUTH, _LIST = "text", "truth", "list"
_COPYING = {"chown": _TEXT, "chmod": _TEXT, "link": _TRUTH, "exclude": _LIST}
KNOWN = {
    "from": {"platform": _TEXT},
    "run": {"mount": _LIST, "network": _TEXT, "security": _TEXT},
    "copy": {**_COPYING, "from": _TEXT, "parents": _TRUTH},
    "add": {**_COPYING, "keep-git-dir": _TRUTH, "checksum": _TEXT, "unpack": _TRUTH},
    "healthcheck": {
        "interval": _TEXT, "timeout": _TEXT, "start-period": _TEXT, "start-interval": _TEXT, "retries": _TEXT,
    },
}
_NANOSECONDS = {
    "ns": 1, "us": 1_000, "\u00b5s": 1_000, "\u03bcs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}
_SHORTEST = 1_000_000  # nanoseconds: what Docker takes for a health check
_LONGEST = 2**63 - 1
_MOST_RETRIES = 2**31 - 1


class BadFlag(InvalidInput):
    """``place`` is the flag's, in the text of its instruction."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


class Flags:
    """The flags of one instruction, each seen as what it is taken for."""

    def __init__(self, keyword: str) -> None:
        self._known = KNOWN.get(keyword.lower(), {})
        self._values: dict[str, list[tuple[str, int]]] = {}
        self._keyword = keyword.upper()

    def add(self, flag: str, place: int) -> None:
        name, equals, value = flag.removeprefix("--").partition("=")
        kind = self._known.get(name)
        if kind is None:
            near = nearest(name, self._known).replace("mean ", "mean --")
            raise BadFlag(f"unknown flag of {self._keyword}: --{name}{near}", place)
        if name in self._values and kind != _LIST:
            raise BadFlag(f"--{name} is given twice", place)
        if kind == _TRUTH:
            value = value.lower() if equals else "true"
            if value not in ("true", "false"):
                raise BadFlag(f"--{name}: expected true or false, got {value!r}", place)
        elif not equals:
            raise BadFlag(f"--{name} needs a value: --{name}=VALUE", place)
        self._values.setdefault(name, []).append((value, place))

    def text(self, name: str) -> str:
        return self._values[name][0][0] if name in self._values else ""

    def placed(self, name: str) -> tuple[tuple[str, int], ...]:
        """All values of a flag that may be given more than once, and their places."""
        return tuple(self._values.get(name, ()))

    def listed(self, name: str) -> tuple[str, ...]:
        return tuple(value for value, _ in self.placed(name))

    def truth(self, name: str) -> bool | None:
        value = self.text(name)
        return value == "true" if value else None

    def is_true(self, name: str) -> bool:
        return self.truth(name) is True

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """The first choice where nothing was said."""
        value = self.text(name) or choices[0]
        if value not in choices:
            shown = " or ".join(choices)
            self._refuse(name, shown, f"{value!r}{nearest(value, choices)}")
        return value

    def duration(self, name: str) -> int:
        """Nanoseconds; 0 where nothing was said."""
        value = self.text(name)
        if not value:
            return 0
        found = duration(value)
        if found is None or 0 < found < _SHORTEST or found > _LONGEST:
            self._refuse(name, "a time such as 1m30s, of 1ms or more", repr(value))
        return found

    def count(self, name: str) -> int:
        value = self.text(name)
        if not value:
            return 0
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= _MOST_RETRIES):
            self._refuse(name, "a number", repr(value))
        return int(value)

    def _refuse(self, name: str, expected: str, got: str) -> NoReturn:
        raise BadFlag(f"--{name}: expected {expected}, got {got}", self._values[name][0][1])


def duration(text: str) -> int | None:
    """Go's spelling, ``1h2m3.5s``, in nanoseconds; None for other texts. No time here is negative."""
    if text == "0":
        return 0
    total, place = 0, 0
    while place < len(text):
        start = place
        while place < len(text) and (text[place] in "0123456789."):
            place += 1
        number, start = text[start:place], place
        while place < len(text) and text[place] not in "0123456789.":
            place += 1
        unit = _NANOSECONDS.get(text[start:place])
        whole, _, fraction = number.partition(".")
        if unit is None or not whole + fraction or "." in fraction or len(number) > 20:
            return None
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
    return total if text else None
