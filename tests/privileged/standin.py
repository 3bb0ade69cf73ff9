"""A process that looks like a container from outside: its own mount namespace and root, and perhaps an attack.

Plain chroot stands for pivot_root: /proc/PID/root is the same for both.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lamina.content.lease import boot_id, process_start
from lamina.runtime.container import ContainerState, Status

# argv: root, what to run inside. Everything that it needs is imported before it loses sight of the host.
INSIDE = textwrap.dedent("""
    import ctypes, os, sys, time, json
    from lamina.snapshot import syscalls
    from lamina.snapshot.namespace import current_identity, enter_user_namespace
    enter_user_namespace(current_identity())
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    root = sys.argv[1]
    syscalls.mount(root, root, None, syscalls.MS_BIND)
    exec(sys.argv[2])
    os.chroot(root)
    os.chdir("/")
    libc = ctypes.CDLL(None)
    def exchange(one, other):
        return libc.renameat2(-100, one.encode(), -100, other.encode(), 2)
    exchange("/nothing", "/nothing")
    print("ready", flush=True)
    exec(sys.argv[3])
    sys.stdin.read()
""")


@contextmanager
def standing(
    python: Sequence[str], root: object, *, before: str = "", inside: str = ""
) -> Iterator[ContainerState]:
    """``python`` runs an interpreter with lamina; ``before`` is code in the new namespace, ``inside`` after chroot."""
    process = subprocess.Popen(
        [*python, "-c", INSIDE, str(root), textwrap.dedent(before), textwrap.dedent(inside)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = process.pid  # setpriv and env become the interpreter by exec
        yield ContainerState(
            status=Status.RUNNING, pid=pid, pid_started=process_start(pid) or 0, boot=boot_id(), started=1.0,
        )
    finally:
        process.kill()
        process.communicate()


