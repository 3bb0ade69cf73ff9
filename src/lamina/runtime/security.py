"""``--security-opt`` as a value, and what of the machine's /proc and /sys a container must not see."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import InvalidInput
from lamina.values import dataclass

# What docker hides from containers, and what it lets them only read: files of the kernel that no namespace
# divides.
MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """``seccomp`` is ``""`` for the default profile, ``unconfined``, or the path of a profile.

    ``notes`` are for the user: what was asked for and makes no difference here.
    """

    seccomp: str = ""
    has_no_new_privileges: bool = False
    shows_system_paths: bool = False
    notes: tuple[str, ...] = ()


def parse_security(texts: Sequence[str], *, is_privileged: bool = False) -> Security:
    """Docker's spellings, with ``=`` or the older ``:``."""
    seccomp = "unconfined" if is_privileged else ""
    no_new_privileges, shows_system_paths = False, is_privileged
    notes = []
    for text in texts:
        name, value = _split(text)
        if name == "no-new-privileges":
            no_new_privileges = _switch(text, value)
        elif name == "seccomp" and value:
            seccomp = "" if value in ("default", "builtin") else value
        elif name == "systempaths" and value == "unconfined":
            shows_system_paths = True
        elif name in ("apparmor", "label") and value:
            if value not in ("unconfined", "disable"):
                notes.append(
                    f"--security-opt {text}: lamina sets up neither AppArmor nor SELinux; not applied"
                )
        else:
            raise InvalidInput(
                f"--security-opt: expected no-new-privileges, seccomp=PROFILE, systempaths=unconfined, "
                f"apparmor=… or label=…, got {text!r}"
            )
    return Security(seccomp=seccomp, has_no_new_privileges=no_new_privileges,
                    shows_system_paths=shows_system_paths, notes=tuple(notes))


def _split(text: str) -> tuple[str, str]:
    for mark in ("=", ":"):
        if mark in text:
            name, _, value = text.partition(mark)
            return name, value
    return text, ""


def _switch(text: str, value: str) -> bool:
    if value not in ("", "true", "false"):
        raise InvalidInput(f"--security-opt: {text!r}: expected true or false")
    return value != "false"
