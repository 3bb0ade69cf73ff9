"""The least that is a container of one id, for tests: run by a user without ranges, it runs a program in a tree.

Its text is given to ``python -c``, with a JSON object of settings: ``tree`` is the root, the present one if it
is missing; ``overlay`` the options of an overlay to mount there; ``command`` what to run; ``is_supervised``;
``assume`` who to begin as; ``capabilities`` whether the program keeps them; ``added`` those that the profile
knows besides docker's; ``stop_after`` how many calls are served before the supervisor dies.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys

from lamina.runtime.bpf import compile_filter, install
from lamina.runtime.capabilities import chosen
from lamina.runtime.credentials import Credentials, CredentialTable
from lamina.runtime.ownership import OwnershipSupervisor, with_notifications
from lamina.runtime.seccomp import default_profile
from lamina.snapshot import syscalls
from lamina.snapshot.namespace import enter_user_namespace, single_identity


def contain(
    tree: str | None, overlay: str, command: list[str], channel: socket.socket | None, *,
    keeps_capabilities: bool, added: list[str],
) -> None:
    if overlay:
        syscalls.mount("overlay", str(tree), "overlay", 0, overlay)
    if tree is None:
        syscalls.mount("proc", "/proc", "proc", 0)
    else:
        syscalls.mount(tree, tree, None, syscalls.MS_BIND | syscalls.MS_REC)
        os.makedirs(f"{tree}/proc", exist_ok=True)
        os.chdir(tree)
        syscalls.mount("proc", "proc", "proc", 0)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
    os.umask(0o022)
    syscalls.set_no_new_privileges()
    if not keeps_capabilities:  # root gets those of the bounding set at every exec
        for capability in range(41):
            syscalls.drop_from_bounding_set(capability)
        syscalls.set_capabilities(0, 0, 0)
    if channel is not None:
        profile = default_profile(chosen(added, ()), os.uname().machine)
        listener = install(compile_filter(with_notifications(profile)), listener=True)
        socket.send_fds(channel, [b"!"], [listener])
    os.execve(command[0], command, {"PATH": "/bin", "HOME": "/"})


def supervise(listener: int, child: int, assumed: list[int] | None, stop_after: int | None) -> None:
    ended = os.pidfd_open(child)
    table = CredentialTable()
    if assumed is not None:
        table.assume(child, Credentials.of(*assumed))
    supervisor = OwnershipSupervisor(listener, credentials=table)
    waiting = select.poll()
    waiting.register(supervisor.fileno(), select.POLLIN)
    waiting.register(ended, select.POLLIN)
    served = 0
    while True:
        ready = dict(waiting.poll())
        if ended in ready:
            return
        if served == stop_after:
            supervisor.close()
            return
        supervisor.handle()
        served += 1


def main() -> None:
    settings = json.loads(sys.argv[1])
    os.chdir("/")
    enter_user_namespace(single_identity())
    ours, theirs = socket.socketpair()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    child = os.fork()
    is_supervised = settings.get("is_supervised", True)
    if child == 0:
        try:
            ours.close()
            syscalls.unshare(syscalls.CLONE_NEWNS)
            contain(
                settings.get("tree"), settings.get("overlay", ""), settings["command"],
                theirs if is_supervised else None,
                keeps_capabilities=settings.get("capabilities", True), added=settings.get("added", []),
            )
        finally:
            os._exit(99)
    theirs.close()
    if is_supervised:
        _message, (listener, *_more), _flags, _address = socket.recv_fds(ours, 1, 1)
        supervise(listener, child, settings.get("assume"), settings.get("stop_after"))
    _pid, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
