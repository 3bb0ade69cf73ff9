"""Linux capabilities: their names and numbers, and which of them a container gets (capabilities(7))."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lamina.errors import InvalidInput, nearest

# In the order of their numbers, from 0 (linux/capability.h; the last three came with Linux 5.8 and 5.9).
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(_NAMES.split())}
ALL = tuple(NUMBERS)
LAST = len(ALL) - 1

# What docker gives a container that asks for nothing.
DEFAULT = tuple(
    name for name in ALL
    if name[4:] in (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
        "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
    )
)


def chosen(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool = False, last: int = LAST,
    owned: Collection[str] = ALL,
) -> tuple[str, ...]:
    """The capabilities of a container, in the order of their numbers, by docker's rules.

    What is both added and dropped is added, except that ``--cap-add ALL`` leaves out what is dropped by
    name. ``last`` is the highest number that the kernel knows (``/proc/sys/kernel/cap_last_cap``). All
    are all of ``owned``, since nobody can give what they do not have.
    """
    added = {_read(text, "--cap-add", last) for text in add}
    dropped = {_read(text, "--cap-drop", LAST) for text in drop}
    everything = tuple(name for name in ALL[: last + 1] if name in owned)
    if privileged:
        return everything
    if "ALL" in added:
        return _in_order(set(everything) - dropped)
    if "ALL" in dropped:
        return _in_order(added)
    return _in_order((set(DEFAULT) - dropped) | added)


def mask(names: Iterable[str]) -> int:
    """As capset(2) and ``/proc/PID/status`` have them: one bit each."""
    total = 0
    for name in names:
        if name not in NUMBERS:
            raise InvalidInput(f"{name}: not a capability{nearest(name, ALL)}")
        total |= 1 << NUMBERS[name]
    return total


def named(bits: int) -> tuple[str, ...]:
    """The opposite of :func:`mask`. Bits without a name here are left out."""
    return tuple(name for name, number in NUMBERS.items() if bits >> number & 1)


def last_known(path: str = "/proc/sys/kernel/cap_last_cap") -> int:
    """The highest capability that this kernel knows and we do too."""
    try:
        with open(path, encoding="ascii") as file:
            return min(int(file.read()), LAST)
    except (OSError, ValueError):
        return LAST


def own(path: str = "/proc/self/status") -> tuple[str, ...]:
    """This process' effective ones: fewer than all in a container, or a service that was given less."""
    with open(path, encoding="utf-8", errors="replace") as file:
        bits = next(line.split()[1] for line in file if line.startswith("CapEff:"))
    return named(int(bits, 16))


def _read(text: str, option: str, last: int) -> str:
    name = text.strip().upper()
    if name in ("ALL", "CAP_ALL"):
        return "ALL"
    if not name.startswith("CAP_"):
        name = f"CAP_{name}"
    if name not in NUMBERS:
        suggestion = nearest(name, ALL) or "; capabilities(7) lists them"
        raise InvalidInput(f"{option} {text}: there is no such capability{suggestion}")
    if NUMBERS[name] > last:
        raise InvalidInput(f"{option} {text}: this kernel does not know it (it ends at {ALL[last]})")
    return name


def _in_order(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=NUMBERS.__getitem__))
