"""New files of a container with one id: of whoever its processes believe to be, and devices that are none.

The kernel gives each new file the one owner there is. For a process that has become another user the
supervisor makes the file, keeps its owner, and hands over what the call would have given.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from lamina.layer.entry import Kind
from lamina.layer.owners import PLAIN, Kept
from lamina.runtime.call import AT_FDCWD, WORD, Act, Answered, Call, Refused, signed
from lamina.runtime.caller import Beyond
from lamina.runtime.capabilities import mask
from lamina.runtime.credentials import CredentialTable
from lamina.runtime.notes import Notes
from lamina.runtime.rawcall import effective_capabilities
from lamina.values import dataclass

_CAP_MKNOD = mask(("CAP_MKNOD",))
_DEVICES = {stat.S_IFCHR: Kind.CHAR, stat.S_IFBLK: Kind.BLOCK}
_O_TMPFILE = 0o20000000
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# Of these only with O_CREAT: which argument the flags are.
OPENING_CALLS = {"open": 1, "openat": 2}
CREATION_CALLS = ("creat", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat")


@dataclass(frozen=True, slots=True)
class _Where:
    """A name that is free, as far as anybody knows, and its open directory."""

    parent: int
    name: bytes


class Creation:
    def __init__(self, credentials: CredentialTable, notes: Notes) -> None:
        self._credentials = credentials
        self._notes = notes

    def acts(self) -> dict[str, Act]:
        return {
            "open": lambda call: self._open(call, AT_FDCWD, *call.arguments[:3]),
            "creat": lambda call: self._open(
                call, AT_FDCWD, call.arguments[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, call.arguments[1]
            ),
            "openat": lambda call: self._open(call, *call.arguments[:4]),
            "mkdir": lambda call: self._make_directory(call, AT_FDCWD, *call.arguments[:2]),
            "mkdirat": lambda call: self._make_directory(call, *call.arguments[:3]),
            "mknod": lambda call: self._make_node(call, AT_FDCWD, *call.arguments[:3]),
            "mknodat": lambda call: self._make_node(call, *call.arguments[:4]),
            "symlink": lambda call: self._make_symlink(call, call.arguments[0], AT_FDCWD, call.arguments[1]),
            "symlinkat": lambda call: self._make_symlink(call, *call.arguments[:3]),
        }

    # -- the calls

    def _open(self, call: Call, directory: int, address: int, flags: int, mode: int) -> int | None:
        flags = flags & WORD
        if flags & _O_TMPFILE or not flags & os.O_CREAT or not self._is_somebody(call):
            return None

        def make(where: _Where) -> None:
            # Two descriptors: a mode that denies it does not keep its maker from writing.
            os.close(os.open(where.name, os.O_WRONLY | _NEW, 0o600, dir_fd=where.parent))

        def hand_over(made: int) -> None:
            plain = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_TRUNC)
            if not stat.S_ISREG(os.fstat(made).st_mode):
                raise Beyond  # somebody was faster: a FIFO would have us wait for its other end
            # Nor shall we wait for whoever took a lease of it meanwhile (fcntl(2), F_SETLEASE).
            opened = os.open(f"/proc/self/fd/{made}", plain | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.set_blocking(opened, not flags & os.O_NONBLOCK)
                call.answer_with(opened, close_on_exec=bool(flags & os.O_CLOEXEC))
            finally:
                os.close(opened)

        self._make(call, directory, address, mode & 0o7777, make, finish=hand_over)
        raise Answered

    def _make_directory(self, call: Call, directory: int, address: int, mode: int) -> int | None:
        if not self._is_somebody(call):
            return None

        def make(where: _Where) -> None:
            os.mkdir(where.name, 0o700, dir_fd=where.parent)

        return self._make(call, directory, address, mode & 0o1777, make)

    def _make_symlink(self, call: Call, text_address: int, directory: int, address: int) -> int | None:
        if not self._is_somebody(call):
            self._forget(call, directory, address)
            return None
        text = call.caller.read_path(text_address)

        def make(where: _Where) -> None:
            os.symlink(text, where.name, dir_fd=where.parent)

        return self._make(call, directory, address, None, make)

    def _make_node(self, call: Call, directory: int, address: int, mode: int, device: int) -> int | None:
        """A device is an empty file that is shown as one: it has its place in a layer, and no other use."""
        device &= WORD
        kind = _DEVICES.get(stat.S_IFMT(mode & WORD)) if device else None  # anybody may make a device 0:0
        if kind is not None:
            may_make = effective_capabilities(call.caller.pid) & _CAP_MKNOD and call.caller.shares_ids()
            if not may_make or self._credentials.of(call.caller.pid).fsuid:
                return None  # EPERM
        elif not self._is_somebody(call):
            self._forget(call, directory, address)
            return None

        def make(where: _Where) -> None:
            if kind is None:
                os.mknod(where.name, stat.S_IFMT(mode) | 0o600, device, dir_fd=where.parent)
            else:
                os.close(os.open(where.name, os.O_WRONLY | _NEW, 0o600, dir_fd=where.parent))

        as_device = None if kind is None else Kept(0, 0, kind, os.major(device), os.minor(device))
        return self._make(call, directory, address, mode & 0o7777, make, as_device=as_device)

    # -- what they have in common

    def _is_somebody(self, call: Call) -> bool:
        """Else the kernel does all that is needed."""
        identity = self._credentials.of(call.caller.pid)
        return bool(identity.fsuid or identity.fsgid) and call.caller.shares_ids()

    def _forget(self, call: Call, directory: int, address: int) -> None:
        """The kernel makes the file, and it is root's, whoever had one of that name before."""
        parent, name = call.caller.find_parent(signed(directory), call.caller.read_path(address))
        try:
            call.insist_waiting()
            self._notes.forget_at(parent, name)
        finally:
            os.close(parent)

    def _make(
        self, call: Call, directory: int, address: int, mode: int | None, make: Callable[[_Where], None], *,
        as_device: Kept | None = None, finish: Callable[[int], None] | None = None,
    ) -> int | None:
        """``finish`` gets the new file, open for nothing. What is there already is left to the kernel."""
        parent, name = call.caller.find_parent(signed(directory), call.caller.read_path(address))
        try:
            mode = None if mode is None else mode & ~call.caller.umask()
            call.insist_waiting()
            make(_Where(parent, name))
            made = os.open(name, _FOUND, dir_fd=parent)
            try:
                self._dress(call, parent, made, mode, as_device)
                if finish is not None:
                    finish(made)
            finally:
                os.close(made)
        except FileExistsError:
            raise Beyond from None
        except OSError as error:
            raise Refused(error.errno or errno.EPERM) from None
        finally:
            os.close(parent)
        return 0

    def _dress(self, call: Call, parent: int, made: int, mode: int | None, as_device: Kept | None) -> None:
        identity = self._credentials.of(call.caller.pid)
        above, is_directory = os.fstat(parent), stat.S_ISDIR(os.fstat(made).st_mode)
        gid = identity.fsgid
        if above.st_mode & stat.S_ISGID:  # inode(7): the directory's group, and its bit for directories
            gid = (self._notes.read(call.caller, parent) or PLAIN).gid
            mode = mode | stat.S_ISGID if mode is not None and is_directory else mode
        kept = as_device or PLAIN
        self._notes.keep(
            call.caller, made, Kept(identity.fsuid, gid, kept.device, kept.major, kept.minor)
        )
        if mode is not None:
            os.chmod(f"/proc/self/fd/{made}", mode)
