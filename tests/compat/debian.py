"""Root filesystems made of the machine's own Debian packages: real programs, and no network to get them."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

# What only configures packages, and what nobody in a container reads.
_LEFT = frozenset({"debconf", "debconf-2.0", "perl-base", "dpkg", "media-types", "mailcap", "tzdata"})
_UNREAD = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/lintian/")
_OURS = ("usr/bin/sh", "usr/bin/mkdir", "usr/bin/cat")
_MERGED = ("bin", "sbin", "lib", "lib64")


def write_root(path: Path, *packages: str) -> Path:
    """A tar of the packages and of all that they depend on, with busybox as ``/bin/sh``."""
    with tarfile.open(path, "w") as tar:
        for name in ("usr", "tmp", *(f"usr/{each}" for each in _MERGED)):
            tar.addfile(_entry(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755))
        for name in _MERGED:
            tar.addfile(_entry(name, tarfile.SYMTYPE, link=f"usr/{name}"))
        for name in _OURS:
            tar.addfile(_entry(name, tarfile.SYMTYPE, link="busybox"))
        for file in _files(*packages, "busybox-static"):
            tar.add(file, arcname=_merged(file), recursive=False)
    return path


def write_system(path: Path) -> Path:
    """A tar of a whole small Debian, which can install more, from the mirror that this machine uses."""
    lines = _said("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    codename = release["VERSION_CODENAME"]
    mirrors = [line.split()[0] for line in lines.splitlines() if line.split()[1:] == [codename, "main"]]
    assert mirrors, f"no mirror of {codename} in this machine's list of sources"
    _said("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", codename, str(path), mirrors[0])
    return path


def _entry(name: str, kind: bytes, *, mode: int = 0o755, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, link
    return entry


def _merged(file: str) -> str:
    first = file.lstrip("/").partition("/")[0]
    return f"usr{file}" if first in _MERGED and file.lstrip("/") not in _MERGED else file.lstrip("/")


def _files(*packages: str) -> Iterator[str]:
    """Each place once, also where packages spell it in two ways."""
    seen = {"", ".", "usr", "tmp", *_MERGED, *(f"usr/{name}" for name in _MERGED), *_OURS}
    for package in _closure(packages):
        for file in _said("dpkg-query", "--listfiles", package).splitlines():
            place = _merged(file)
            if place not in seen and not file.startswith(_UNREAD) and os.path.lexists(file):
                seen.add(place)
                yield file


def _closure(packages: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in found or name in _LEFT:
            continue
        found[name] = None
        needs = _said("dpkg-query", "--show", "--showformat=${Pre-Depends}, ${Depends}", name)
        for alternatives in needs.split(","):
            names = [re.split(r"[ (:]", each.strip())[0] for each in alternatives.split("|")]
            waiting += [each for each in names if each and _is_installed(each)][:1]
    return list(found)


def _is_installed(package: str) -> bool:
    done = subprocess.run(["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
                          capture_output=True, text=True, check=False)
    return done.stdout.startswith("installed")


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: tests/run installs it\n{done.stderr}"
    return done.stdout
