"""Who is still the process that it was."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from lamina.content.lease import process_start


def test_a_process_that_nobody_waited_for_is_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()
    assert process_start(process.pid) is None
    assert process_start(os.getpid())


def test_a_process_whose_first_thread_has_ended_is_not_gone() -> None:
    code = """
        import ctypes, threading
        def rest():
            print("ready", flush=True)
            input()
        threading.Thread(target=rest, daemon=True).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert process_start(process.pid)
    process.kill()
    process.communicate()
