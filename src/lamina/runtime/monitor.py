"""The process behind a running container: keeps its streams, its log and its exit, and outlives the command.

It works in a mount namespace of its own (and, for an ordinary user, a user namespace), where the container's
filesystem is mounted: whatever kills it, nothing stays mounted. The lock on the container's directory is its
sign of life. What it learns it writes to ``state.json``; what it must be told comes as two files that exist
or do not, ``stopping`` (it shall not be started again) and ``paused``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamina.content.lease import boot_id, process_start
from lamina.errors import LaminaError
from lamina.runtime.aftermath import clean_up, end_processes, note_beginning, note_end, note_process
from lamina.runtime.container import PAUSED, RESTART, STOPPING, UNKNOWN_EXIT, ContainerState, Status
from lamina.runtime.frames import Kind, frame
from lamina.runtime.logs import LogWriter, log_policy
from lamina.runtime.masks import insist_hidden
from lamina.runtime.plan import Plan
from lamina.runtime.relay import Client, Relay
from lamina.runtime.restart import RestartPolicy, parse_restart
from lamina.runtime.runtime import EMBEDDED, Made, Runtime, Stdio, choose_runtime
from lamina.runtime.socketfile import listening
from lamina.snapshot import syscalls
from lamina.snapshot.hands import error_document
from lamina.snapshot.mounting import mount_all, unmount
from lamina.snapshot.namespace import Ownership, enter_user_namespace
from lamina.values import replace

# Output of a container that has ended is waited for this long: somebody outside may hold the other end.
_DRAIN_SECONDS = 1.0
_FOREVER = 3600.0


def main(plan: Plan, lock: int, ready: int, client: int) -> None:
    """The monitor's whole life; does not return. ``lock``, ``ready`` and ``client`` (or -1) are descriptors.

    On ``ready`` it says that the container runs, or why it does not.
    """
    code = 1
    try:
        _detach(keep=(lock, ready, client))
        code = Monitor(plan, lock, ready, client).run()
    except BaseException as error:
        _report(ready, {"error": error_document(error)})
        _write_last_words(plan, error)
    finally:
        os._exit(code)


def _detach(keep: tuple[int, ...]) -> None:
    """A process that has nothing of who started it but what it was given."""
    for number in (
        signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTTOU
    ):
        signal.signal(number, signal.SIG_IGN)
    # Files of the starter's that are garbage already must not be closed by number once those are others'.
    gc.freeze()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    first = 3
    for descriptor in (*sorted(each for each in keep if each >= 3), 1 << 20):
        os.closerange(first, min(descriptor, 1 << 16))
        first = descriptor + 1
    os.umask(0o022)
    os.chdir("/")
    syscalls.become_subreaper()


def _report(ready: int, document: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(ready, json.dumps(document).encode() + b"\n")
    with contextlib.suppress(OSError):
        os.close(ready)


def _write_last_words(plan: Plan, error: BaseException) -> None:
    """A fault of ours: what there is to know about it stays with the container."""
    import traceback  # noqa: PLC0415 - a fault only

    with contextlib.suppress(OSError):
        text = "".join(traceback.format_exception(error))
        (plan.directory.path / "monitor.log").write_text(text, encoding="utf-8")


class Monitor:
    def __init__(self, plan: Plan, lock: int, ready: int, client: int) -> None:
        self._plan = plan
        self._lock = lock
        self._container = plan.container
        self._directory = plan.directory
        self._ready = ready
        self._options = plan.container.options
        self._restart: RestartPolicy = parse_restart(self._options.restart)
        self._first = client
        self._statuses: dict[int, int] = {}
        self._state = ContainerState()
        self._runtime: Runtime
        self._relay: Relay
        self._connected: dict[str, Any] = {}
        self._notes: tuple[str, ...] = ()

    def run(self) -> int:
        """The exit code of this process, which nobody looks at."""
        self._enter()
        if self._plan.identity.ownership is Ownership.SINGLE:
            from lamina.runtime import ownerserver  # noqa: PLC0415 - users without ranges only

            ownerserver.spawn(self._directory.path)
        mount_all(self._plan.mounts, self._directory.rootfs)
        self._runtime = choose_runtime(self._plan.runtime, self._plan.identity)
        log = LogWriter(self._directory.log, log_policy(self._options.log_driver, self._options.log_options))
        with listening(self._directory.path, "attach", 16) as listener:
            self._relay = Relay(log, listener, keeps_input=self._options.is_interactive)
            if self._first >= 0:
                self._relay.clients.append(Client(socket.socket(fileno=self._first), is_first=True))
            try:
                self._begin()
            except Exception as error:
                self._give_up(error)
                return 1
            self._live()
            log.end()
            self._end()
        return 0

    def _enter(self) -> None:
        """A namespace for mounts, and for an ordinary user one for ids: a new one, or that of whose network
        we share.
        """
        if self._plan.network.get("joins_user"):
            from lamina.runtime.network.namespaces import join_user_namespace  # noqa: PLC0415 - rare

            join_user_namespace(self._plan.network["join"])
        else:
            enter_user_namespace(self._plan.identity)

    # -- the course of things

    def _begin(self) -> None:
        from lamina.runtime.preparation import Preparation  # noqa: PLC0415 - what a restart does not need again

        for name in (STOPPING, PAUSED):
            (self._directory.path / name).unlink(missing_ok=True)
        note_beginning(self._directory.path, self._plan.cgroup)
        self._preparation = Preparation(self._plan, self._runtime)
        self._preparation.prepare()
        self._start()
        _report(self._ready, {"pid": self._state.pid, "notes": self._notes})

    def _start(self) -> None:
        stdio, ours = _streams(self._options.has_terminal)
        try:
            self._preparation.begin_network()
            made = self._create(stdio)
        except BaseException:
            for descriptor in ours.values():
                os.close(descriptor)
            raise
        finally:
            for descriptor in {stdio.stdin, stdio.stdout, stdio.stderr} - {-1}:
                os.close(descriptor)
        try:
            if self._runtime.name != EMBEDDED:  # which looks itself, and need not be looked at
                insist_hidden(made.pid, self._preparation.document)
            self._connected = self._preparation.connect(made.pid)
            self._note_start(made)
            note_process(self._directory.path, made.pid)
            self._notes = made.notes
            self._connect_streams(made, ours)
            self._runtime.start(self._directory.path, self._container.id)
        except BaseException:
            self._relay.close_streams()
            self._runtime.delete(self._directory.path, self._container.id)
            self._preparation.disconnect()
            self._reap()
            raise
        self._directory.write_state(self._state)

    def _create(self, stdio: Stdio) -> Made:
        try:
            return self._runtime.create(self._directory.path, self._container.id, stdio)
        except BaseException:
            with contextlib.suppress(LaminaError, OSError):  # its group may be there already
                self._runtime.delete(self._directory.path, self._container.id)
            self._preparation.abandon_network()
            end_processes(self._directory.path)
            self._reap()
            raise

    def _connect_streams(self, made: Made, ours: dict[str, int]) -> None:
        if made.terminal >= 0:
            self._relay.connect({made.terminal: "stdout"}, made.terminal, made.terminal)
        else:
            self._relay.connect({ours["stdout"]: "stdout", ours["stderr"]: "stderr"}, ours["stdin"], -1)

    def _note_start(self, made: Made) -> None:
        self._state = ContainerState(
            status=Status.RUNNING, pid=made.pid, pid_started=process_start(made.pid) or 0, boot=boot_id(),
            monitor=os.getpid(), started=time.time(), restarts=self._state.restarts,
            runtime=self._runtime.name, cgroup=self._plan.cgroup, network=self._connected,
        )

    def _live(self) -> None:
        """Until the container has ended, and is not to be started again."""
        while True:
            status = self._watch()
            was_stopped = (self._directory.path / STOPPING).exists()
            code = _exit_code(status)
            self._restart = self._policy()
            is_oom_killed = self._preparation.is_oom_killed() if code == 128 + signal.SIGKILL else False
            self._state = replace(
                self._state, status=Status.EXITED, pid=0, finished=time.time(), exit_code=code,
                is_oom_killed=is_oom_killed, was_stopped=was_stopped, health={},
            )
            ran = self._state.finished - self._state.started
            if was_stopped or not self._restart.applies(code, self._state.restarts):
                return
            self._runtime.delete(self._directory.path, self._container.id)
            (self._directory.path / PAUSED).unlink(missing_ok=True)  # the next run is not frozen
            # As with docker, whoever is attached sees one run: a command in the foreground comes to its end.
            self._tell_end()
            self._preparation.disconnect()
            if not self._rest(self._restart.delay(ran)):
                return
            self._state = replace(self._state, restarts=self._state.restarts + 1)
            try:
                self._start()
            except (LaminaError, OSError) as error:
                self._state = replace(self._state, status=Status.EXITED, error=str(error))
                return

    def _policy(self) -> RestartPolicy:
        """As ``update`` may have changed it since the start. The pauses go on doubling."""
        try:
            text = (self._directory.path / RESTART).read_text(encoding="utf-8")
        except OSError:
            return self._restart
        new = parse_restart(text)
        return replace(new, pause=self._restart.pause)

    def _rest(self, seconds: float) -> bool:
        """The pause before another start; false if somebody stops the container meanwhile."""
        self._state = replace(self._state, status=Status.RESTARTING)
        self._directory.write_state(self._state)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._relay.wait(min(left, 0.1), {})
            if (self._directory.path / STOPPING).exists():
                self._state = replace(self._state, status=Status.EXITED, was_stopped=True)
                return False
        return True

    def _watch(self) -> int:
        """Relays until the first process has ended and its output is read; gives its wait status."""
        pid = self._state.pid
        end = os.pidfd_open(pid)
        self._statuses.clear()
        checks = self._preparation.health_checks(self._state, self._tell_health, self._statuses)
        try:
            deadline = 0.0
            while not (deadline and (self._relay.is_drained or time.monotonic() > deadline)):
                timeout = deadline - time.monotonic() if deadline else checks.timeout(_FOREVER)
                others: dict[int, Callable[[], None]] = {} if deadline else {end: _nothing}
                others |= checks.sources()
                self._relay.wait(timeout, others)
                self._reap(pid, checks.pid)
                if self._plan.is_for_client and not self._relay.has_first:
                    self._kill(pid)
                if not deadline:
                    checks.advance()
                    if pid in self._statuses:
                        deadline = time.monotonic() + _DRAIN_SECONDS
        finally:
            checks.close()
            os.close(end)
            self._relay.close_streams()
        return self._statuses.pop(pid)

    def _kill(self, pid: int) -> None:
        """As long as its status is not taken, the number is its own."""
        if pid not in self._statuses:
            os.kill(pid, signal.SIGKILL)

    def _tell_health(self, health: dict[str, Any]) -> None:
        self._state = replace(self._state, health=health)
        with contextlib.suppress(OSError):  # a full disk; the container runs all the same
            self._directory.write_state(self._state)

    def _reap(self, *wanted: int) -> None:
        """Every child that has ended: also those that a container without a pid namespace leaves behind.

        Of ``wanted`` the status is kept. Others' would be taken for that of who has their number later.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in wanted:
                self._statuses[pid] = status

    # -- the end

    def _give_up(self, error: Exception) -> None:
        """It never ran: docker leaves it as ``created``, with a code that says why."""
        if not isinstance(error, LaminaError | OSError):
            _write_last_words(self._plan, error)
        code = getattr(error, "exit_code", 1)
        self._state = replace(
            ContainerState(), exit_code=code if code in (126, 127) else 128, error=str(error)
        )
        self._directory.settle_state(self._state)
        clean_up(self._directory.path)
        if self._options.is_removed_at_exit:
            self._remove(keeps_directory=False)
        os.close(self._lock)
        _report(self._ready, {"error": error_document(error)})

    def _end(self) -> None:
        """The end is told before the runtime and the network are undone, which can take a fifth of a second.

        Until it is, the lock says that somebody is at it, and the directory knows what is left to undo.
        """
        is_settled = self._settle()
        self._tell_end()
        self._runtime.delete(self._directory.path, self._container.id)
        self._preparation.disconnect()
        if not is_settled:  # what the runtime kept on the disk is gone now
            is_settled = self._settle()
        if self._options.is_removed_at_exit:
            if is_settled:  # if not, whoever comes across it finds its row, and does it
                self._directory.discard()
        elif self._state.error:  # another start failed, and left who knows what
            clean_up(self._directory.path)
        else:
            note_end(self._directory.path)
        os.close(self._lock)

    def _settle(self) -> bool:
        """False on a full disk, above all: who is attached learns the code all the same."""
        try:
            if self._options.is_removed_at_exit:
                self._directory.write_state(self._state)
                self._remove(keeps_directory=True)
            else:
                self._directory.settle_state(self._state)
        except (OSError, sqlite3.Error, LaminaError):
            return False
        return True

    def _tell_end(self) -> None:
        words = {"code": self._state.exit_code, "error": self._state.error}
        self._relay.finish(frame(Kind.EXIT, json.dumps(words).encode()))

    def _remove(self, *, keeps_directory: bool) -> None:
        from lamina.runtime.removal import remove_own  # noqa: PLC0415 - at the end only

        for mount in reversed(self._plan.mounts):
            unmount(self._directory.rootfs / mount.target, lazily=True)
        remove_own(Path(self._plan.root), self._container, keeps_directory=keeps_directory)


def _nothing() -> None:
    """The end of the container is seen by reaping it."""


def _streams(has_terminal: bool) -> tuple[Stdio, dict[str, int]]:
    """What the container gets, and our ends. With a terminal there is nothing to give."""
    if has_terminal:
        return Stdio(-1, -1, -1), {}
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    ours_error, theirs_error = os.pipe()
    return Stdio(theirs_in, theirs_out, theirs_error), {
        "stdin": ours_in, "stdout": ours_out, "stderr": ours_error,
    }


def _exit_code(status: int) -> int:
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else UNKNOWN_EXIT


def read_plan() -> Plan:
    """For a monitor that was spawned: the plan comes on standard input."""
    return Plan.from_json(json.loads(sys.stdin.buffer.read()))


def of_arguments(plan: Plan) -> None:
    """The same monitor's: the descriptors' numbers are in ``argv``, after the import path."""
    lock, ready, client = map(int, sys.argv[2:5])
    main(plan, lock, ready, client)
