"""Images for containers that answer questions: one layer of busybox, and a config for each question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.compat.peers import program

from lamina.archive.writer import ArchiveWriter
from lamina.content.memory import MemoryStore
from lamina.layer.entry import Entry
from lamina.testing.images import MadeImage, directory, file, hardlink, make_image, make_layer, symlink

_PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUP = b"root:x:0:\nusers:x:100:app\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n"
_APPLETS = """
sh cat cp chmod chown date df dirname echo env expr false find grep head hostname id kill ln ls mkdir mkfifo
mknod mv nproc ps pwd readlink rm rmdir sed seq sleep sort stat stty tail tar test touch tr trap true tty
uname wc which xargs mount umount dd
"""

# name: config. All are named NAME:1.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"Cmd": ["sh"]},
    "full": {
        "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["word", "two words"], "User": "app:users",
        "Env": ["PATH=/bin:/opt/bin", "COLOUR=red", "SHAPE=round"], "WorkingDir": "/srv/made/here",
        "Labels": {"maker": "tests", "level": "1"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGUSR1",
    },
    "shell": {"Entrypoint": ["/bin/sh", "-c", "echo shell-form $0 $@"], "Cmd": ["ignored?"], "Env": ["PATH=/bin"]},
    "volume": {"Cmd": ["sh"], "Volumes": {"/data": {}, "/fresh/deep": {}}},
    "mute": {},
}


def base_layer() -> list[Entry]:
    busybox = Path(program("busybox")).read_bytes()
    return [
        directory("bin"), file("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in _APPLETS.split()),
        file("bin/noexec", b"#!/bin/sh\n", mode=0o644), file("bin/badformat", b"\x7fNOT", mode=0o755),
        file("bin/lostinterp", b"#!/no/such/interpreter\n", mode=0o755),
        file("bin/busybox-setid", busybox, mode=0o4755),
        directory("etc"), file("etc/passwd", _PASSWD), file("etc/group", _GROUP),
        directory("root", mode=0o700), directory("tmp", mode=0o1777), directory("home"),
        directory("home/app", mode=0o750, uid=1000, gid=1000), file("home/app/note", b"note\n", uid=1000, gid=1000),
        directory("data", mode=0o2775, uid=1000, gid=50), file("data/kept", b"kept\n", mode=0o640, uid=1000, gid=50),
        symlink("data/link", "kept"), directory("data/sub", mode=0o711), file("data/sub/deep", b"deep\n"),
        directory("old"), file("old/first", b"first\n"), file("old/second", b"second\n", mode=0o600),
        directory("old/inner"), file("old/inner/third", b"third\n"),
        hardlink("old/twin", "old/first"), symlink("old/link", "../data/kept"),
        directory("var"), symlink("var/run", "/run"), directory("run"), directory("mnt"),
    ]


def write_archive(path: Path) -> Path:
    """A docker archive of all of them, with one layer between them."""
    layer, store = make_layer(base_layer()), MemoryStore()
    with path.open("wb") as out:
        writer = ArchiveWriter(out, "docker-archive")
        for name, config in CONFIGS.items():
            image: MadeImage = make_image([layer], execution=config)
            writer.add(store, image.put(store), [f"{name}:1"])
        writer.finish()
    return path
