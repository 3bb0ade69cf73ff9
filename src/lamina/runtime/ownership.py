"""Owners for a container that has one id: whoever asks is told the owner that is kept, and a chown keeps it.

The kernel would refuse a chown to an id that the user namespace does not have, and tells the same owner of
every file. A seccomp filter leaves those calls to this supervisor, outside of the container. It answers where
there is something to say, and lets the kernel carry out the rest, errors included, with the caller's rights.
What it does itself it does to files that it found for the caller, from the caller's root, and after it has
made sure that the call still waits. See docs/decisions/083.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from lamina.layer.owners import OWNER_XATTRS, PLAIN, Kept, read_kept
from lamina.runtime.bpf import AUDIT, native
from lamina.runtime.call import AT_FDCWD, AT_SYMLINK_NOFOLLOW, WORD, Act, Answered, Call, Refused, signed
from lamina.runtime.caller import Beyond, Callers
from lamina.runtime.capabilities import mask
from lamina.runtime.creation import CREATION_CALLS, OPENING_CALLS, Creation
from lamina.runtime.credentials import CREDENTIAL_CALLS, CredentialTable
from lamina.runtime.moving import MOVING_CALLS, Moving
from lamina.runtime.notes import Notes
from lamina.runtime.notify import Listener, Notification
from lamina.runtime.rawcall import AT_EMPTY_PATH, NUMBERS, effective_capabilities
from lamina.runtime.statbuffer import stat_buffer, statx_buffer

_AT_NO_AUTOMOUNT = 0x800
_AT_STATX_SYNC_TYPE = 0x6000
_HOW_FRESH = _AT_NO_AUTOMOUNT | _AT_STATX_SYNC_TYPE
_CAP_CHOWN = mask(("CAP_CHOWN",))
_NOTIFY = "SCMP_ACT_NOTIFY"

_FILE_CALLS = (
    "chown", "fchown", "lchown", "fchownat", "stat", "lstat", "fstat", "newfstatat", "statx",
    "listxattr", "llistxattr", "flistxattr",
)


def filter_rules() -> list[dict[str, Any]]:
    """Rules of ``linux.seccomp`` that leave calls to the supervisor."""
    always = (*_FILE_CALLS, *CREATION_CALLS, *MOVING_CALLS, *CREDENTIAL_CALLS)
    return [
        {"names": [name for name in always if name in NUMBERS], "action": _NOTIFY},
        *(_opening(name, _NOTIFY, os.O_CREAT) for name in OPENING_CALLS if name in NUMBERS),
    ]


def with_notifications(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A ``linux.seccomp`` object that leaves those calls to the supervisor, and is otherwise the same.

    What it refuses it goes on refusing: only calls that it allows are left to anybody.
    """
    mine = {name for rule in filter_rules() for name in rule["names"]}
    is_open = profile["defaultAction"] == "SCMP_ACT_ALLOW"
    allowed = set(mine) if is_open else set()
    rules = []
    for rule in profile.get("syscalls") or ():
        names = list(rule["names"])
        if rule["action"] == "SCMP_ACT_ALLOW":
            allowed |= mine.intersection(names)
            names = [name for name in names if name not in mine]
        elif not rule.get("args"):
            allowed.difference_update(names)
            mine.difference_update(names)
        if names:
            rules.append({**rule, "names": names})
    for rule in filter_rules():
        names = [name for name in rule["names"] if name in allowed]
        if names:
            rules.append({**rule, "names": names})
    if not is_open:
        # A rule without arguments would beat those for O_CREAT: other ways to open have one with.
        rules += [_opening(name, "SCMP_ACT_ALLOW", 0) for name in OPENING_CALLS if name in allowed]
    return {**profile, "syscalls": rules}


def _opening(name: str, action: str, wanted: int) -> dict[str, Any]:
    argument = {
        "index": OPENING_CALLS[name], "value": os.O_CREAT, "valueTwo": wanted, "op": "SCMP_CMP_MASKED_EQ",
    }
    return {"names": [name], "action": action, "args": [argument]}


def read_owner(where: int | str) -> tuple[int, int] | None:
    """The owner that is kept of an open file or directory, or of one by its path; ``None`` where none is.

    Of what else there is (symlinks, devices), ``DirectoryRoot.look`` knows, with owners ignored.
    """
    kept = read_kept(where)
    return None if kept is None else (kept.uid, kept.gid)


class OwnershipSupervisor:
    """Answers one listener. Runs in the user namespace of the container, outside of its other namespaces.

    It must see the container's processes in its /proc. Owns ``listener_fd``. Several listeners of one
    container (of an exec, say) share ``credentials`` and ``notes``, and a thread.
    """

    def __init__(
        self, listener_fd: int, *, credentials: CredentialTable | None = None, notes: Notes | None = None
    ) -> None:
        self._listener = Listener(listener_fd)
        self._callers = Callers()
        self._architecture = AUDIT[native()]
        credentials = credentials or CredentialTable()
        notes = notes or Notes()
        parts = (_FileActs(credentials, notes), Creation(credentials, notes), Moving(credentials, notes))
        acts = {name: act for part in (*parts, credentials) for name, act in part.acts().items()}
        self._acts = {NUMBERS[name]: act for name, act in acts.items() if name in NUMBERS}

    def fileno(self) -> int:
        """Readable when there is something to handle; POLLHUP when no process has the filter any more."""
        return self._listener.fileno()

    def handle(self) -> None:
        """Serves one call. To be called when the descriptor is readable; waits for nobody."""
        notification = self._listener.receive()
        if notification is None:
            return
        try:
            answer = self._answer(notification)
        except Refused as error:
            self._listener.answer(notification, error=error.number)
        except (Beyond, OSError):
            self._listener.proceed(notification)
        except Answered:
            return
        else:
            if answer is None:
                self._listener.proceed(notification)
            else:
                self._listener.answer(notification, answer)

    def close(self) -> None:
        """Calls that wait, and all later ones of the same kinds, fail with ENOSYS from now on."""
        self._callers.close()
        self._listener.close()

    def _answer(self, notification: Notification) -> int | None:
        act = self._acts.get(notification.number)
        # A call by another architecture's entry has other numbers: it is told what the kernel says.
        if act is None or not notification.pid or notification.architecture != self._architecture:
            return None
        return act(Call(self._listener, notification, self._callers.get(notification.pid)))


class _FileActs:
    """What the calls about files do. Each finds the file that is meant, and closes it."""

    def __init__(self, credentials: CredentialTable, notes: Notes) -> None:
        self._credentials = credentials
        self._notes = notes
        self._own = (os.geteuid(), os.getegid())

    def acts(self) -> dict[str, Act]:
        tell, tell_at, tell_more = self._tell_from(1), self._tell_from(2), self._tell_more
        return {
            "chown": self._at(_by_path, self._give_from(1)),
            "lchown": self._at(_by_path_itself, self._give_from(1)),
            "fchown": self._at(_by_open_descriptor, self._give_from(1)),
            "fchownat": self._at(_by_flags_in(4), self._give_from(2)),
            "stat": self._at(_by_path, tell),
            "lstat": self._at(_by_path_itself, tell),
            "fstat": self._at(_by_descriptor, tell),
            "newfstatat": self._at(_by_flags_in(3, _HOW_FRESH), tell_at),
            "statx": self._at(_by_flags_in(2, _HOW_FRESH), tell_more),
            "listxattr": self._at(_by_path, _names),
            "llistxattr": self._at(_by_path_itself, _names),
            "flistxattr": self._at(_by_open_descriptor, _names),
        }

    @staticmethod
    def _at(find: Callable[[Call], int], act: Callable[[Call, int], int | None]) -> Act:
        def perform(call: Call) -> int | None:
            descriptor = find(call)
            try:
                return act(call, descriptor)
            finally:
                os.close(descriptor)

        return perform

    # -- being asked

    def _tell_from(self, place: int) -> Callable[[Call, int], int | None]:
        """``place``: which argument the address of the answer is."""
        def tell(call: Call, descriptor: int) -> int | None:
            return self._tell_as(call, descriptor, call.arguments[place], stat_buffer)

        return tell

    def _tell_more(self, call: Call, descriptor: int) -> int | None:
        _directory, _path, flags, wanted, address, _none = call.arguments
        flags, wanted = flags & _AT_STATX_SYNC_TYPE, wanted & WORD
        return self._tell_as(
            call, descriptor, address, lambda found, kept: statx_buffer(found, kept, flags, wanted)
        )

    def _tell_as(
        self, call: Call, descriptor: int, address: int, fill: Callable[[int, Kept], bytes]
    ) -> int | None:
        kept = self._notes.read(call.caller, descriptor)
        if kept is None or not call.caller.shares_ids():
            return None
        call.write((address, fill(descriptor, kept)))
        return 0

    # -- acting

    def _give_from(self, first: int) -> Callable[[Call, int], int | None]:
        """``first``: which argument the new uid is; the gid comes next."""
        def give(call: Call, descriptor: int) -> int | None:
            uid, gid = (argument & WORD for argument in call.arguments[first : first + 2])
            return self._give(call, descriptor, uid, gid)

        return give

    def _give(self, call: Call, descriptor: int, uid: int, gid: int) -> int | None:
        """What owner the file has on disk stays. An id of -1 leaves what is."""
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != self._own or not call.caller.shares_ids():
            return None  # not ours to give, as the kernel will say
        before = self._notes.read(call.caller, descriptor) or PLAIN
        if not self._may_give(call, before, uid, gid):
            raise Refused(errno.EPERM)
        call.insist_waiting()
        own_uid, own_gid = self._own
        after = Kept(
            before.uid if uid == WORD else uid, before.gid if gid == WORD else gid,
            before.device, before.major, before.minor,
        )
        try:
            # To the one id there is: the kernel clears set-uid bits and capabilities, sets the time of
            # change, copies up, and refuses what is read-only or immutable.
            os.chown(
                f"/proc/self/fd/{descriptor}", -1 if uid == WORD else own_uid, -1 if gid == WORD else own_gid
            )
            self._notes.keep(call.caller, descriptor, after)
        except OSError as error:
            raise Refused(error.errno or errno.EPERM) from None
        return 0

    def _may_give(self, call: Call, before: Kept, uid: int, gid: int) -> bool:
        """As setattr_prepare() of linux/fs/attr.c decides."""
        identity = self._credentials.of(call.caller.pid)
        if identity.fsuid == 0 and effective_capabilities(call.caller.pid) & _CAP_CHOWN:
            return True
        if uid == WORD and gid == WORD:
            return True
        return identity.fsuid == before.uid and uid in (WORD, before.uid) and (
            gid in (WORD, before.gid) or identity.is_in(gid)
        )


def _by_path(call: Call) -> int:
    return call.find(AT_FDCWD, call.arguments[0])


def _by_path_itself(call: Call) -> int:
    return call.find(AT_FDCWD, call.arguments[0], follows=False)


def _by_descriptor(call: Call) -> int:
    return call.caller.open_descriptor(signed(call.arguments[0]))


def _by_open_descriptor(call: Call) -> int:
    if call.caller.is_for_finding_only(signed(call.arguments[0])):
        raise Refused(errno.EBADF)
    return _by_descriptor(call)


def _by_flags_in(place: int, more: int = 0) -> Callable[[Call], int]:
    """Of the ...at calls; ``place``: which argument the flags are; ``more``: those that matter little."""
    def find(call: Call) -> int:
        directory, path, flags = call.arguments[0], call.arguments[1], call.arguments[place] & WORD
        if flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | more):
            raise Beyond  # EINVAL
        return call.find(directory, path, flags)

    return find


def _names(call: Call, descriptor: int) -> int | None:
    """listxattr(2) without our own."""
    _what, address, size, *_rest = call.arguments
    names = os.listxattr(f"/proc/self/fd/{descriptor}")
    shown = [os.fsencode(name) + b"\0" for name in names if not name.startswith(OWNER_XATTRS)]
    if len(shown) == len(names):
        return None
    text = b"".join(shown)
    if size and size < len(text):
        raise Refused(errno.ERANGE)
    if size:
        call.write((address, text))
    return len(text)
