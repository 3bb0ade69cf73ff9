"""Where a user's state and settings are. Apart from the settings, since this alone costs no imports."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_DIRECTORY = "/etc/lamina"
_SYSTEM_ROOT = "/var/lib/lamina"


def default_root(environ: Mapping[str, str], *, is_root: bool | None = None) -> str:
    """The state directory when nobody chose one: the system's for root, the user's for everybody else."""
    if owns_the_system() if is_root is None else is_root:
        return _SYSTEM_ROOT
    data = environ.get("XDG_DATA_HOME", "")
    # XDG base directory specification: a relative path there is to be ignored.
    return os.path.join(data if data.startswith("/") else f"{home(environ)}/.local/share", "lamina")


def owns_the_system() -> bool:
    """Root, and not merely inside a user namespace, where /var belongs to nobody that is mapped."""
    return os.geteuid() == 0 and os.stat("/var").st_uid == 0


def home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def configuration_home(environ: Mapping[str, str]) -> str:
    chosen = environ.get("XDG_CONFIG_HOME", "")
    return chosen if chosen.startswith("/") else f"{home(environ)}/.config"
