"""Who a container's process is: ``--user`` looked up in the image's own user database.

The database is an image author's: a symlink to a device, a FIFO, or a gigabyte is normal input
(CVE-2024-9676).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from lamina.errors import InvalidInput, NotFound
from lamina.snapshot import syscalls
from lamina.values import dataclass

# (uid_t)-1 means "leave as it is" to chown(2) and setresuid(2): no id may be it, and none may wrap
# (CVE-2024-40635).
MAX_ID = 2**32 - 2
_MAX_DATABASE = 4 << 20


class UserNotFound(NotFound):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """``groups`` are the supplementary ones. ``home`` is for HOME where the environment has none."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def read_database(root: int, path: str) -> str:
    """A file such as ``etc/passwd`` below the directory ``root``; empty where it is none that can be read."""
    try:
        descriptor = syscalls.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return ""
    with open(descriptor, "rb") as file:
        return file.read(_MAX_DATABASE).decode("utf-8", "surrogateescape")


def insist_databases(root: int) -> None:
    """For a runtime that reads them itself, and would wait at a FIFO for ever. Raises ``InvalidInput``."""
    for path in ("etc/passwd", "etc/group"):
        try:
            place = syscalls.open_in_root(root, path, os.O_PATH)
        except OSError:
            continue
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise InvalidInput(f"/{path}: no regular file; `--runtime embedded` does without it")
        finally:
            os.close(place)


def find_user(text: str, passwd: str, group: str, more_groups: Sequence[str] = ()) -> User:
    """``user``, ``user:group``, names or numbers; empty means root. ``more_groups`` is ``--group-add``.

    Raises :class:`UserNotFound` for a name that the database lacks, ``InvalidInput`` for a number out of
    range.
    """
    user_text, colon, group_text = text.partition(":")
    if not user_text:
        user_text = "0"
    line = _find_line(user_text, passwd, "user")
    uid = _id(line[2]) if line is not None else _number(user_text, "user")
    gid = _id(line[3]) if line is not None else 0
    home = line[5] if line is not None and len(line) > 5 and line[5] else "/"
    groups: list[int] = []
    if colon and group_text:
        gid = _group_id(group_text, group)
    elif line is not None:
        groups = [_id(fields[2]) for fields in _lines(group, 4) if line[0] in fields[3].split(",")]
    groups += [_group_id(each, group) for each in more_groups]
    # The process' own group too: a set-group-ID program must not be able to leave it, for "everybody but
    # this group" is a way to keep people out (CVE-2022-36109).
    return User(uid=uid, gid=gid, groups=tuple(dict.fromkeys((gid, *groups))), home=home)


def _find_line(text: str, passwd: str, what: str) -> list[str] | None:
    """By name first, then by number, as docker looks it up; ``None`` for a number that is in no line."""
    for fields in _lines(passwd, 4):
        if fields[0] == text:
            return fields
    if not _is_number(text):
        raise UserNotFound(f"{text!r}: no such {what} in the image's /etc/passwd; give a number instead")
    number = _number(text, what)
    return next((fields for fields in _lines(passwd, 4) if fields[2] == str(number)), None)


def _group_id(text: str, group: str) -> int:
    for fields in _lines(group, 3):
        if fields[0] == text:
            return _id(fields[2])
    if not _is_number(text):
        raise UserNotFound(f"{text!r}: no such group in the image's /etc/group; give a number instead")
    return _number(text, "group")


def _lines(text: str, count: int) -> Iterator[list[str]]:
    """Well-formed lines of at least ``count`` fields, whose third is an id."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= count and fields[0] and _is_number(fields[2]):
            if count == 4 and len(fields) >= 6 and not _is_number(fields[3]):  # passwd: the group's id
                continue
            yield fields


def _is_number(text: str) -> bool:
    """Other alphabets have digits too, and int() does not read all of them."""
    return text.isascii() and text.isdigit()


def _id(text: str) -> int:
    return _number(text, "id in the image's user database") if _is_number(text) else 0


def _number(text: str, what: str) -> int:
    number = int(text) if len(text) <= 10 else MAX_ID + 1
    if number > MAX_ID:
        raise InvalidInput(f"{what} {text[:20]}: out of range (0 to {MAX_ID})")
    return number
