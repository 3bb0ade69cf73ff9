"""A container of a user with one id: its owners, against real root's, and what a hostile program gets to see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY, OrdinaryUser

from lamina.layer.apply import apply
from lamina.layer.entry import Entry, Kind
from lamina.layer.root import DirectoryRoot, Ownership
from lamina.runtime.ownership import read_owner

pytestmark = pytest.mark.privileged

CONTAINER = (REPOSITORY / "tests" / "privileged" / "single_id.py").read_text(encoding="utf-8")
APPLETS = ("sh", "stat", "ls", "chown", "chgrp", "chmod", "mkdir", "touch", "ln", "tar", "cp", "mv", "rm", "id", "find",
           "mknod", "mkfifo", "chroot", "cat", "test", "sleep", "cut")
SECONDS = 60


def fill(tree: Path) -> Path:
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin" / "busybox")
    for name in APPLETS:
        (tree / "bin" / name).symlink_to("busybox")
    return tree


@pytest.fixture
def top(user_without_ranges: OrdinaryUser) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lamina-single-"))
    subprocess.run(["chown", f"{user_without_ranges.uid}:{user_without_ranges.gid}", directory], check=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def tree(user_without_ranges: OrdinaryUser, top: Path) -> Path:
    found = fill(top / "tree")
    subprocess.run(["chown", "-hR", f"{user_without_ranges.uid}:{user_without_ranges.gid}", found], check=True)
    return found


def contained(user: OrdinaryUser, command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    document = json.dumps({"command": command, **settings}, default=str)
    return subprocess.run(
        user.python("-c", CONTAINER, document), capture_output=True, text=True, check=False, timeout=SECONDS,
    )


def script(user: OrdinaryUser, tree: Path, text: str, **settings: object) -> str:
    done = contained(user, ["/bin/sh", "-ec", textwrap.dedent(text)], tree=tree, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_root(text: str) -> str:
    """The same with real owners."""
    with tempfile.TemporaryDirectory(prefix="lamina-owned-") as directory:
        os.chmod(directory, 0o755)
        tree = fill(Path(directory) / "tree")
        done = subprocess.run(
            [shutil.which("chroot") or "chroot", tree, "/bin/sh", "-ec", "umask 022; cd /\n" + textwrap.dedent(text)],
            capture_output=True, text=True, check=False, env={"PATH": "/bin", "HOME": "/"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("text", [
    "echo 1 > f; chown 1000:1001 f; stat -c %u:%g f; ls -ln f | cut -c1-36",
    "touch f; chown 5 f; chgrp 6 f; chown 7:8 f; chown 0:0 f; chown 9 f; stat -c %u:%g f",
    "touch f; chmod 6755 f; chown 1:1 f; stat -c '%u:%g %a' f",
    "mkdir -p a/b/c; touch a/b/f; ln -s f a/b/l; chown -hR 1000:1000 a; chown 3 a/b/c; find a -exec stat -c '%n %u:%g' {} + ",
    "touch f; ln -s f l; chown 4:5 l; chown -h 6:7 l; stat -c %u:%g l; stat -Lc %u:%g l",
    "touch f; ln -s f l; chown -h 6:7 l; rm l; ln -s elsewhere l; stat -c %u:%g l",
    "ln -s x l; chown -h 6:7 l; mv l m; mkdir d; mv m d/n; stat -c %u:%g d/n; ln -s x m; stat -c %u:%g m; mv m d/n; stat -c %u:%g d/n",
    "ln -s x l; chown -h 6:7 l; rm l; ln -s x l; stat -c %u:%g l; chown -h 8 l; ln -s x l 2>/dev/null || stat -c %u:%g l",
    "mkfifo p; chown 8:9 p; stat -c '%F %u:%g' p; ln p q; stat -c %h q",
    """mkdir d; touch d/f; chown 1:2 d d/f; chmod 4711 d/f; ln -s f d/l; chown -h 3:4 d/l; tar cf t d; mkdir x
    tar xpf t -C x; cd x; find d -exec stat -c '%n %u:%g %a' {} + """,
    "mkdir d; touch d/f; chown 1:2 d d/f; ln -s f d/l; chown -h 3:4 d/l; cp -a d e; find e -exec stat -c '%n %u:%g' {} + ",
    "mkdir d; touch f; chown 1:2 f; mv f d/g; stat -c %u:%g d/g; mv d e; stat -c %u:%g e/g; ln e/g h; chown 3 h; stat -c %u e/g",
    "mkdir -p d/e; touch f; chown 11:12 f; cd d/e; stat -c %u:%g ../../f ./../../f /f; ln -s /f l; stat -Lc %u:%g l",
    """mkdir -p d/bin; cp bin/busybox d/bin/sh; ln -s sh d/bin/stat; ln -s sh d/bin/chown; touch d/f
    chroot d /bin/sh -c 'chown 3:4 /f; cd bin; chown 5 sh; stat -c %u:%g /f ../f sh'; stat -c %u:%g d/f""",
    "touch f; chown 3:4 f; exec 5< f; stat -Lc %u:%g /proc/self/fd/5; rm f; stat -Lc %u:%g /proc/self/fd/5",
    "touch f; chown 1 missing 2>&1 || true; chown 1 f/x 2>&1 || true; stat -c %u f; ln -s loop loop; stat -Lc %u loop 2>&1 || true",
    "mknod n c 1 3; chown 5:6 n; mknod b b 7 1; stat -c '%n %F %t:%T %u:%g' n b; test -c n; test -b b",
])
def test_scripts_see_the_owners_that_root_would_see(user_without_ranges: OrdinaryUser, tree: Path, text: str) -> None:
    prepared = "mkdir -p /proc\n" + text
    wanted = "3:4\n3:4\n" if "/proc/" in text else as_root(prepared)  # which has no /proc
    assert script(user_without_ranges, tree, prepared) == wanted
    assert wanted


def test_without_a_supervisor_the_kernel_refuses(user_without_ranges: OrdinaryUser, tree: Path) -> None:
    """What all of this is for: if this works one day, nothing of it is needed."""
    done = contained(
        user_without_ranges, ["/bin/sh", "-c", "touch f; chown 1000 f"], tree=tree, is_supervised=False
    )
    assert done.returncode != 0
    assert "Invalid argument" in done.stderr


def test_kept_owners_stay_when_the_container_is_gone(user_without_ranges: OrdinaryUser, tree: Path) -> None:
    script(user_without_ranges, tree, """
        mkdir d; touch d/f; ln -s f d/l; mknod d/n c 5 1; chown -R 1000:1001 d; chown -h 7:8 d/l; chmod 4755 d/f
    """)
    assert read_owner(str(tree / "d/f")) == (1000, 1001)
    assert (tree / "d/f").stat().st_uid == user_without_ranges.uid
    with DirectoryRoot(tree, owner=Ownership.IGNORE) as root:
        found = {name: root.look(f"d/{name}") for name in root.names("d")}
    assert {name: (each.uid, each.gid) for name, each in found.items()} == {
        "f": (1000, 1001), "l": (7, 8), "n": (1000, 1001),
    }
    assert (found["n"].kind, found["n"].major, found["n"].minor) == (Kind.CHAR, 5, 1)
    assert not found["f"].xattrs
    assert script(user_without_ranges, tree, "stat -c %u:%g d/f d/l d/n") == "1000:1001\n7:8\n1000:1001\n"


def test_an_image_has_its_owners_and_a_layer_what_changed(user_without_ranges: OrdinaryUser, top: Path) -> None:
    lower, upper, work, tree = (top / name for name in ("lower", "upper", "work", "tree"))
    fill(lower)
    with DirectoryRoot(lower, owner=Ownership.IGNORE) as root:
        apply([
            Entry("app", Kind.DIRECTORY, 0o755, 1000, 1001), Entry("app/f", Kind.FILE, 0o644, 1000, 1001),
            Entry("app/other", Kind.FILE, 0o644, 33, 33), Entry("app/l", Kind.SYMLINK, 0o777, 5, 6, linkname="f"),
            Entry("app/n", Kind.CHAR, 0o666, 7, 8, major=1, minor=3), Entry("app/p", Kind.FIFO, 0o666, 9, 10),
        ], root)
    for directory in (upper, work, tree):
        directory.mkdir()
    owner = f"{user_without_ranges.uid}:{user_without_ranges.gid}"
    subprocess.run(["chown", "-hR", owner, lower, upper, work, tree], check=True)
    seen = script(user_without_ranges, tree, """
        stat -c '%n %u:%g %F' app app/*; chown 12 app/f; chown -h 13 app/l; chown 0:0 app/other; touch app/new; mv app/n app/m
        stat -c '%n %u:%g' app app/*
    """, overlay=f"lowerdir={lower},upperdir={upper},workdir={work},userxattr")
    assert seen.splitlines() == [
        "app 1000:1001 directory", "app/f 1000:1001 regular empty file", "app/l 5:6 symbolic link",
        "app/n 7:8 character special file", "app/other 33:33 regular empty file", "app/p 9:10 fifo",
        "app 1000:1001", "app/f 12:1001", "app/l 13:6", "app/m 7:8", "app/new 0:0", "app/other 0:0", "app/p 9:10",
    ]
    subprocess.run(["chown", "-hR", "0:0", upper], check=True)  # whose files without a note are root's own
    with DirectoryRoot(upper, owner=Ownership.IGNORE) as root:
        found = {name: root.look(f"app/{name}") for name in root.names("app")}
        above = root.look("app")
    assert {name: (each.uid, each.gid) for name, each in found.items()} == {
        "f": (12, 1001), "l": (13, 6), "m": (7, 8), "n": (0, 0), "new": (0, 0), "other": (0, 0),
    }
    assert found["n"].major == 0, "a whiteout"
    assert (above.uid, above.gid) == (1000, 1001)


def test_without_the_capability_a_chown_is_refused(user_without_ranges: OrdinaryUser, tree: Path) -> None:
    done = contained(
        user_without_ranges, ["/bin/sh", "-c", "touch f; chown 0:0 f && echo same; chown 1000 f"],
        tree=tree, capabilities=False,
    )
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    assert read_owner(str(tree / "f")) is None


def test_a_container_of_another_user_is_that_user(user_without_ranges: OrdinaryUser, tree: Path) -> None:
    seen = script(user_without_ranges, tree, """
        id; sh -c 'id -u; echo $(id -g)'
        umask 027; touch f; mkdir d; ln -s f l; mkfifo p; echo text > d/e; cat d/e
        stat -c '%n %u:%g %a' f d p d/e; stat -c %u:%g l
        chown 0 f 2>/dev/null || echo refused
        chown 1000:5 f; stat -c %u:%g f
    """, assume=[1000, 1001, [5]])
    assert seen.splitlines() == [
        "uid=1000 gid=1001 groups=5", "1000", "1001", "text", "f 1000:1001 640", "d 1000:1001 750", "p 1000:1001 640",
        "d/e 1000:1001 640", "1000:1001", "refused", "1000:5",
    ]


def test_if_the_supervisor_dies_calls_fail_and_nobody_hangs(user_without_ranges: OrdinaryUser, tree: Path) -> None:
    done = contained(
        user_without_ranges, ["/bin/sh", "-c", "chown 1000 bin; echo $?; stat bin 2>&1; echo done"], tree=tree, stop_after=3,
    )
    assert done.returncode == 0, done.stderr
    assert "Function not implemented" in done.stdout + done.stderr
    assert done.stdout.endswith("done\n")


# -- programs that mean harm, or are in their rights to ask strange things

PRELUDE = textwrap.dedent("""
    import ctypes, errno, os, sys, threading, time
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *arguments):
        libc.syscall.restype = ctypes.c_long
        converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        if libc.syscall(ctypes.c_long(NUMBERS[name]), *converted) < 0:
            return errno.errorcode[ctypes.get_errno()]
        return "OK"
    from lamina.runtime.rawcall import NUMBERS
    FDCWD, NOFOLLOW, EMPTY = -100, 0x100, 0x1000
    def owner(path, **how):
        status = os.stat(path, **how)
        return status.st_uid, status.st_gid
""")


def program(user: OrdinaryUser, where: Path, text: str, **settings: object) -> list[str]:
    """Python code in the tests' own root, with ``where`` as the working directory; what it prints."""
    interpreter = user.python("x")[-2]
    path = next(item for item in user.python("x") if item.startswith("PYTHONPATH="))
    code = f"{PRELUDE}\nos.chdir({str(where)!r})\n{textwrap.dedent(text)}"
    done = contained(user, ["/usr/bin/env", path, interpreter, "-c", code], **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_way_to_ask_tells_the_same(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        open("f", "w").close(); os.mkdir("d"); os.symlink("f", "l")
        os.chown("f", 1000, 1001); os.chown("d", 3, 4); os.chown("l", 5, 6, follow_symlinks=False)
        here, fd, path = os.open(".", os.O_PATH), os.open("f", os.O_RDONLY), os.open("f", os.O_PATH)
        link = os.open("l", os.O_PATH | os.O_NOFOLLOW)
        print(owner("f"), owner(fd), owner(path), owner("f", dir_fd=here), owner(os.path.abspath("f")), owner("l"))
        print(os.lstat("l").st_uid, owner("l", dir_fd=here, follow_symlinks=False), owner(link), owner(f"/proc/self/fd/{fd}"))
        os.chown(fd, 7, -1); print(owner("f"))
        os.chown("f", -1, 8, dir_fd=here); print(owner("f"))
        print(call("fchownat", path, b"", 9, 10, EMPTY), owner("f"), call("fchownat", here, b"l", 11, 12, NOFOLLOW), owner("l"))
        print(call("fchown", path, 1, 1), os.lstat("l").st_uid)
        os.chdir("d"); print(call("fchownat", FDCWD, b"", 13, 14, EMPTY), owner("."), owner("../f"))
        buffer = ctypes.create_string_buffer(256)
        print(call("statx", FDCWD, b"../f", 0, 0x7ff, buffer), int.from_bytes(buffer.raw[20:24], "little"))
        print(call("statx", path, None, EMPTY, 0x7ff, buffer), os.listxattr("../f"), os.listxattr(fd))
    """) == [
        " ".join(["(1000, 1001)"] * 6), "5 (5, 6) (5, 6) (1000, 1001)", "(7, 1001)", "(7, 8)",
        "OK (9, 10) OK (9, 10)", "EBADF 11", "OK (13, 14) (9, 10)", "OK 9", "OK [] []",
    ]


def test_errors_are_the_kernels(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        import mmap
        open("f", "w").close(); os.chown("f", 5, 5); os.symlink("loop", "loop")
        fd = os.open("f", os.O_RDONLY); os.close(fd)
        for path in (b"missing", b"f/x", b"loop", b"x" * 256, b"x/" * 2047 + b"x", b"y" * 5000, b"", ctypes.c_void_p(0),
                     ctypes.c_void_p(8), ctypes.c_void_p(2**63 - 4096), ctypes.c_void_p(2**64 - 1)):
            print(call("fchownat", FDCWD, path, 1, 1, 0), call("newfstatat", FDCWD, path, ctypes.create_string_buffer(256), 0))
        print(call("fchown", fd, 1, 1), call("fchownat", fd, b"f", 1, 1, 0), call("fchown", -1, 1, 1))
        print(call("fchownat", FDCWD, b"f", 1, 1, 0x8000), call("newfstatat", FDCWD, b"f", ctypes.c_void_p(0), 0))
        print(call("newfstatat", FDCWD, b"f", ctypes.c_void_p(2**63), 0), call("statx", FDCWD, b"f", 0, 0x7ff, ctypes.c_void_p(8)))
        print(owner("f"))
    """) == [
        "ENOENT ENOENT", "ENOTDIR ENOTDIR", "ELOOP ELOOP", "ENAMETOOLONG ENAMETOOLONG", "ENOENT ENOENT",
        "ENAMETOOLONG ENAMETOOLONG", "ENOENT ENOENT", *["EFAULT EFAULT"] * 4, "EBADF EBADF EBADF", "EINVAL EFAULT",
        "EFAULT EFAULT", "(5, 5)",
    ]


def test_a_path_that_ends_where_memory_ends_is_read(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        import mmap
        open("f", "w").close()
        libc.mmap.restype = ctypes.c_void_p
        base = libc.mmap(None, ctypes.c_size_t(8192), 3, 0x22, -1, 0)
        libc.munmap(ctypes.c_void_p(base + 4096), ctypes.c_size_t(4096))
        ctypes.memmove(base + 4094, b"f\\0", 2)
        print(call("fchownat", FDCWD, ctypes.c_void_p(base + 4094), 5, 6, 0), owner("f"))
        ctypes.memmove(base + 4094, b"ff", 2)
        print(call("fchownat", FDCWD, ctypes.c_void_p(base + 4094), 5, 6, 0))
    """) == ["OK (5, 6)", "EFAULT"]


def test_a_swapped_symlink_reaches_nothing_outside(user_without_ranges: OrdinaryUser, top: Path, tree: Path) -> None:
    """A directory of the container becomes a symlink to one outside of it, over and over, while it is chowned."""
    outside = top / "outside"
    outside.mkdir()
    (outside / "f").touch()
    subprocess.run(["chown", "-R", f"{user_without_ranges.uid}:{user_without_ranges.gid}", outside], check=True)
    up = "/".join([".."] * 12)
    script(user_without_ranges, tree, f"""
        mkdir real; touch real/f; ln -s {outside} away; ln -s {up}{outside} up; mv real d
        (for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5 6 7 8; do mv d real; mv away d; mv d away; mv up d; mv d up; mv real d; done; done) &
        for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5 6 7 8; do
            chown 66:66 d/f /d/f d/../{up}{outside}/f {outside}/f /proc/1/root{outside}/f /proc/1/cwd/../..{outside}/f 2>/dev/null || true
        done; done; wait
    """)
    assert os.listxattr(outside) == os.listxattr(outside / "f") == []
    with DirectoryRoot(top, owner=Ownership.IGNORE) as root:
        assert (root.look("outside/f").uid, root.look("outside").uid) == (user_without_ranges.uid,) * 2


def test_read_only_files_stay_as_they_are(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        from lamina.snapshot import syscalls
        os.mkdir("m"); open("m/f", "w").close()
        syscalls.mount("m", "m", None, syscalls.MS_BIND)
        syscalls.mount(None, "m", None, syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY)
        print(call("fchownat", FDCWD, b"m/f", 5, 5, 0), owner("m/f"), call("fchownat", FDCWD, b"/etc/hostname", 5, 5, 0))
    """, added=["SYS_ADMIN"]) == ["EROFS (0, 0) EINVAL"]


def test_credentials_are_inherited_and_not_taken_back(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        import subprocess
        os.setgroups([7, 6]); os.setresgid(20, 21, 22); os.setresuid(10, 11, 12)
        print(os.getresuid(), os.getresgid(), os.getgroups())
        print(subprocess.run(["/usr/bin/id", "-u"], capture_output=True, text=True).stdout.strip())
        for attempt in (lambda: os.setuid(0), lambda: os.setgroups([]), lambda: os.setresuid(0, -1, -1)):
            try: attempt(); print("taken back")
            except OSError as error: print(errno.errorcode[error.errno])
        os.setuid(12); print(os.getresuid())
    """) == ["(10, 11, 12) (20, 21, 22) [6, 7]", "11", "EPERM", "EPERM", "EPERM", "(10, 12, 12)"]


def test_new_files_are_their_makers(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        os.umask(0)
        os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)
        fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        os.write(fd, b"text"); os.lseek(fd, 0, 0)
        print(os.read(fd, 9), os.get_inheritable(fd), owner("f"), oct(os.stat("f").st_mode))
        try: os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError: print("there")
        print(open("f", "a").write("more"), open("f").read(), owner("f"))
        os.mkdir("s", 0o777); os.chmod("s", 0o2777); os.chown("s", -1, 5); os.mkdir("s/t", 0o755)
        print(owner("s/t"), oct(os.stat("s/t").st_mode), call("openat", FDCWD, b"no/where", os.O_CREAT | 1, 0o600))
        print([call("openat", FDCWD, b"g%d" % n, os.O_CREAT, 0o600) for n in range(2)], owner("g1"))
    """) == [
        "b'text' False (5, 5) 0o100400", "there", "4 textmore (5, 5)", "(5, 5) 0o42755 ENOENT", "['OK', 'OK'] (5, 5)",
    ]


def test_a_set_uid_program_runs_as_its_owner(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        import shutil, subprocess
        for name, owner, mode in (("u", 77, 0o4755), ("g", 78, 0o2755), ("plain", 79, 0o755), ("root", 0, 0o4755)):
            shutil.copy("/usr/bin/id", name); os.chown(name, owner, owner); os.chmod(name, mode)
        os.setgroups([]); os.setresgid(5, 5, 5); os.setresuid(5, 0, 5); os.setresuid(5, 5, 0)
        for name in ("u", "g", "plain", "root"):
            print([subprocess.run([f"./{name}", flag], capture_output=True, text=True).stdout.strip() for flag in ("-u", "-g", "-ru")])
        print(os.getresuid())
    """) == ["['77', '5', '5']", "['5', '78', '5']", "['5', '5', '5']", "['0', '5', '5']", "(5, 5, 0)"]


def test_a_swapped_fifo_stops_nobody(user_without_ranges: OrdinaryUser, top: Path) -> None:
    """Opening one waits for its other end, which is a way to make a supervisor wait for ever."""
    assert program(user_without_ranges, top, """
        os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)
        end = time.monotonic() + 1.5
        def swap():
            number = 0
            while time.monotonic() < end:
                number += 1
                os.mkfifo(f"fifo{number}"); os.rename(f"fifo{number}", "f"); os.unlink("f")
        if (child := os.fork()) == 0:
            swap(); os._exit(0)
        count = 0
        while time.monotonic() < end:
            try: os.close(os.open("f", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600))
            except OSError: pass
            count += 1
        os.waitpid(child, 0)
        print(count > 50)
    """) == ["True"]


def test_calls_from_many_threads_are_all_answered(user_without_ranges: OrdinaryUser, top: Path) -> None:
    assert program(user_without_ranges, top, """
        def work(number):
            for step in range(100):
                name = f"{number}-{step}"
                open(name, "w").close(); os.chown(name, number, step)
                assert owner(name) == (number, step)
                os.unlink(name)
            finished.append(number)
        finished = []
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        for _ in range(100):
            if os.fork() == 0:
                threading.Thread(target=os.stat, args=(".",)).start(); os._exit(0)
            os.wait()
        print(sorted(finished))
    """) == [str(list(range(8)))]
