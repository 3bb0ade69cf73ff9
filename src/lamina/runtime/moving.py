"""Owners that follow a name: a symlink's is kept with the directory that it is in, and so must move with it.

And programs that run as their owner: the set-uid bit of a file, for who believes to be somebody.
"""

from __future__ import annotations

import os
import stat

from lamina.layer.owners import PLAIN, holds_own
from lamina.runtime.call import AT_FDCWD, WORD, Act, Call, signed
from lamina.runtime.credentials import Credentials, CredentialTable, Ids
from lamina.runtime.notes import Notes
from lamina.values import replace

_RENAME_EXCHANGE = 2

MOVING_CALLS = ("rename", "renameat", "renameat2", "execve", "execveat")


class Moving:
    """All of these calls are carried out by the kernel in the end."""

    def __init__(self, credentials: CredentialTable, notes: Notes) -> None:
        self._credentials = credentials
        self._notes = notes

    def acts(self) -> dict[str, Act]:
        return {
            "rename": lambda call: self._rename(
                call, (AT_FDCWD, call.arguments[0]), (AT_FDCWD, call.arguments[1])
            ),
            "renameat": self._rename_at,
            "renameat2": lambda call: None if call.arguments[4] & _RENAME_EXCHANGE else self._rename_at(call),
            "execve": lambda call: self._run(call, AT_FDCWD, call.arguments[0], 0),
            "execveat": lambda call: self._run(
                call, call.arguments[0], call.arguments[1], call.arguments[4] & WORD
            ),
        }

    def _rename_at(self, call: Call) -> None:
        there, old, here, new, *_rest = call.arguments
        self._rename(call, (there, old), (here, new))

    def _rename(self, call: Call, source: tuple[int, int], target: tuple[int, int]) -> None:
        """The note is there before the file is. If it never comes, the note fits no other file there."""
        moved = call.find(*source, follows=False)
        try:
            if holds_own(os.fstat(moved).st_mode) or not call.caller.shares_ids():
                return
            kept = self._notes.read(call.caller, moved) or PLAIN
            parent, name = call.caller.find_parent(signed(target[0]), call.caller.read_path(target[1]))
            try:
                call.insist_waiting()
                self._notes.keep_at(parent, name, moved, kept)
            finally:
                os.close(parent)
        finally:
            os.close(moved)

    def _run(self, call: Call, directory: int, address: int, flags: int) -> None:
        before = self._credentials.find(call.caller.pid)
        if before is None or not call.caller.shares_ids():
            return
        program = call.find(directory, address, flags)
        try:
            mode = os.fstat(program).st_mode
            if not stat.S_ISREG(mode) or not mode & 0o111:
                return
            owner = self._notes.read(call.caller, program) or PLAIN
        finally:
            os.close(program)
        users, groups = before.users, before.groups
        after = Credentials(
            _running(users, owner.uid if mode & stat.S_ISUID else users.effective),
            # A set-gid bit without the right to execute means something else (inode(7)).
            _running(groups, owner.gid if mode & stat.S_ISGID and mode & stat.S_IXGRP else groups.effective),
            before.more_groups,
        )
        if after != before:
            call.insist_waiting()
            self._credentials.assume(call.caller.pid, after)


def _running(ids: Ids, effective: int) -> Ids:
    """execve(2): what is saved is what was effective last."""
    return replace(ids, effective=effective, saved=effective, files=effective)
