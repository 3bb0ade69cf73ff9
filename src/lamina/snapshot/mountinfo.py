"""What is mounted, as this process's mount namespace sees it (proc_pid_mountinfo(5))."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lamina.values import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLine:
    """``number`` is the kernel's mount id; ``root`` the directory of the filesystem that is mounted."""

    number: int
    device: str
    root: str
    target: str
    type: str
    source: str
    options: tuple[str, ...]

    @property
    def mark(self) -> str:
        """Tells a mount from others: the kernel gives the number of one that is gone to the next.

        Flags such as ``ro`` do not count: a mount that is mounted again with others is still the same.
        """
        layers = [option for option in self.options if "=" in option]
        what = (self.number, self.device, self.root, self.target, self.type, self.source, *layers)
        return hashlib.sha256(repr(what).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def mounts(path: Path = Path("/proc/self/mountinfo")) -> Iterator[MountLine]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(" ")
            rest = fields.index("-", 6)
            yield MountLine(
                number=int(fields[0]),
                device=fields[2],
                root=_unescaped(fields[3]),
                target=_unescaped(fields[4]),
                type=fields[rest + 1],
                source=_unescaped(fields[rest + 2]),
                options=tuple(map(_unescaped, (*fields[5].split(","), *fields[rest + 3].split(",")))),
            )


def mounted_on(target: Path) -> MountLine | None:
    """The topmost mount on exactly this path."""
    wanted = os.path.realpath(target)
    found = None
    for line in mounts():
        if line.target == wanted:
            found = line
    return found


def mounted_with(option: str) -> list[str]:
    """Where something is mounted with an option, such as an overlay with a certain upper directory."""
    return [line.target for line in mounts() if option in line.options]


def line_of(descriptor: int) -> MountLine | None:
    """The mount that an open file was found in; ``None`` where this namespace does not have it."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        number = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    return next((line for line in mounts() if line.number == number), None)


def filesystem_of(directory: Path) -> str:
    """``ext4`` and the like; the empty text where nobody knows."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        line = line_of(descriptor)
    finally:
        os.close(descriptor)
    return "" if line is None else line.type


def _unescaped(text: str) -> str:
    """Space, tab, newline, backslash and, in options, comma are written as octal."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text
