"""Who a process of a container with one id believes to be: setuid(2) and its kin, with no kernel behind them.

The kernel refuses ids that the namespace does not have, so the supervisor answers for it and remembers. A
child inherits what its parent is, and nobody is told of a fork: so the number of a process' credentials is
left with the process itself, as its soft limit RLIMIT_RSS. No kernel since 2.4.30 looks at that one
(getrlimit(2)), and fork(2) and execve(2) hand it on. Nothing is protected by these ids: to the kernel all are
the same user, with the same rights.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterable

from lamina.runtime.call import WORD, Act, Call, Refused
from lamina.runtime.caller import Beyond
from lamina.runtime.capabilities import mask
from lamina.runtime.rawcall import effective_capabilities
from lamina.values import dataclass, replace

# Limits in use are far below: these are bytes of memory, 4 EiB.
_FIRST_NUMBER = 1 << 62
_MOST_GROUPS = 65536  # NGROUPS_MAX
# Sets of credentials that differ: a container that makes more than this makes them to fill our memory.
_MOST_KNOWN = 65536
_CAP_SETGID = mask(("CAP_SETGID",))
_CAP_SETUID = mask(("CAP_SETUID",))

CREDENTIAL_CALLS = (
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups",
)


@dataclass(frozen=True, slots=True)
class Ids:
    """credentials(7): real, effective, saved, and that for files."""

    real: int = 0
    effective: int = 0
    saved: int = 0
    files: int = 0

    @classmethod
    def all(cls, number: int) -> Ids:
        return cls(number, number, number, number)

    @property
    def three(self) -> tuple[int, int, int]:
        return self.real, self.effective, self.saved


@dataclass(frozen=True, slots=True)
class Credentials:
    users: Ids = Ids()
    groups: Ids = Ids()
    more_groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, uid: int, gid: int, more_groups: Iterable[int] = ()) -> Credentials:
        return cls(Ids.all(uid), Ids.all(gid), tuple(more_groups))

    @property
    def fsuid(self) -> int:
        return self.users.files

    @property
    def fsgid(self) -> int:
        return self.groups.files

    def is_in(self, gid: int) -> bool:
        return gid == self.groups.files or gid in self.more_groups


_ROOT = Credentials()


class CredentialTable:
    """Credentials by number. One for all processes of a container."""

    def __init__(self) -> None:
        self._known: list[Credentials] = []
        self._numbers: dict[Credentials, int] = {}

    def of(self, pid: int) -> Credentials:
        """Root's, unless the process has become somebody else."""
        return self.find(pid) or _ROOT

    def assume(self, pid: int, credentials: Credentials) -> None:
        """From now on a process is that, and what it starts. OSError where it may not be touched."""
        number = self._numbers.get(credentials)
        if number is None:
            if len(self._known) >= _MOST_KNOWN:
                raise Refused(errno.ENOMEM)
            number = self._numbers[credentials] = len(self._known)
            self._known.append(credentials)
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_RSS)
        resource.prlimit(pid, resource.RLIMIT_RSS, (_FIRST_NUMBER + number, hard))

    def acts(self) -> dict[str, Act]:
        users, groups = _Side("users", _CAP_SETUID), _Side("groups", _CAP_SETGID)
        acts: dict[str, Act] = {}
        for letter, side in (("u", users), ("g", groups)):
            acts |= {
                f"set{letter}id": self._setting(side, _set_id),
                f"setre{letter}id": self._setting(side, _set_real_effective),
                f"setres{letter}id": self._setting(side, _set_three),
                f"setfs{letter}id": self._setting_files(side),
                f"get{letter}id": self._getting(side, lambda ids: ids.real),
                f"gete{letter}id": self._getting(side, lambda ids: ids.effective),
                f"getres{letter}id": self._getting_three(side),
            }
        return {**acts, "setgroups": self._set_groups, "getgroups": self._get_groups}

    def find(self, pid: int) -> Credentials | None:
        """``None`` for a process that never became anybody: the kernel knows all there is to know."""
        soft, _hard = resource.prlimit(pid, resource.RLIMIT_RSS)
        number = soft - _FIRST_NUMBER
        return self._known[number] if 0 <= number < len(self._known) else None

    # -- the calls

    def _setting(self, side: _Side, change: _Change) -> Act:
        def act(call: Call) -> int | None:
            before = self._before(call)
            wanted = tuple(argument & WORD for argument in call.arguments)
            after = change(side.ids(before), wanted, side.may_anything(call, before))
            self._become(call, side.with_ids(before, after))
            return 0

        return act

    def _setting_files(self, side: _Side) -> Act:
        """These tell the old id, and never fail."""
        def act(call: Call) -> int | None:
            before = self._before(call)
            ids, wanted = side.ids(before), call.arguments[0] & WORD
            is_known = wanted in (*ids.three, ids.files)
            if wanted != WORD and (is_known or side.may_anything(call, before)):
                self._become(call, side.with_ids(before, replace(ids, files=wanted)))
            return ids.files

        return act

    def _getting(self, side: _Side, choose: Callable[[Ids], int]) -> Act:
        def act(call: Call) -> int | None:
            known = self.find(call.caller.pid)
            return None if known is None else choose(side.ids(known))

        return act

    def _getting_three(self, side: _Side) -> Act:
        def act(call: Call) -> int | None:
            known = self.find(call.caller.pid)
            if known is None:
                return None
            three = side.ids(known).three
            call.write(*(
                (address, number.to_bytes(4, "little"))
                for address, number in zip(call.arguments, three, strict=False)
            ))
            return 0

        return act

    def _set_groups(self, call: Call) -> int | None:
        before = self._before(call)
        if not _Side("groups", _CAP_SETGID).may_anything(call, before):
            raise Refused(errno.EPERM)
        count = call.arguments[0] & WORD
        if count > _MOST_GROUPS:
            raise Refused(errno.EINVAL)
        text = call.caller.read(call.arguments[1], 4 * count) if count else b""
        if len(text) < 4 * count:
            raise Refused(errno.EFAULT)
        found = tuple(int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4))
        if WORD in found:
            raise Refused(errno.EINVAL)
        self._become(call, replace(before, more_groups=tuple(sorted(found))))
        return 0

    def _get_groups(self, call: Call) -> int | None:
        known = self.find(call.caller.pid)
        if known is None:
            return None
        size, found = call.arguments[0] & WORD, known.more_groups
        if size and size < len(found):
            raise Refused(errno.EINVAL)
        if size:
            call.write((call.arguments[1], b"".join(number.to_bytes(4, "little") for number in found)))
        return len(found)

    def _before(self, call: Call) -> Credentials:
        if not call.caller.shares_ids():
            raise Beyond
        return self.of(call.caller.pid)

    def _become(self, call: Call, credentials: Credentials) -> None:
        call.insist_waiting()
        try:
            self.assume(call.caller.pid, credentials)
        except (OSError, ValueError):  # a hard limit that is too low
            raise Beyond from None


@dataclass(frozen=True, slots=True)
class _Side:
    """Users, or groups: the rules are the same, and the capability is another."""

    name: str
    capability: int

    def ids(self, credentials: Credentials) -> Ids:
        return credentials.users if self.name == "users" else credentials.groups

    def with_ids(self, credentials: Credentials, ids: Ids) -> Credentials:
        if self.name == "users":
            return replace(credentials, users=ids)
        return replace(credentials, groups=ids)

    def may_anything(self, call: Call, credentials: Credentials) -> bool:
        is_root = credentials.users.effective == 0
        return is_root and bool(effective_capabilities(call.caller.pid) & self.capability)


_Change = Callable[[Ids, tuple[int, ...], bool], Ids]


def _set_id(ids: Ids, wanted: tuple[int, ...], may_anything: bool) -> Ids:
    number = wanted[0]
    if number == WORD:
        raise Refused(errno.EINVAL)
    if may_anything:
        return Ids.all(number)
    if number not in (ids.real, ids.saved):
        raise Refused(errno.EPERM)
    return replace(ids, effective=number, files=number)


def _set_real_effective(ids: Ids, wanted: tuple[int, ...], may_anything: bool) -> Ids:
    real, effective = (old if new == WORD else new for old, new in zip(ids.three, wanted[:2], strict=False))
    if not may_anything and (real not in (ids.real, ids.effective) or effective not in ids.three):
        raise Refused(errno.EPERM)
    is_saved = wanted[0] != WORD or (wanted[1] != WORD and effective != ids.real)
    return Ids(real, effective, effective if is_saved else ids.saved, effective)


def _set_three(ids: Ids, wanted: tuple[int, ...], may_anything: bool) -> Ids:
    real, effective, saved = (
        old if new == WORD else new for old, new in zip(ids.three, wanted, strict=False)
    )
    if not may_anything and not {real, effective, saved} <= set(ids.three):
        raise Refused(errno.EPERM)
    return Ids(real, effective, saved, effective)
