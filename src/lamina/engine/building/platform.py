"""Commands of another machine's kind, which run where binfmt_misc(5) names an emulator for them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from lamina.errors import Unsupported
from lamina.oci.descriptor import Platform

_REGISTRY = Path("/proc/sys/fs/binfmt_misc")
# The ELF machine numbers (elf(5), e_machine), by which handlers recognise programs.
_MACHINES = {
    "amd64": 62, "386": 3, "arm64": 183, "arm": 40, "riscv64": 243, "ppc64le": 21, "s390x": 22, "mips64le": 8,
    "loong64": 258,
}
_BOTH = {("amd64", "386"), ("arm64", "arm")}  # what the first runs without help


def insist_runnable(platform: Platform, host: Platform) -> None:
    """Raises ``Unsupported``, which says what would help."""
    if platform.os != host.os:
        raise Unsupported(f"RUN: an image for {platform}, whose commands do not run on {host.os}")
    pair = host.architecture, platform.architecture
    if pair[0] == pair[1] or pair in _BOTH or _has_emulator(platform.architecture):
        return
    raise Unsupported(
        f"RUN: an image for {platform}, and this machine is {host}; commands of it need an emulator (Debian: "
        "`apt install qemu-user-static`, as root), or build what runs on "
        "`FROM --platform=$BUILDPLATFORM` and copy the result"
    )


def _has_emulator(architecture: str) -> bool:
    """One that is opened before the container has a root of its own (flag F), else it would not be found."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        return False
    try:
        names = [name for name in os.listdir(_REGISTRY) if name not in ("register", "status")]
    except OSError:
        return False
    return any(_handles(_REGISTRY / name, machine) for name in names)


def _handles(handler: Path, machine: int) -> bool:
    try:
        lines = handler.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return False
    fields = dict(line.partition(" ")[::2] for line in lines)
    magic, flags = fields.get("magic", ""), fields.get("flags:", "")
    # Bytes 18 and 19 of the header, in the byte order that byte 5 says.
    order = ">H" if magic[10:12] == "02" else "<H"
    is_ours = len(magic) >= 40 and struct.unpack(order, bytes.fromhex(magic[36:40])) == (machine,)
    return bool(lines) and lines[0] == "enabled" and "F" in flags and is_ours
