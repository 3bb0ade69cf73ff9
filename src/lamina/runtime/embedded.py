"""Our own runner: containers from Python alone, for machines where neither runc nor crun is installed.

It reads the same runtime-spec document. A first child enters, or makes, the namespaces, and ends; its child
is the container's first process, sets up its own root (``stage``), gives up its rights (``confine``), waits
for the word to start, and becomes the command. They talk over one socket of messages, whose end at the child
closes with the exec: silence is success.

What is weaker than with runc: a process that enters a container is for an instant the host's interpreter with
the container's pid namespace; with CAP_SYS_PTRACE, which no container has unless it is given, somebody in
there could look at it. Needs Linux 5.12.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lamina.runtime.runtime import (
    EMBEDDED,
    CommandNotExecutable,
    CommandNotFound,
    Made,
    RuntimeFailed,
    Stdio,
)
from lamina.snapshot import syscalls

_FLAGS = {
    "mount": syscalls.CLONE_NEWNS, "network": syscalls.CLONE_NEWNET, "uts": syscalls.CLONE_NEWUTS,
    "pid": syscalls.CLONE_NEWPID, "ipc": syscalls.CLONE_NEWIPC, "cgroup": syscalls.CLONE_NEWCGROUP,
}
_MESSAGE = 65536
_START = b"start"
_LISTENER = b"listener"


class EmbeddedRuntime:
    name = EMBEDDED

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def create(self, bundle: Path, container: str, stdio: Stdio) -> Made:
        from lamina.runtime import confine  # noqa: PLC0415 - not where containers are only listed

        document = json.loads((bundle / "config.json").read_bytes())
        cgroup = _make_cgroup(document)
        confinement = confine.prepare(
            document["process"], document["linux"].get("seccomp"), is_single_id=_has_single_id()
        )
        plan = _Plan(document=document, confinement=confinement, stdio=stdio, cgroup=cgroup)
        return self._fork(plan, container)

    def start(self, bundle: Path, container: str) -> None:
        waiting = self._waiting.pop(container)
        waiting.begin(bundle)

    def execute(
        self, bundle: Path, container: str, process: Mapping[str, Any], pid: int, stdio: Stdio
    ) -> Made:
        from lamina.runtime import confine  # noqa: PLC0415 - see above

        document = {**json.loads((bundle / "config.json").read_bytes()), "process": dict(process)}
        seccomp = document["linux"].get("seccomp")
        confinement = confine.prepare(process, seccomp, is_single_id=_has_single_id())
        plan = _Plan(document=document, confinement=confinement, stdio=stdio, cgroup=_find_cgroup(document),
                     joins=pid)
        made = self._fork(plan, f"exec {container}")
        try:
            self._waiting.pop(f"exec {container}").begin(bundle)
        except BaseException:
            _reap(made.pid)
            raise
        return made

    def delete(self, bundle: Path, container: str) -> None:
        waiting = self._waiting.pop(container, None)
        if waiting is not None:
            waiting.wire.close()  # who still waits for the word sees that it will not come
        with contextlib.suppress(FileNotFoundError):
            cgroup = _find_cgroup(json.loads((bundle / "config.json").read_bytes()))
            if cgroup is not None:
                cgroup.kill()
                cgroup.remove()

    def _fork(self, plan: _Plan, container: str) -> Made:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = os.fork()
            if child == 0:
                ours.close()
                _first_child(plan, theirs)
        finally:
            theirs.close()
            plan.close()
        try:
            pid = 0
            message = _heard(ours)
            if "pid" in message:
                pid = message["pid"]
                message, terminal = _heard_with_terminal(ours)
            os.waitpid(child, 0)
            if "ready" not in message:
                if pid:
                    _reap(pid)
                raise _failure(message)  # noqa: TRY301 - what is open must be closed in either case
        except BaseException:
            ours.close()
            raise
        self._waiting[container] = _Waiting(ours, pid, plan)
        unapplied = () if plan.cgroup is None or plan.joins else plan.cgroup.unapplied
        return Made(pid, terminal, tuple(map(str, unapplied)))


class _Waiting:
    """A process that is all set up, and waits for the word."""

    def __init__(self, wire: socket.socket, pid: int, plan: _Plan) -> None:
        self.wire = wire
        self._pid = pid
        self._process = plan.process
        self._has_listener = plan.confinement.is_single_id

    def begin(self, bundle: Path) -> None:
        with self.wire:
            with contextlib.suppress(OSError):
                self.wire.send(_START)
            if self._has_listener:
                self._pass_listener_on(bundle)
            _insist_silence(self.wire, self._process["args"][0], self._pid)

    def _pass_listener_on(self, bundle: Path) -> None:
        from lamina.runtime.ownerserver import hand_over  # noqa: PLC0415 - users without ranges only

        message, descriptors, _, _ = socket.recv_fds(self.wire, _MESSAGE, 1)
        if not descriptors:
            raise _failure(json.loads(message) if message else {"error": "it ended without a word"})
        hand_over(bundle, descriptors[0], self._pid, self._process["user"])


class _Plan:
    """What the children need, and inherit by the fork. ``joins``: whose namespaces are entered."""

    def __init__(
        self, *, document: Mapping[str, Any], confinement: Any, stdio: Stdio, cgroup: Any, joins: int = 0
    ) -> None:
        from lamina.runtime.stage import Stage  # noqa: PLC0415 - see above
        from lamina.runtime.trampoline import is_available, open_trampoline  # noqa: PLC0415 - see above

        self.document = document
        self.process = document["process"]
        self.confinement = confinement
        self.stdio = stdio
        self.cgroup = cgroup
        self.joins = joins
        self.stage_of = Stage
        self.trampoline = open_trampoline() if is_available() else -1
        self.is_user_namespace = not _is_initial_user_namespace()
        self.cgroup_binds = _binds(cgroup) if cgroup is not None and not joins else ()

    def close(self) -> None:
        """The parent's: a monitor makes one of these for each start and each health check."""
        if self.trampoline >= 0:
            os.close(self.trampoline)
            self.trampoline = -1


# -- the children


def _first_child(plan: _Plan, wire: socket.socket) -> NoReturn:
    """Enters the namespaces; the pid namespace takes effect for its child alone (pid_namespaces(7))."""
    try:
        if plan.joins or (_shares_processes(plan.document) and not plan.is_user_namespace):
            # /proc/PID/exe of ours is not for those who are in there already. In a user namespace the monitor
            # must look at it first, to connect its network: its rights end there as well.
            syscalls.set_dumpable(0)
        if plan.cgroup is not None:
            plan.cgroup.add(os.getpid())
        if plan.joins:
            _join(plan.joins)
        else:
            _make_namespaces(plan.document["linux"]["namespaces"])
        waiting, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            os.read(waiting, 1)  # its number is told, by us and before anything that it says itself
            os.close(waiting)
            _container_process(plan, wire)
        wire.send(json.dumps({"pid": child}).encode())
    except BaseException as error:
        _tell(wire, error)
    os._exit(0)


def _join(pid: int) -> None:
    """All namespaces of a process at once, by its pidfd (Linux 5.8): the process cannot change in between."""
    descriptor = os.pidfd_open(pid)
    kinds = 0
    for name, flag in (*_FLAGS.items(), ("user", syscalls.CLONE_NEWUSER)):
        short = {"mount": "mnt", "network": "net"}.get(name, name)
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/{short}").st_ino != os.stat(f"/proc/self/ns/{short}").st_ino:
                kinds |= flag
    syscalls.setns(descriptor, kinds)
    os.close(descriptor)


def _make_namespaces(namespaces: Sequence[Mapping[str, str]]) -> None:
    fresh = 0
    for namespace in namespaces:
        flag = _FLAGS[namespace["type"]]
        if namespace.get("path"):
            descriptor = os.open(namespace["path"], os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(descriptor, flag)
            os.close(descriptor)
        else:
            fresh |= flag
    syscalls.unshare(fresh)
    if fresh & syscalls.CLONE_NEWNET:
        _raise_loopback()


def _shares_processes(document: Mapping[str, Any]) -> bool:
    return all(
        namespace["type"] != "pid" or namespace.get("path") for namespace in document["linux"]["namespaces"]
    )


def _raise_loopback() -> None:
    import fcntl  # noqa: PLC0415 - loaded already
    import struct  # noqa: PLC0415 - loaded already

    # netdevice(7): SIOCSIFFLAGS with IFF_UP.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))


def _container_process(plan: _Plan, wire: socket.socket) -> NoReturn:
    """The child's whole life. It leaves by exec, or by telling what went wrong."""
    from lamina.runtime import confine  # noqa: PLC0415 - loaded already

    try:
        os.setsid()
        if plan.joins:
            confine.forbid_imports()
            terminal = _take_terminal(plan, None) if plan.process["terminal"] else -1
        else:
            terminal = _build(plan)
        if terminal < 0:
            _take_stdio(plan.stdio, plan.process["user"])
        _close_descriptors(plan, wire)
        confine.insist_executable(plan.process)
        _tell_ready(terminal)
        # While this is still root: once it is somebody else, nobody may look at its namespaces (ptrace(2)).
        if os.read(confine.REPORT, len(_START)) != _START:
            os._exit(1)
        if _shares_processes(plan.document):
            syscalls.set_dumpable(0)
        confine.confine(plan.confinement, _hand_over)
        confine.execute(plan.process, plan.trampoline)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            _tell_on(3 if _is_report_open() else wire.fileno(), error)
    os._exit(127)


def _build(plan: _Plan) -> int:
    """The filesystem, then the root; gives the terminal's master, or -1."""
    from lamina.runtime import confine  # noqa: PLC0415 - loaded already

    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    if "hostname" in plan.document:
        socket.sethostname(plan.document["hostname"])
    if "domainname" in plan.document:
        syscalls.set_domain_name(plan.document["domainname"])
    stage = plan.stage_of(plan.document, plan.cgroup_binds)
    stage.build(is_user_namespace=plan.is_user_namespace)
    terminal = _take_terminal(plan, stage) if plan.process["terminal"] else -1
    confine.forbid_imports()
    stage.enter()
    stage.close_off()
    return terminal


def _take_terminal(plan: _Plan, stage: Any) -> int:
    """A pty of the container's own devpts becomes the controlling terminal; gives its master.

    The peer is opened through the master (TIOCGPTPEER, Linux 4.13), since no path can be trusted to lead
    there.
    """
    import fcntl  # noqa: PLC0415 - loaded already

    place = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    top = stage.top if stage is not None else os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master = syscalls.open_in_root(top, "/dev/pts/ptmx", place)
    fcntl.ioctl(master, 0x40045431, bytes(4))  # TIOCSPTLCK
    peer = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER
    with contextlib.suppress(OSError):
        os.fchown(peer, plan.process["user"]["uid"], -1)
    if stage is not None:
        made = syscalls.open_tree(f"/proc/self/fd/{peer}")
        console = stage.place("/dev/console", is_directory=False)
        syscalls.move_mount(made, console)
        os.close(console)
        os.close(made)
    fcntl.ioctl(peer, 0x540E, 0)  # TIOCSCTTY
    size = plan.process.get("consoleSize")
    if size:
        import struct  # noqa: PLC0415 - loaded already

        fcntl.ioctl(peer, 0x5414, struct.pack("HHHH", size["height"], size["width"], 0, 0))  # TIOCSWINSZ
    for number in (0, 1, 2):
        os.dup2(peer, number)
    if peer > 2:
        os.close(peer)
    return master


def _take_stdio(stdio: Stdio, user: Mapping[str, Any]) -> None:
    for number, descriptor in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
        os.dup2(descriptor, number)
        # /dev/stdout must open for the container's user too; only a pipe is ours to give away.
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.fchown(number, user["uid"], -1)


def _close_descriptors(plan: _Plan, wire: socket.socket) -> None:
    """Only the standard three, the wire as 3, and the trampoline go on; but for the three, until the exec."""
    keep = os.dup(plan.trampoline) if 0 <= plan.trampoline <= 3 else plan.trampoline
    plan.trampoline = keep
    if wire.fileno() != 3:
        os.dup2(wire.fileno(), 3)
    syscalls.close_on_exec_from(3)
    if keep >= 0:
        os.set_inheritable(3, True)  # the trampoline marks it again


def _hand_over(listener: int) -> None:
    with socket.socket(fileno=os.dup(3)) as wire:
        socket.send_fds(wire, [_LISTENER], [listener])
    os.close(listener)


def _is_report_open() -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(3).st_mode)
    except OSError:
        return False


# -- messages


def _tell_ready(terminal: int) -> None:
    with socket.socket(fileno=os.dup(3)) as wire:
        message = [b'{"ready":true}']
        if terminal >= 0:
            socket.send_fds(wire, message, [terminal])
        else:
            wire.send(message[0])


def _tell(wire: socket.socket, error: BaseException) -> None:
    _tell_on(wire.fileno(), error)


def _tell_on(descriptor: int, error: BaseException) -> None:
    document: dict[str, Any] = {"error": str(error), "name": type(error).__name__}
    if isinstance(error, OSError):
        document["errno"] = error.errno
        document["error"] = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        document["subject"] = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    os.write(descriptor, json.dumps(document).encode("utf-8", "backslashreplace")[:_MESSAGE])


def _heard(wire: socket.socket) -> dict[str, Any]:
    message = wire.recv(_MESSAGE)
    return json.loads(message) if message else {"error": "it ended without a word", "name": ""}


def _heard_with_terminal(wire: socket.socket) -> tuple[dict[str, Any], int]:
    message, descriptors, _, _ = socket.recv_fds(wire, _MESSAGE, 1)
    document = json.loads(message) if message else {"error": "it ended without a word", "name": ""}
    if descriptors:
        os.set_inheritable(descriptors[0], False)
    return document, descriptors[0] if descriptors else -1


def _insist_silence(wire: socket.socket, command: str, pid: int) -> None:
    """Raises what the exec answered, if it answered.

    Once the process is the container's, others in there may take its end of the wire: so its own end counts
    as well, and what is heard may be anything.
    """
    end = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(wire, select.POLLIN)
        poller.register(end, select.POLLIN)
        heard = {descriptor for descriptor, _ in poller.poll()}
    finally:
        os.close(end)
    if wire.fileno() not in heard:
        return
    try:
        message = wire.recv(_MESSAGE)
    except ConnectionResetError:
        return
    if not message:
        return
    if len(message) == 4:
        number = int.from_bytes(message, "little")
        raise _not_run(number, command)
    try:
        failure = _failure(json.loads(message))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RuntimeFailed(f"{command}: the process said something that makes no sense") from None
    raise failure


def _failure(message: Mapping[str, Any]) -> Exception:
    if message.get("name") == "CommandFailed":
        return _not_run(message["errno"], message.get("subject") or "the command")
    return RuntimeFailed(f"the container could not be set up: {message['error']}")


def _not_run(number: int, command: str) -> Exception:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound.named(command)
    reason = os.strerror(number).lower()
    hint = " (built for another machine?)" if number == errno.ENOEXEC else ""
    return CommandNotExecutable(f"{command}: cannot be run in the container: {reason}{hint}")


# -- what the document leaves to us


def _make_cgroup(document: Mapping[str, Any]) -> Any:
    """``None`` where this user has no cgroups to give."""
    name = _cgroup_name(document)
    if not name:
        return None
    from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - not where containers are only listed

    return Cgroups.detect().create(name, document["linux"].get("resources") or {})


def _find_cgroup(document: Mapping[str, Any]) -> Any:
    name = _cgroup_name(document)
    if not name:
        return None
    from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - see above

    return Cgroups.detect().at(name)


def _cgroup_name(document: Mapping[str, Any]) -> str:
    """With what leads to where groups may be made, which is in ``cgroupsPath`` for runc."""
    path: str = document["linux"].get("cgroupsPath", "")
    return path.strip("/")


def _binds(cgroup: Any) -> list[tuple[str, str]]:
    places = [(hierarchy.version, os.path.basename(hierarchy.top), path) for hierarchy, path in cgroup.places]
    if all(version == 2 for version, _, _ in places):
        return [("", path) for _, _, path in places]
    return [(name, path) for _, name, path in places]


def _reap(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.waitpid(pid, 0)


def _has_single_id() -> bool:
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    return len(lines) == 1 and lines[0].split()[2] == "1"


def _is_initial_user_namespace() -> bool:
    text = Path("/proc/self/uid_map").read_text(encoding="ascii")
    return text.split() == ["0", "0", "4294967295"]
