"""Images whose authors mean ill, and the grounds they are tried on: each user, with each runner that they have."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import OrdinaryUser

BUSYBOX = "/bin/busybox"
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
APPLETS = ("sh", "cat", "sleep", "true", "ls", "id", "ln", "mkdir", "mv", "rm", "kill", "echo", "stat", "touch", "head",
           "mknod", "env", "yes", "grep", "readlink", "pwd", "test", "cp", "chmod", "wc", "mount")
# Debian's interpreter, mounted from the host: attacks need more than a shell can say.
PYTHON = ("-v", "/usr:/usr:ro", "-v", "/etc/ld.so.cache:/etc/ld.so.cache:ro")
GROUNDS = ("root-runc", "root-embedded", "mapped-runc", "mapped-embedded", "single-embedded")


@dataclasses.dataclass(frozen=True)
class Item:
    """``text`` is a file's content, a symlink's target where ``is_link``, and ``None`` for a directory."""

    text: str | bytes | None = None
    mode: int = 0o755
    is_link: bool = False
    kind: bytes = b""


def link(target: str) -> Item:
    return Item(target, is_link=True)


def directory(mode: int = 0o755) -> Item:
    return Item(None, mode)


def tree_of(items: Mapping[str, Item], without: Sequence[str] = ()) -> bytes:
    """A busybox system as a tar, with these items in the place of what it would have."""
    own: dict[str, Item] = {name: directory() for name in ("bin", "dev", "etc", "proc", "root", "sys", "usr", "home",
                                                            "home/app", "var")}
    own["tmp"] = directory(0o1777)
    own["bin/busybox"] = Item(Path(BUSYBOX).read_bytes())
    own |= {f"bin/{name}": link("busybox") for name in APPLETS}
    own |= {"lib": link("usr/lib"), "lib64": link("usr/lib64"), "marker": Item("container", 0o644)}
    own |= {"etc/passwd": Item(PASSWD, 0o644), "etc/group": Item("root:x:0:\napp:x:1000:\n", 0o644)}
    for name in without:
        own = {path: item for path, item in own.items() if path != name and not path.startswith(f"{name}/")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, item in {**own, **items}.items():
            _add(tar, name, item)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, item: Item) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = item.mode, 1_000_000_000
    if item.kind:
        info.type = item.kind
        tar.addfile(info)
    elif item.is_link:
        info.type, info.linkname = tarfile.SYMTYPE, str(item.text)
        tar.addfile(info)
    elif item.text is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        data = item.text.encode() if isinstance(item.text, str) else item.text
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


@dataclasses.dataclass
class Ground:
    """Somebody's state directory, and a runner. ``run`` and the rest are the command, as that somebody."""

    user: OrdinaryUser | None
    runtime: str
    home: Path
    images: set[str] = dataclasses.field(default_factory=set)

    @property
    def is_root(self) -> bool:
        return self.user is None

    @property
    def root(self) -> Path:
        return self.home / "state"

    def command(self, *words: str | Path, **environment: str) -> list[str]:
        given = {"LAMINA_ROOT": str(self.root), **environment}
        if self.user is None:
            return ["env", *(f"{name}={value}" for name, value in given.items()),
                    sys.executable, "-m", "lamina", *map(str, words)]
        return self.user.python("-m", "lamina", *words, **given)

    def lamina(
        self, *words: str | Path, data: bytes | None = None, code: int | None = 0, seconds: float = 60,
        descriptors: Sequence[int] = (), **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """``code`` is what it must end with; ``None`` for anything but a fault of lamina's own."""
        done = subprocess.run(
            self.command(*words, **environment), input=data if data is not None else b"", capture_output=True,
            check=False, timeout=seconds, pass_fds=list(descriptors), cwd="/",
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )
        assert "unexpected" not in text.stderr, text.stderr
        assert "Traceback" not in text.stderr, text.stderr
        assert code is None or text.returncode == code, (words, text.returncode, text.stdout, text.stderr)
        return text

    def run(self, *words: str, image: str = "plain", **given: Any) -> subprocess.CompletedProcess[str]:
        """``words`` end with the command, behind ``--`` where there are options."""
        options, command = _split(words)
        return self.lamina("run", "--rm", "--network", "none", "--runtime", self.runtime, *options, image,
                           *command, **given)

    def image(
        self, name: str, items: Mapping[str, Item] | None = None, *changes: str, without: Sequence[str] = ()
    ) -> str:
        """Imported once for each ground's state directory."""
        full = f"{name}:latest"
        if full not in self.images:
            words = [word for change in ('CMD ["sh"]', *changes) for word in ("-c", change)]
            self.lamina("import", *words, "-", full, data=tree_of(items or {}, without))
            self.images.add(full)
        return full

    @contextmanager
    def running(self, *words: str, image: str = "plain") -> Iterator[str]:
        """A container that goes on until the block is left; by default it sleeps."""
        options, command = _split(words if "--" in words else (*words, "--"))
        number = self.lamina("run", "-d", "--network", "none", "--runtime", self.runtime, *options, image,
                             *(command or ("sleep", "600"))).stdout.strip()
        try:
            yield number
        finally:
            self.lamina("rm", "-f", number, code=None)

    def exec(self, name: str, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
        return self.lamina("exec", *words[: words.index("--")], name, *words[words.index("--") + 1 :], **given) \
            if "--" in words else self.lamina("exec", name, *words, **given)

    def state(self, number: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / "containers" / number / "state.json").read_bytes())
        return document

    def attack(self, code: str, *words: str, image: str = "plain", **given: Any) -> Any:
        """Python in a new container: what it leaves in ``found`` comes back."""
        done = self.run(*PYTHON, *words, "--", *attacker(code), image=image, **given)
        return json.loads(done.stdout.splitlines()[-1])


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    if "--" not in words:
        return (), words
    at = words.index("--")
    return words[:at], words[at + 1 :]


PRELUDE = textwrap.dedent("""
    import ctypes, errno, json, os, signal, stat, struct, sys, time
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    def call(number, *arguments):
        answer = libc.syscall(number, *arguments)
        if answer == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return answer
    def attempt(name, act):
        try:
            answer = act()
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno, str(error.errno))
        else:
            found[name] = f"done: {answer!r}"
""")


def attacker(code: str) -> list[str]:
    return ["/usr/bin/python3", "-ISBc", f"{PRELUDE}\n{textwrap.dedent(code)}\nprint(json.dumps(found))"]


class Grounds:
    """Made when they are first asked for; one state directory for each user."""

    def __init__(self, users: Mapping[str, OrdinaryUser]) -> None:
        self._users = users
        self._made: dict[str, Ground] = {}

    def of(self, name: str) -> Ground:
        who, _, runtime = name.partition("-")
        if who not in self._made:
            user = self._users.get(who)
            home = Path(tempfile.mkdtemp(prefix="lamina-hostile-"))
            if user is not None:
                os.chown(home, user.uid, user.gid)
            self._made[who] = Ground(user, runtime, home)
            self._made[who].image("plain")
        return dataclasses.replace(self._made[who], runtime=runtime)

    def close(self) -> None:
        for ground in self._made.values():
            names = ground.lamina("ps", "-aq", code=None).stdout.split()
            if names:
                ground.lamina("rm", "-f", *names, code=None)
            ground.lamina("prune", "-a", "-f", "--volumes", code=None)
            shutil.rmtree(ground.home, ignore_errors=True)


@pytest.fixture(scope="session")
def grounds(ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser) -> Iterator[Grounds]:
    made = Grounds({"mapped": ordinary_user, "single": user_without_ranges})
    yield made
    made.close()


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, grounds: Grounds) -> Ground:
    return grounds.of(request.param)


@pytest.fixture(params=GROUNDS[:2])
def rooted(request: pytest.FixtureRequest, grounds: Grounds) -> Ground:
    """Where the container's root is the machine's."""
    return grounds.of(request.param)
