"""A monitor's own housekeeping: whose end it remembers, and what it takes along from who started it."""

from __future__ import annotations

import os
import subprocess
import sys

from lamina.runtime.monitor import Monitor

DETACHED = """
import gc, os
from lamina.runtime import monitor
class Garbage:
    pass
gc.disable()
place = os.open(os.devnull, os.O_RDONLY)
os.close(place)
garbage = Garbage()
garbage.itself, garbage.file = garbage, open(os.devnull)
assert garbage.file.fileno() == place
del garbage
report = os.dup(1)
monitor._detach(keep=(report,))
mine = [os.open("/proc/self/status", os.O_RDONLY) for _ in range(8)]
assert place in mine
gc.collect()
for each in mine:
    os.fstat(each)
os.write(report, b"whole")
"""


def test_only_the_ends_that_are_waited_for_are_remembered() -> None:
    """A number comes again: what is remembered of somebody else would be the end of who has it then."""
    monitor = object.__new__(Monitor)
    monitor._statuses = {}
    wanted, stranger = ended(3), ended(4)
    monitor._reap(wanted)
    assert {pid: os.waitstatus_to_exitcode(status) for pid, status in monitor._statuses.items()} == {wanted: 3}
    assert not os.path.exists(f"/proc/{stranger}")


def ended(code: int) -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_garbage_of_the_starter_closes_no_file_of_the_monitors() -> None:
    done = subprocess.run([sys.executable, "-c", DETACHED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("whole", "")
