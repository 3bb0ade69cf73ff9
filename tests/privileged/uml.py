"""A machine of our own, for what this kernel does not have: User-Mode Linux on the host's own files.

    with Guest(memory="512M", disks=[image], modules=["dm-thin-pool"]) as guest:
        done = guest.run("mkfs.ext4 -q /dev/ubda && mount /dev/ubda /mnt && df /mnt", timeout=60)
        assert done.returncode == 0, done.output

Debian's package ``user-mode-linux``: an ordinary process of the host, with no KVM and no network. Linux 6.1,
one CPU, a boot in about two seconds, a fork and exec in 30 ms. Its root is the host's root, read-only, with a
tmpfs laid over it: every program and this repository (``sys.executable`` too) are there under their own paths,
and what is written is gone with the guest. What both sides see at once, and what stays, is below
``guest.shared`` and the directories given as ``shared``, under the same path on both sides (hostfs: no xattrs,
no locks, no device nodes). /tmp, /run and /dev/shm are a tmpfs each, so an overlay's upper directory may lie
there. ``disks`` are files that the guest has as /dev/ubda, /dev/ubdb, ...; they hold what the guest wrote
when it is killed and another one starts on them.

Loaded are ``overlay``, ``loop``, ``fuse`` and the quota formats; ``modules`` names more (dm-thin-pool, dm-flakey,
...), and `modprobe` works inside. ext4, xfs and btrfs are built in. cgroup2 is on /sys/fs/cgroup. Scripts are
bash's, run as root in the repository; several may run at once (:meth:`Guest.begin`). :meth:`Guest.kill` is the
power cut. A guest ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

KERNEL = "linux.uml"
MODULES = "/usr/lib/uml/modules"
REPOSITORY = Path(__file__).parent.parent.parent
BOOT_SECONDS = 60.0
_ALWAYS = ("overlay", "loop", "fuse", "quota_v1", "quota_v2")
_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


def _hidden() -> list[Path]:
    """Of what every script needs, what would lie below a directory that is the guest's own."""
    needed = {REPOSITORY, Path(sys.prefix)}
    return sorted(place for place in needed if place.parts[1:2] in (("tmp",), ("run",), ("dev",)))


class GuestDied(AssertionError):
    """It stopped, was killed, or never came up. The message ends with its last words."""


@dataclass(frozen=True)
class Done:
    """``output`` is both of its streams."""

    returncode: int
    output: str


class Job:
    """A script that runs in a guest."""

    def __init__(self, guest: Guest, number: int) -> None:
        self._guest = guest
        self._number = number
        self.output_path = guest.shared / f"job-{number}.out"

    @property
    def output(self) -> str:
        """What it has printed by now."""
        try:
            return self.output_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def is_over(self) -> bool:
        return self._number in self._guest._codes

    def wait(self, timeout: float = 60.0) -> Done:
        """Raises :class:`GuestDied` if it takes longer: then nobody knows what it does, and the guest is killed."""
        code = self._guest._wait(self._number, timeout)
        return Done(code, self.output)


class Guest:
    """Boots when something is run in it first, or by :meth:`start`."""

    def __init__(
        self, memory: str = "512M", disks: Sequence[Path] = (), modules: Sequence[str] = (),
        shared: Iterable[Path] = (), environment: dict[str, str] | None = None,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="lamina-guest-"))
        self.shared = self.home / "shared"
        self.shared.mkdir()
        self._memory = memory
        self._disks = list(disks)
        self._modules = [*_ALWAYS, *modules]
        self._places = [self.shared, *shared, *_hidden()]
        self._environment = {**_ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._codes: dict[int, int] = {}
        self._news = threading.Condition()
        self._is_gone = False
        self._jobs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- power

    def start(self) -> None:
        """Returns when scripts can run. Raises :class:`GuestDied`."""
        if self._process is not None:
            return
        kernel = shutil.which(KERNEL)
        assert kernel is not None, f"{KERNEL} is missing: tests/run installs the package user-mode-linux"
        init = self.home / "init"
        init.write_text(_INIT.format(
            home=self.home, modules=MODULES, load=" ".join(self._modules), python=sys.executable, agent=__file__,
            repository=REPOSITORY, places=" ".join(map(str, self._places)),
            environment=" ".join(f"{name}={value!r}" for name, value in self._environment.items()),
        ))
        init.chmod(0o755)
        for name in ("root", "old"):
            (self.home / name).mkdir(exist_ok=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        try:
            with (self.home / "console").open("wb") as console:
                self._process = subprocess.Popen(
                    [kernel, f"mem={self._memory}", "root=none", "rootfstype=hostfs", "rootflags=/", "ro",
                     f"init={init}", f"uml_dir={self.home}/", "umid=guest", "con=null", "con0=null,fd:1",
                     f"con1=fd:{theirs_in},fd:{theirs_out}", "panic=-1", "quiet", "loglevel=4",
                     *(f"ubd{number}={path}" for number, path in enumerate(self._disks))],
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=(theirs_in, theirs_out),
                    start_new_session=True, env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
                )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._to = open(ours_out, "wb", buffering=0)
        with self._news:
            self._is_gone = False
            self._codes.clear()
        threading.Thread(target=self._listen, args=(ours_in, self._process), daemon=True).start()
        self._wait(0, BOOT_SECONDS)

    def kill(self) -> None:
        """As when the power fails, but for what the host's page cache holds of the disks: that stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._to.close()
        with self._news:
            self._process, self._is_gone = None, True
            self._news.notify_all()

    def stop(self) -> None:
        """Everything is written to the disks first."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._to.write(b"stop\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # -- work

    def run(self, script: str, timeout: float = 60.0) -> Done:
        return self.begin(script).wait(timeout)

    def check(self, script: str, timeout: float = 60.0) -> str:
        """What it prints, when it must succeed; its commands too, one by one."""
        done = self.run(f"set -euo pipefail\n{script}", timeout)
        assert done.returncode == 0, f"{script}\nexit code {done.returncode}\n{done.output}"
        return done.output

    def python(self, code: str, *arguments: str | Path, timeout: float = 60.0) -> Done:
        """By this interpreter, with the product and the tests importable."""
        path = self._write(f"code-{self._jobs}.py", code)
        words = " ".join(f"'{word}'" for word in (sys.executable, path, *arguments))
        return self.run(f"PYTHONPATH={REPOSITORY} {words}", timeout)

    def begin(self, script: str) -> Job:
        self.start()
        self._jobs += 1
        self._write(f"job-{self._jobs}.sh", script)
        try:
            self._to.write(b"%d\n" % self._jobs)
        except OSError:
            raise self._died() from None
        return Job(self, self._jobs)

    @property
    def console(self) -> str:
        """What its kernel had to say."""
        return (self.home / "console").read_text(errors="replace")

    def _write(self, name: str, text: str) -> Path:
        path = self.shared / name
        path.write_text(text)
        return path

    def _listen(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        """To one that is gone by now perhaps, and has a successor."""
        with open(descriptor, "rb") as news:
            for line in news:
                words = line.split()
                if len(words) == 3 and words[0] == b"done":
                    with self._news:
                        if self._process is process:
                            self._codes[int(words[1])] = int(words[2])
                            self._news.notify_all()
        with self._news:
            if self._process is process:
                self._is_gone = True
                self._news.notify_all()

    def _wait(self, number: int, timeout: float) -> int:
        with self._news:
            self._news.wait_for(lambda: self._is_gone or number in self._codes, timeout)
            if number in self._codes:
                return self._codes[number]
        raise self._died(number, "" if self._is_gone else f": nothing after {timeout} s")

    def _died(self, number: int = 0, reason: str = "") -> GuestDied:
        self.kill()
        said = Job(self, number).output if number else ""
        return GuestDied(f"the guest is gone{reason}\n{said[-4000:]}\n{self.console[-4000:]}")


_INIT = """\
#!/bin/bash
export {environment}
mount -t proc proc /proc
insmod {modules}/$(uname -r)/kernel/fs/overlayfs/overlay.ko
mount -t tmpfs -o mode=755 tmpfs {home}/old
mkdir {home}/old/upper {home}/old/work
mount -t overlay -o lowerdir=/,upperdir={home}/old/upper,workdir={home}/old/work overlay {home}/root
cd {home}/root
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm lib/modules before
ln -s {modules}/$(uname -r) lib/modules/
pivot_root . before
exec chroot . /bin/bash -c '
umount -l /before/proc; umount -l /before; rmdir /before
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devpts -o ptmxmode=666 devpts /dev/pts
for each in /dev/shm /run; do mount -t tmpfs -o mode=755 tmpfs $each; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
for each in {places}; do mkdir -p $each; mount -t hostfs -o $each none $each; done
ln -s /proc/self/fd /dev/fd
for each in 0,stdin 1,stdout 2,stderr; do ln -s fd/${{each%,*}} /dev/${{each#*,}}; done
ip link set lo up
modprobe -a {load}
cd {repository}
{python} {agent}
: the shell stays, and reaps whatever loses its parent
'
"""


# -- inside


def _serve() -> None:
    """Runs as the child of the guest's first process: a line in, a script run, a line out."""
    import ctypes
    import termios

    shared = Path(next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()
                       if line.split()[2] == "hostfs" and line.split()[1].endswith("/shared")))
    terminal = os.open("/dev/tty1", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    modes = termios.tcgetattr(terminal)
    modes[0] = modes[1] = modes[3] = 0
    modes[3] = termios.ICANON
    termios.tcsetattr(terminal, termios.TCSANOW, modes)

    def work(number: int) -> None:
        with (shared / f"job-{number}.out").open("wb") as out:
            code = subprocess.run(
                ["/bin/bash", shared / f"job-{number}.sh"], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                check=False,
            ).returncode
        os.write(terminal, b"done %d %d\n" % (number, code))

    os.write(terminal, b"done 0 0\n")
    with open(terminal, "rb", closefd=False) as orders:
        for line in orders:
            if not line.strip().isdigit():
                break
            threading.Thread(target=work, args=(int(line),), daemon=True).start()
    os.sync()
    ctypes.CDLL(None).reboot(0x4321FEDC)  # LINUX_REBOOT_CMD_POWER_OFF


if __name__ == "__main__":
    _serve()
