"""What each runtime leaves open, in words for ``info``: decision 087 has the reasons."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from lamina.runtime.runtime import EMBEDDED, Candidate
from lamina.runtime.trampoline import is_available

# The first runc that mounts by descriptors, and looks at what it mounted (CVE-2025-31133, CVE-2025-52565,
# CVE-2025-52881).
_RUNC_SOUND = (1, 2, 8)
_PATIENCE = 5.0
_NO_LABELS = "no AppArmor profile and no SELinux label is set up"
_TRACEABLE = (
    "in a container that has CAP_SYS_PTRACE, its processes can reach the host's interpreter while one more "
    "process enters (exec, health checks)"
)
_NO_TRAMPOLINE = (
    "on {machine} there is no program between the interpreter and the container's command: /proc/self/exe of "
    "the first moment is the host's (CVE-2019-5736)"
)
_OLD_RUNC = (
    "runc {version} can be misled by symlinks where it mounts (CVE-2025-31133 and its kin), unless your "
    "distribution has mended it; images that try what is known are refused"
)


def weaknesses(candidate: Candidate) -> tuple[str, ...]:
    """Nothing for what is not installed."""
    if candidate.name == EMBEDDED:
        more = () if is_available() else (_NO_TRAMPOLINE.format(machine=os.uname().machine),)
        return (_TRACEABLE, *more, _NO_LABELS)
    if not candidate.path:
        return ()
    version = _version([candidate.path, "--version"]) if candidate.name == "runc" else ()
    if version and version < _RUNC_SOUND:
        return (_OLD_RUNC.format(version=".".join(map(str, version))), _NO_LABELS)
    return (_NO_LABELS,)


def _version(command: Sequence[str]) -> tuple[int, ...]:
    import subprocess  # noqa: PLC0415 - programs only

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(rb"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", done.stdout)
    return tuple(int(part or 0) for part in found.groups()) if found else ()
