"""What is inside a container attacks: the kernel, who enters it, and the host's files by way of its image."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.hostile import (
    PYTHON,
    Ground,
    Grounds,
    Item,
    attacker,
    directory,
    ground,
    grounds,
    link,
    rooted,
)

from lamina.runtime.capabilities import DEFAULT, mask

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("hostile")]

__all__ = ["ground", "grounds", "rooted"]


@pytest.fixture
def target() -> Iterator[Path]:
    """A directory of the host's that anybody may write to: an attack that works is seen there."""
    path = Path(tempfile.mkdtemp(prefix="lamina-target-"))
    path.chmod(0o777)
    (path / "file").write_text("host")
    (path / "file").chmod(0o666)
    yield path
    found = contents(path)
    shutil.rmtree(path)
    assert found == {"file": "host"}


def contents(path: Path) -> dict[str, str]:
    return {each.name: each.read_text() if each.is_file() else "no file" for each in path.iterdir()}


# -- the kernel (SECURITY 67)

KERNEL = r"""
import platform
given = json.loads(sys.argv[1])
def opening(path):
    return lambda: os.close(os.open(path, os.O_WRONLY))
for path in given["writes"]:
    attempt("write " + path, opening(path))
for path in given["reads"]:
    found["read " + path] = "done" if os.path.exists(path) and (os.listdir(path) if os.path.isdir(path) else
                                                                open(path, "rb").read(16)) else "empty"
def checked(act, *arguments):
    def run():
        if act(*arguments):
            raise OSError(ctypes.get_errno(), "")
    return run
attempt("mount proc", checked(libc.mount, b"proc", b"/tmp", b"proc", 0, None))
attempt("mount tmpfs", checked(libc.mount, b"x", b"/tmp", b"tmpfs", 0, None))
attempt("bind", checked(libc.mount, b"/etc", b"/proc/sys", None, 4096, None))
attempt("remount", checked(libc.mount, None, b"/proc/sys", None, 32 | 4096, None))
attempt("unmask", checked(libc.umount2, b"/proc/interrupts", 2))
attempt("umount /sys", checked(libc.umount2, b"/sys", 2))
NUMBERS = {"x86_64": 0, "aarch64": 1}[platform.machine()]
AT, buffer = -100, ctypes.create_string_buffer(256)
for name, numbers, arguments in (
    ("unshare user", (272, 97), (0x10000000,)), ("unshare mount", (272, 97), (0x20000,)),
    ("unshare cgroup", (272, 97), (0x02000000,)), ("clone user", (56, 220), (0x10000000 | 17, 0, 0, 0, 0)),
    ("setns", (308, 268), (0, 0)), ("keyctl", (250, 219), (0, -3, 0)), ("bpf", (321, 280), (0, None, 0)),
    ("add_key", (248, 217), (b"user", b"x", b"y", 1, -3)), ("perf_event_open", (298, 241), (None, 0, -1, -1, 0)),
    ("userfaultfd", (323, 282), (0,)), ("kexec_load", (246, 104), (0, 0, None, 0)),
    ("init_module", (175, 105), (None, 0, b"")), ("open_by_handle_at", (304, 265), (AT, buffer, 0)),
    ("reboot", (169, 142), (0, 0, 0)), ("swapon", (167, 224), (b"/x", 0)),
    ("clock_settime", (227, 112), (0, struct.pack("qq", 1, 0))), ("sethostname", (170, 161), (b"x", 1)),
    ("pivot_root", (155, 41), (b"/", b"/")), ("acct", (163, 89), (None,)), ("syslog", (103, 116), (3, buffer, 64)),
    ("open_tree", (428, 428), (AT, b"/", 1)), ("fsopen", (430, 430), (b"tmpfs", 0)),
    ("mount_setattr", (442, 442), (AT, b"/", 0, buffer, 32)), ("io_uring_setup", (425, 425), (1, buffer)),
    ("ptrace host", (101, 117), (16, given["pid"], 0, 0)), ("kill host", (62, 129), (given["pid"], 0)),
):
    attempt(name, lambda: call(numbers[NUMBERS], *arguments))
for name, kind, number in given["devices"]:
    def node():
        os.mknod("/tmp/" + name, kind | 0o600, os.makedev(*number))
        with open("/tmp/" + name, "r+b", buffering=0) as file:
            return file.read(16)
    attempt("device " + name, node)
for other in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../.."):
    found["root by " + other] = open(other + "/marker").read()
os.mkdir("/tmp/jail")
here = os.open("/", os.O_RDONLY)
os.chroot("/tmp/jail")
os.fchdir(here)
os.chdir("../../../../../../..")
found["root after chroot"] = open("marker").read()
"""
WRITES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/kcore", "/proc/mtrr",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/devices/devices.allow", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward",
)
READS = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware", "/proc/acpi", "/proc/scsi")
DEVICES = (
    ("loop", stat.S_IFBLK, (7, 0)), ("mem", stat.S_IFCHR, (1, 1)), ("kmsg", stat.S_IFCHR, (1, 11)),
    ("fuse", stat.S_IFCHR, (10, 229)), ("kvm", stat.S_IFCHR, (10, 232)), ("terminal", stat.S_IFCHR, (4, 1)),
)


def host_disks() -> list[tuple[str, int, tuple[int, int]]]:
    numbers = [Path(path).read_text().strip() for path in sorted(Path("/sys/block").glob("*/dev"))]
    return [(f"disk-{number}", stat.S_IFBLK, (int(number.split(":")[0]), int(number.split(":")[1])))
            for number in numbers if not number.startswith("7:")]


def test_nothing_of_the_kernels_can_be_changed_or_seen(ground: Ground) -> None:
    given = {"writes": WRITES, "reads": READS, "pid": os.getpid(), "devices": (*DEVICES, *host_disks())}
    code = attacker(KERNEL)
    done = ground.run(*PYTHON, "--", *code, json.dumps(given))
    found = json.loads(done.stdout.splitlines()[-1])
    if ground.user is not None and ground.user.name.endswith("nosub"):
        # Where owners are kept for a user with one id, a node is a file that says it is one.
        devices = {name: answer for name, answer in found.items() if name.startswith("device")}
        assert set(devices.values()) == {"done: b''"}
        found = {name: answer for name, answer in found.items() if name not in devices}
    roots = [found.pop(name) for name in list(found) if name.startswith("root")]
    assert set(roots) == {"container"}
    wanted = {"EPERM", "EACCES", "EROFS", "ENOENT", "ESRCH", "empty"}
    assert {name: answer for name, answer in found.items() if answer not in wanted} == {}
    assert found["unshare user"] == found["mount tmpfs"] == "EPERM"
    assert found["ptrace host"] == found["kill host"] == "ESRCH"


def test_capabilities_are_dockers_and_a_files_inheritable_set_gives_nothing(ground: Ground) -> None:
    """SECURITY 28 (CVE-2022-24769): with an inheritable set, an ordinary user gains what a file names."""
    code = r"""
    import shutil
    shutil.copy("/bin/busybox", "/tmp/f")
    everything = 0xFFFFFFFF
    # vfs_cap_data, revision 2: permitted and inheritable, low and high words (capability.h).
    attempt("mark", lambda: os.setxattr("/tmp/f", "security.capability",
                                        struct.pack("<IIIII", 0x02000000, 0, everything, 0, 0xFF)))
    def sets():
        return {line.split()[0]: int(line.split()[1], 16) for line in open("/proc/self/status") if line[:3] == "Cap"}
    found["own"] = sets()
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.dup2(theirs, 1)
        os.setgid(1000)
        os.setuid(1000)
        os.execv("/tmp/f", ["grep", "Cap", "/proc/self/status"])
    os.close(theirs)
    text = open(ours).read()
    found["other"] = {line.split()[0]: int(line.split()[1], 16) for line in text.splitlines()}
    """
    found = ground.attack(code)
    docker = mask(DEFAULT)
    assert found["own"] == {"CapInh:": 0, "CapPrm:": docker, "CapEff:": docker, "CapBnd:": docker, "CapAmb:": 0}
    if ground.user is not None and ground.user.name.endswith("nosub"):
        return  # there is one user, as far as the kernel knows, and nothing to be gained
    assert found["mark"].startswith("done")
    assert found["other"] == {"CapInh:": 0, "CapPrm:": 0, "CapEff:": 0, "CapBnd:": docker, "CapAmb:": 0}


# -- images that lead elsewhere (SECURITY 4, 7)


@pytest.mark.parametrize("name", ["root-runc", "root-embedded", "mapped-embedded"])
def test_symlinks_in_an_image_lead_nowhere_else(name: str, grounds: Grounds, target: Path) -> None:
    """For each, what is mounted there, or made there, or written there, would be the host's. Running it or refusing
    it are both answers."""
    ground = grounds.of(name)
    host = str(target)
    images = {
        "at-proc": ({"proc": link(host)}, ["proc"], ()), "at-dev": ({"dev": link(host)}, ["dev"], ()),
        "at-sys": ({"sys": link("/proc")}, ["sys"], ()), "at-etc": ({"etc": link(host)}, ["etc"], ()),
        "in-dev": ({"dev/null": link(f"{host}/file"), "dev/zero": link(f"{host}/new"), "dev/pts": link(host),
                    "dev/shm": link(host), "dev/console": link(f"{host}/new")}, [], ()),
        "in-etc": ({"etc/hosts": link(f"{host}/file"), "etc/resolv.conf": link(f"../../../..{host}/new"),
                    "etc/hostname": link("/proc/self/fd/1")}, [], ()),
        "at-volume": ({"data": link(host), "more": directory(), "more/x": link(host), "work": link(host)}, [],
                      ("VOLUME /data", "VOLUME /more/x/y", "VOLUME /../../../x", "WORKDIR /work/made")),
    }
    for image, (items, without, changes) in images.items():
        ground.image(image, items, *changes, without=without)
        done = ground.run("sh", "-c", "echo changed > /dev/null; echo x >> /etc/hosts; cat /marker", image=image,
                          code=None)
        assert done.stdout == "container" or done.returncode == 125, (image, done)
        assert contents(target) == {"file": "host"}, image


def test_a_volume_on_dev_unmasks_nothing(ground: Ground) -> None:
    """SECURITY 4 (CVE-2025-31133): what hides files of /proc is the container's own /dev/null."""
    trap = {"dev/null": link("/proc/sys/kernel/core_pattern"), "d": link("/dev")}
    for image, volume in (("unmask-dev", "/dev"), ("unmask-link", "/d")):
        ground.image(image, trap, f"VOLUME {volume}")
        done = ground.run("cat", "/proc/interrupts", "/proc/keys", image=image, code=None)
        assert done.stdout == "", done
        assert done.returncode in (0, 125), done


def test_nothing_is_mounted_over_what_is_the_kernels(rooted: Ground) -> None:
    """CVE-2019-16884: a sysctl, or a label, would be written to a file of the image's."""
    for turn, volume in enumerate(("/proc", "/proc/sys/net", "/p")):
        image = rooted.image(f"over-proc-{turn}", {"p": link("/proc/sys/net")}, f"VOLUME {volume}")
        words = ("create", "--network", "none", "--runtime", rooted.runtime, image, "true")
        number = rooted.lamina(*words).stdout.strip()
        done = rooted.lamina("start", number, code=None)
        assert done.returncode != 0, (volume, done)
        left = [*Path("/sys/fs/cgroup").glob(f"lamina/{number}"), *Path("/sys/fs/cgroup").glob(f"*/lamina/{number}")]
        assert left == [], "its group is still there"
        rooted.lamina("rm", "-v", number)


# -- who enters (SECURITY 5, 6, 66)

SPY = r"""
me, hosts = os.getpid(), {tuple(each) for each in json.loads(sys.argv[1])}
held, seen = [], set()
print("ready", flush=True)
def look(base):
    try:
        program = os.open(base + "exe", os.O_RDONLY)
    except OSError as error:
        seen.add(errno.errorcode[error.errno])
    else:
        status = os.fstat(program)
        seen.add(os.readlink(f"/proc/self/fd/{program}"))
        if (status.st_dev, status.st_ino) in hosts:
            held.append(program)
        else:
            os.close(program)
    for kind in ("root/", "cwd/"):
        if os.path.exists(base + kind + sys.argv[2]):
            found["host files by " + kind] = True
    try:
        for name in os.listdir(base + "fd"):
            status = os.stat(f"{base}fd/{name}")
            if stat.S_ISDIR(status.st_mode) and not os.path.samestat(status, os.stat("/")):  # that one is ours
                found["directory"] = [os.readlink(f"{base}fd/{name}"), status.st_dev, status.st_ino]
        with open(base + "maps") as maps, open(base + "mem", "r+b", buffering=0):
            if "python" in maps.read():
                found["memory of the interpreter"] = True
    except OSError:
        pass
while not os.path.exists("/tmp/stop"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (me, 1):
            look(f"/proc/{name}/")
for program in held:
    # Trying it would tell less: ETXTBSY as long as anybody on the machine runs it.
    if not os.fstatvfs(program).f_flag & os.ST_RDONLY:
        found["can be overwritten"] = os.readlink(f"/proc/self/fd/{program}")
found["host programs"] = len(held)
found["seen"] = sorted(seen)
"""


def host_programs() -> list[tuple[int, int]]:
    """Those that run when somebody enters."""
    found = [os.stat(path) for path in (sys.executable, "/usr/bin/python3", "/usr/sbin/runc")]
    return [(each.st_dev, each.st_ino) for each in found]


def test_who_enters_leaves_nothing_of_the_hosts_to_take(ground: Ground, target: Path) -> None:
    """CVE-2019-5736, CVE-2016-9962: a process spins on /proc/*/exe while commands are entered."""
    secret = str(target / "file").lstrip("/")
    spy = attacker(SPY)
    with ground.running(*PYTHON, "--", *spy, json.dumps(host_programs()), secret) as number:
        wait_for(lambda: "ready" in ground.lamina("logs", number).stdout)
        for turn in range(8):
            done = ground.exec(number, "/proc/self/exe" if turn % 4 == 0 else "/bin/id", code=None)
            assert "python" not in done.stdout.lower(), done
        ground.exec(number, "touch", "/tmp/stop", code=None)  # which may end with the container that it ends
        wait_for(lambda: "seen" in ground.lamina("logs", number).stdout)
        found = json.loads(ground.lamina("logs", number).stdout.splitlines()[-1])
    seen = found.pop("seen")
    assert seen, "it saw nobody come"
    programs = found.pop("host programs")
    # runc shows itself, through a mount that is read-only.
    assert found == {}
    assert programs == 0 or ground.runtime == "runc"


def test_a_container_of_the_runners_own_program_gets_nothing(ground: Ground) -> None:
    """CVE-2019-5736: the command is what the process was before, or an interpreter by that name."""
    for image, command in (("self-exe", "/proc/self/exe"), ("self-script", "/script"), ("self-twice", "/other")):
        items = {"script": Item("#!/proc/self/exe\n"), "other": Item("#!/script\n")}
        ground.image(image, items, f'ENTRYPOINT ["{command}"]', "CMD []")
        done = ground.lamina("run", "--rm", "--network", "none", "--runtime", ground.runtime, image, code=None)
        assert done.returncode != 0, done
        assert "python" not in (done.stdout + done.stderr).lower(), done


def test_descriptors_of_the_caller_stay_outside(ground: Ground, target: Path) -> None:
    """CVE-2024-21626: a working directory by way of a descriptor that was left open."""
    open_ones = [os.open(target, os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    try:
        code = attacker('found["open"] = sorted(n for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n))')
        done = ground.run(*PYTHON, "--", *code, descriptors=open_ones)
        assert json.loads(done.stdout) == {"open": ["0", "1", "2"]}
        with ground.running(*PYTHON) as number:
            done = ground.exec(number, *code, descriptors=open_ones)
            assert json.loads(done.stdout) == {"open": ["0", "1", "2"]}
            for each in (*open_ones[:2], 4, 5):
                done = ground.exec(number, "-w", f"/proc/self/fd/{each}", "--", "cat", "file", "marker",
                                   descriptors=open_ones, code=None)
                assert "host" not in done.stdout, (each, done)
        image = ground.image("work-fd", {}, f"WORKDIR /proc/self/fd/{open_ones[0]}")
        done = ground.run("cat", "file", image=image, descriptors=open_ones, code=None)
        assert "host" not in done.stdout, done
    finally:
        for each in open_ones:
            os.close(each)


def wait_for(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


# -- cp (SECURITY 2, 3, 16, 17)


@pytest.mark.parametrize("name", ["root-runc", "mapped-embedded"])
def test_cp_is_not_led_out_of_a_container_nor_runs_what_is_in_it(
    name: str, grounds: Grounds, target: Path
) -> None:
    """CVE-2018-15664, CVE-2019-14271, CVE-2026-41567: names are swapped all the time, also at a volume, and the
    image has programs and libraries of its own where a careless cp would look for some."""
    ground = grounds.of(name)
    trojan = Item("#!/bin/sh\ntouch /tmp/ran\n")
    names = ("bin/xz", "bin/tar", "bin/unpigz", "lamina.py", "encodings.py", "tarfile.py")
    image = ground.image("trojan", dict.fromkeys(names, trojan))
    code = f"""
    for top in ("/w", "/vol/w"):
        os.makedirs(top + "/d")
        open(top + "/d/file", "w").write("container")
        os.symlink("{target}", top + "/trap")
    print("ready", flush=True)
    while True:
        for top in (b"/w", b"/vol/w"):
            libc.renameat2(-100, top + b"/d", -100, top + b"/trap", 2)
            time.sleep(0.0002)
    """
    source, out = ground.home / "source", ground.home / "out"
    source.write_text("copied")
    source.chmod(0o644)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        tar.add(source, "unpacked")
    with ground.running("-v", "/vol", *PYTHON, "--", *attacker(code), image=image) as number:
        wait_for(lambda: "ready" in ground.lamina("logs", number).stdout)
        for turn in range(4):
            top = ("/w", "/vol/w")[turn % 2]
            out.unlink(missing_ok=True)
            ground.lamina("cp", "-L", f"{number}:{top}/d/file", out, code=None)
            assert not out.exists() or out.read_text() == "container"
            ground.lamina("cp", source, f"{number}:{top}/d/new", code=None)
        ground.lamina("cp", "-", f"{number}:/tmp", data=packed.getvalue())
        assert ground.exec(number, "cat", "/tmp/unpacked").stdout == "copied"
        assert "ran" not in ground.exec(number, "ls", "/tmp").stdout.split()


# -- the user database (SECURITY 18, 70)


@pytest.mark.parametrize("name", ["root-runc", "root-embedded"])
def test_a_user_database_that_is_none_is_neither_waited_for_nor_read_from_the_host(
    name: str, grounds: Grounds
) -> None:
    ground = grounds.of(name)
    databases = {
        "users-zero": link("/dev/zero"), "users-fifo": Item(kind=tarfile.FIFOTYPE), "users-binary": Item(b"\xff\0:" * 9999),
        "users-host": link("../../../../../../../etc/passwd"), "users-big": Item(b"x" * (5 << 20) + b"\napp:x:0:0::/:\n"),
    }
    for image, item in databases.items():
        ground.image(image, {"etc/passwd": item, "etc/group": item})
        done = ground.run("-u", "app", "--", "true", image=image, code=125, seconds=20)
        assert done.stderr.startswith(("lamina: 'app': no such user", "lamina: /etc/passwd: no regular file")), done
    for image in ("users-zero", "users-fifo"):
        done = ground.run("-u", "1000", "--", "true", image=image, code=None, seconds=20)
        assert done.returncode in (0, 125), done


@pytest.mark.parametrize("user", ["4294967296", "4294967295", "-1", "99999999999999999999", "0:4294967296", "+0", "root"])
def test_ids_do_not_wrap(user: str, grounds: Grounds) -> None:
    """CVE-2024-40635: one more than the largest is root again."""
    wrapped = {"etc/passwd": Item("root:x:4294967296:0::/:\n", 0o644)}
    ground = grounds.of("root-embedded")
    image = ground.image("wrapped", wrapped)
    done = ground.run("-u", user, "--", "true", image=image, code=125)
    assert "out of range" in done.stderr or "no such user" in done.stderr, done
