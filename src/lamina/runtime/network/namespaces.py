"""Entering network and user namespaces, and the few acts on interfaces that no program is needed for."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator

from lamina.snapshot import syscalls

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_RTM_DELLINK = 17  # rtnetlink(7)
_NLM_F_REQUEST_ACK = 5  # netlink(7)


def join_user_namespace(pid: int) -> None:
    """Instead of a new user namespace, the one of a process of the same user, and a new mount namespace.

    Network namespaces are opened to root of the user namespace that they were made in, and to no other:
    containers of an ordinary user that share a network must share that too.
    """
    descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor, syscalls.CLONE_NEWUSER)
    finally:
        os.close(descriptor)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def in_child(act: Callable[[], None]) -> None:
    """Runs ``act`` in a process of its own, which may change namespaces. Raises its ``OSError`` here."""
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            act()
        except OSError as error:
            code = error.errno or 255
            with contextlib.suppress(OSError):
                os.write(tell, str(error.filename or "").encode())
        except BaseException:
            code = 255
        finally:
            os._exit(min(code, 255))
    os.close(tell)
    with open(heard, "rb") as stream:
        about = stream.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    if number != 0:
        raise OSError(abs(number), os.strerror(abs(number)), about or None)


@contextlib.contextmanager
def new_namespace() -> Iterator[int]:
    """A network namespace that nobody is in; it goes with the descriptor."""
    ready, tell = os.pipe()
    heard, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.close(go)
            syscalls.unshare(syscalls.CLONE_NEWNET)
            os.write(tell, b"!")
            os.read(heard, 1)
        finally:
            os._exit(0)
    os.close(tell)
    os.close(heard)
    try:
        made = os.read(ready, 1)
        if not made:
            raise OSError(1, "no network namespace could be made")
        descriptor = os.open(f"/proc/{child}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(go)
        os.waitpid(child, 0)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def loopback_up(namespace: int) -> None:
    """Brings ``lo`` up in an open network namespace: a new one is born with it down."""

    def act() -> None:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        interface_up("lo")

    in_child(act)


def has_loopback_up(pid: int) -> bool:
    """Whether ``lo`` has its IPv6 address, as it has when it is up; asked without entering the namespace."""
    try:
        with open(f"/proc/{pid}/net/if_inet6", encoding="ascii") as file:
            return any(line.split()[-1] == "lo" for line in file)
    except OSError:
        return False


def interface_up(name: str) -> None:
    import fcntl  # noqa: PLC0415 - these two in a child only
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | _IFF_UP))


def hardware_address(namespace: int, name: str) -> str:
    """The MAC address of an interface in an open network namespace, or ``""``."""
    import fcntl  # noqa: PLC0415 - see above
    import socket  # noqa: PLC0415

    heard, tell = os.pipe()

    def act() -> None:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            answer = fcntl.ioctl(control, 0x8927, struct.pack("16s16x", name.encode()))  # SIOCGIFHWADDR
        os.write(tell, answer[18:24])

    try:
        with contextlib.suppress(OSError):
            in_child(act)
            return os.read(heard, 6).hex(":")
    finally:
        os.close(heard)
        os.close(tell)
    return ""


def count_ports(bridge: str) -> int:
    """How many interfaces a bridge has; 0 for one that is not there."""
    try:
        return len(os.listdir(f"/sys/class/net/{bridge}/brif"))
    except OSError:
        return 0


def delete_empty_bridge(name: str) -> None:
    """Removes a bridge that has no port left; nothing happens to one that has, or that is not there."""
    import socket  # noqa: PLC0415 - see above

    if count_ports(name):
        return
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return
    # nlmsghdr, then ifinfomsg: family, type, index, flags, change.
    message = struct.pack("=IHHII", 32, _RTM_DELLINK, _NLM_F_REQUEST_ACK, 1, 0)
    message += struct.pack("=BxHiII", 0, 0, index, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(message)
        netlink.recv(4096)
