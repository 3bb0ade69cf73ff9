"""cp, with containers that attack it: out of them and into them, while they run and while they do not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from tests.conftest import OrdinaryUser
from tests.privileged.standin import INSIDE, standing

from lamina.cli.arguments import Arguments, VerbParser
from lamina.cli.copying import CP
from lamina.cli.session import Session
from lamina.engine import copying
from lamina.engine.engine import Engine
from lamina.errors import Conflict, Denied, InvalidInput, LaminaError, NotFound
from lamina.layer.entry import InvalidLayer
from lamina.oci.digest import Digest
from lamina.runtime.container import Container, ContainerDirectory, ContainerNotRunning, ContainerRunning
from lamina.runtime.options import ContainerOptions
from lamina.runtime.reach import Bind, Reach
from lamina.runtime.records import ContainerTable
from lamina.runtime.volume import parse_volume
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.namespace import current_identity
from lamina.snapshot.snapshotter import Mount
from lamina.testing.bench import Bench
from lamina.testing.images import directory, file

pytestmark = pytest.mark.privileged

PYTHON = (sys.executable,)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root filesystem."""
    root = tmp_path / "root"
    for name in ("etc", "work/d", "data", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "work/d/f").write_text("container")
    (root / "etc/hosts").write_text("hosts of the container")
    return root


@pytest.fixture
def reach(root: Path) -> Iterator[Reach]:
    with standing(PYTHON, root) as state, Reach.running(state) as reach:
        yield reach


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


# -- docker's rules, out


def test_a_file_goes_into_a_directory_or_becomes_one_that_is_named(reach: Reach, out: Path) -> None:
    copying.copy_out(reach, "web", "/work/d/f", str(out))
    copying.copy_out(reach, "web", "work/d/f", str(out / "new"))
    (out / "old").write_text("longer than what comes")
    copying.copy_out(reach, "web", "/work/../work/d/f", str(out / "old"))
    assert {name: (out / name).read_text() for name in tree(out)} == dict.fromkeys(("f", "new", "old"), "container")
    with pytest.raises(InvalidInput, match="no such directory"):
        copying.copy_out(reach, "web", "/work/d/f", f"{out}/missing/")
    with pytest.raises(NotFound, match="does not exist"):
        copying.copy_out(reach, "web", "/work/d/f", str(out / "missing" / "f"))
    with pytest.raises(NotFound, match="web:/nope: could not find the file"):
        copying.copy_out(reach, "web", "/nope", str(out))
    with pytest.raises(InvalidInput, match="not a directory"):
        copying.copy_out(reach, "web", "/work/d/f/", str(out))
    with pytest.raises(InvalidInput, match="not a directory"):
        copying.copy_out(reach, "web", "/work/d/f", f"{out}/old/")


def test_a_directory_goes_into_one_that_exists_and_becomes_one_that_does_not(reach: Reach, out: Path) -> None:
    copying.copy_out(reach, "web", "/work", str(out))
    assert tree(out) == ["work", "work/d", "work/d/f"]
    copying.copy_out(reach, "web", "/work", str(out / "new"))
    assert tree(out / "new") == ["d", "d/f"]
    copying.copy_out(reach, "web", "/work/.", str(out / "new"))
    assert tree(out / "new") == ["d", "d/f"]
    copying.copy_out(reach, "web", "/work/.", str(out / "newer"))
    assert tree(out / "newer") == ["d", "d/f"]
    (out / "file").touch()
    with pytest.raises(InvalidInput, match="cannot copy the directory"):
        copying.copy_out(reach, "web", "/work", str(out / "file"))
    (out / "mixed" / "d" / "f").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="cannot overwrite a directory with a file"):
        copying.copy_out(reach, "web", "/work/.", str(out / "mixed"))
    shutil.rmtree(out / "mixed" / "d")
    (out / "mixed" / "d").touch()
    with pytest.raises(InvalidInput, match="cannot overwrite a file with a directory"):
        copying.copy_out(reach, "web", "/work/.", str(out / "mixed"))


def test_a_symlink_is_copied_as_one_unless_it_is_followed(reach: Reach, root: Path, out: Path) -> None:
    (root / "work/link").symlink_to("/work/d/f")
    (root / "work/to-d").symlink_to("d")
    copying.copy_out(reach, "web", "/work/link", str(out))
    assert os.readlink(out / "link") == "/work/d/f"
    (out / "link").unlink()
    copying.copy_out(reach, "web", "/work/link", str(out), follow=True)
    assert not (out / "link").is_symlink()
    assert (out / "link").read_text() == "container"
    copying.copy_out(reach, "web", "/work/to-d/.", str(out / "contents"))
    assert tree(out / "contents") == ["f"]


def test_a_container_cannot_name_files_of_the_host(reach: Reach, root: Path, out: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    (root / "evil").symlink_to(secret)
    (root / "up").symlink_to("../" * 40 + str(secret))
    (root / "magic").symlink_to("/proc/self/root" + str(secret))
    for name in ("evil", "up", "magic"):
        with pytest.raises(NotFound):
            copying.copy_out(reach, "web", f"/{name}", str(out), follow=True)
    with pytest.raises(NotFound):
        copying.copy_out(reach, "web", "/evil/../secret", str(out))
    assert tree(out) == []


def test_files_become_the_callers_and_lose_the_rights_of_an_owner_they_lose(
    reach: Reach, root: Path, out: Path
) -> None:
    for name, uid, mode in (("theirs", 1234, 0o4755), ("roots", 0, 0o4755)):
        (root / "work" / name).write_text("x")
        os.chown(root / "work" / name, uid, uid)
        (root / "work" / name).chmod(mode)
    os.setxattr(root / "work/theirs", "user.note", b"kept")
    copying.copy_out(reach, "web", "/work/.", str(out))
    found = {name: (out / name).stat() for name in ("theirs", "roots")}
    assert {name: (each.st_uid, stat.S_IMODE(each.st_mode)) for name, each in found.items()} == {
        "theirs": (0, 0o755), "roots": (0, 0o4755)}
    assert os.getxattr(out / "theirs", "user.note") == b"kept"
    copying.copy_out(reach, "web", "/work/theirs", str(out / "kept"), keeps_ids=True)
    assert ((out / "kept").stat().st_uid, stat.S_IMODE((out / "kept").stat().st_mode)) == (1234, 0o4755)


def test_links_devices_and_times_go_over_and_sockets_do_not(reach: Reach, root: Path, out: Path) -> None:
    os.link(root / "work/d/f", root / "work/again")
    os.mknod(root / "work/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "work/socket"))
    os.utime(root / "work/d", ns=(1_000_000_007, 1_000_000_007))
    copying.copy_out(reach, "web", "/work", str(out))
    assert tree(out / "work") == ["again", "d", "d/f", "null"]
    assert (out / "work/again").stat().st_ino == (out / "work/d/f").stat().st_ino
    assert (out / "work/null").stat().st_rdev == os.makedev(1, 3)
    assert (out / "work/d").stat().st_mtime_ns == 1_000_000_007


def test_the_whole_root_is_copied_without_what_the_kernel_shows_in_it(root: Path, out: Path) -> None:
    before = """
        for name, kind in (("proc", "proc"), ("dev", "tmpfs"), ("tmp", "tmpfs")):
            os.makedirs(f"{root}/{name}", exist_ok=True)
            syscalls.mount(kind, f"{root}/{name}", kind, 0)
        open(f"{root}/dev/node", "w").close()
        open(f"{root}/tmp/file", "w").close()
    """
    with standing(PYTHON, root, before=before) as state, Reach.running(state) as reach:
        copying.copy_out(reach, "web", "/", str(out / "all"))
        assert tree(out / "all") == [
            "data", "dev", "etc", "etc/hosts", "proc", "tmp", "tmp/file", "work", "work/d", "work/d/f"]
        copying.copy_out(reach, "web", "/proc/version", str(out))
    assert (out / "version").read_text().startswith("Linux"), "no size, but content"


# -- into a container


def test_what_goes_in_follows_the_same_rules(reach: Reach, root: Path, out: Path) -> None:
    (out / "src/sub").mkdir(parents=True)
    (out / "src/sub/x").write_text("x")
    copying.copy_in(reach, "web", str(out / "src"), "/data")
    assert tree(root / "data") == ["src", "src/sub", "src/sub/x"]
    copying.copy_in(reach, "web", f"{out}/src/.", "/data")
    assert "sub/x" in tree(root / "data")
    copying.copy_in(reach, "web", str(out / "src"), "/new")
    assert tree(root / "new") == ["sub", "sub/x"]
    copying.copy_in(reach, "web", str(out / "src/sub/x"), "/etc/hosts")
    assert (root / "etc/hosts").read_text() == "x"
    for source, target, complaint in (
        (str(out / "src"), "/etc/hosts", "cannot copy the directory"),
        (str(out / "src/sub/x"), "/missing/", "no such directory"),
        (str(out / "src/sub/x"), "/missing/x", "no such directory in the container"),
        (str(out / "src/sub/x"), "/etc/hosts/", "not a directory"),
        (f"{out}/src/sub/x/.", "/data", "not a directory"),
        (str(out / "nope"), "/data", "no such file or directory"),
    ):
        with pytest.raises(LaminaError, match=complaint):
            copying.copy_in(reach, "web", source, target)


def test_what_goes_in_is_roots_unless_its_owners_are_kept(reach: Reach, root: Path, out: Path) -> None:
    (out / "x").write_text("x")
    os.chown(out / "x", 1234, 1234)
    (out / "x").chmod(0o6755)
    copying.copy_in(reach, "web", str(out / "x"), "/data")
    found = (root / "data/x").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o755)
    copying.copy_in(reach, "web", str(out / "x"), "/data", keeps_ids=True)
    found = (root / "data/x").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 1234, 0o6755)


def test_directories_that_are_there_keep_what_they_are(reach: Reach, root: Path, out: Path) -> None:
    """CVE-2021-41089: a copy changed the modes of existing directories."""
    (root / "data/sub").mkdir(mode=0o700)
    os.chown(root / "data/sub", 77, 78)
    os.chown(root / "data", 5, 6)
    (out / "sub").mkdir(mode=0o777)
    (out / "sub/new").mkdir(mode=0o751)
    (out / "sub/new").chmod(0o751)
    copying.copy_in(reach, "web", f"{out}/.", "/data")
    kept, top, new = ((root / name).stat() for name in ("data/sub", "data", "data/sub/new"))
    assert (kept.st_uid, kept.st_gid, stat.S_IMODE(kept.st_mode)) == (77, 78, 0o700)
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (5, 6, 0o755)
    assert stat.S_IMODE(new.st_mode) == 0o751


def test_symlinks_of_the_container_lead_into_the_container(
    reach: Reach, root: Path, out: Path, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "x").write_text("host")
    (out / "x").write_text("new")
    (root / "to-host").symlink_to(host)
    (root / "to-data").symlink_to("/data")
    (root / "to-x").symlink_to(host / "x")
    copying.copy_in(reach, "web", str(out / "x"), "/to-data")
    assert (root / "data/x").read_text() == "new"
    for target in ("/to-host", "/to-host/x", "/to-x"):
        with pytest.raises(LaminaError):
            copying.copy_in(reach, "web", str(out / "x"), target)
    with pytest.raises(LaminaError):
        copying.stream_in(reach, "web", tar_of_link(host), "/data")
    assert (host / "x").read_text() == "host"
    assert tree(host) == ["x"]


def tar_of_link(host: Path) -> io.BytesIO:
    """A link to a directory of the host, and a file through it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(host)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("link/planted"))
        tar.addfile(tarfile.TarInfo("link/x"))
    out.seek(0)
    return out


def test_nothing_goes_through_a_symlink_of_the_host(reach: Reach, out: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (out / "d").symlink_to(host)
    with pytest.raises(InvalidInput, match="cannot overwrite a file with a directory"):
        copying.copy_out(reach, "web", "/work/.", str(out))
    assert tree(host) == []


def test_read_only_and_mounted_files_are_explained(root: Path, out: Path) -> None:
    before = """
        os.makedirs(f"{root}/ro")
        syscalls.mount("tmpfs", f"{root}/ro", "tmpfs", syscalls.MS_RDONLY)
        syscalls.mount(f"{root}/work/d/f", f"{root}/etc/hosts", None, syscalls.MS_BIND)
    """
    (out / "x").write_text("x")
    with standing(PYTHON, root, before=before) as state, Reach.running(state) as reach:
        with pytest.raises(Denied, match="mounted read-only"):
            copying.copy_in(reach, "web", str(out / "x"), "/ro")
        with pytest.raises(Conflict, match="something is mounted there"):
            copying.copy_in(reach, "web", str(out / "x"), "/etc/hosts")


# -- streams


def test_streams_go_out_and_in_with_their_owners(reach: Reach, root: Path) -> None:
    os.chown(root / "work/d/f", 42, 43)
    out = io.BytesIO()
    copying.stream_out(reach, "web", "/work/d", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["d", "d/f"]
    copying.stream_in(reach, "web", io.BytesIO(out.getvalue()), "/data")
    found = (root / "data/d/f").stat()
    assert ((root / "data/d/f").read_text(), found.st_uid, found.st_gid) == ("container", 42, 43)
    contents = io.BytesIO()
    copying.stream_out(reach, "web", "/work/d/.", contents)
    with tarfile.open(fileobj=io.BytesIO(contents.getvalue())) as tar:
        assert [name.removeprefix("./") for name in tar.getnames()] == [".", "f"]
    with pytest.raises(InvalidInput, match="must be a directory"):
        copying.stream_in(reach, "web", io.BytesIO(out.getvalue()), "/etc/hosts")


COMPRESSED = {
    "plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress,
    "two xz streams": lambda data: lzma.compress(data[:700]) + lzma.compress(data[700:]),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_archives_are_made_plain_by_us_and_not_by_the_container(name: str, root: Path, tmp_path: Path) -> None:
    """CVE-2026-41567: the daemon ran the container's own ``xz``."""
    trace = tmp_path / "trace"
    for program in ("xz", "unpigz", "gzip", "zstd", "bzip2"):
        for place in ("usr/bin", "bin"):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / program).write_text(f"#!/bin/sh\ntouch {trace} /trace\n")
            (root / place / program).chmod(0o755)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        info = tarfile.TarInfo("file")
        info.size = 3
        writer.addfile(info, io.BytesIO(b"abc"))
    data = COMPRESSED[name](tar.getvalue())
    with standing(PYTHON, root) as state, Reach.running(state) as reach:
        copying.stream_in(reach, "web", io.BytesIO(data), "/data")
        assert (root / "data/file").read_bytes() == b"abc"
        if name != "plain":
            with pytest.raises(InvalidLayer, match="cut off"):
                copying.stream_in(reach, "web", io.BytesIO(data[:-9]), "/data")
    assert not trace.exists()
    assert not (root / "trace").exists()


@pytest.mark.parametrize("name", ["../x", "/../../x"])
def test_names_that_lead_out_of_an_archive_are_refused(name: str, reach: Reach, root: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        writer.addfile(tarfile.TarInfo(name))
    tar.seek(0)
    with pytest.raises(Denied, match="leads out"):
        copying.stream_in(reach, "web", tar, "/data")
    assert not (root / "x").exists()


def test_whiteouts_are_plain_names_in_an_archive(reach: Reach, root: Path) -> None:
    """A layer's tar would remove files; what somebody copies does not."""
    (root / "data/kept").touch()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        writer.addfile(tarfile.TarInfo(".wh.kept"))
    tar.seek(0)
    copying.stream_in(reach, "web", tar, "/data")
    assert tree(root / "data") == [".wh.kept", "kept"]


# -- attacks

SWAP = """
    while True:
        exchange("/work/d", "/work/evil")
"""


def attacked(root: Path, tmp_path: Path) -> Path:
    """A directory of the host that the container's symlink names, with the same names in it."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "f").write_text("host")
    (root / "work/evil").symlink_to(host)
    return host


def test_a_directory_that_keeps_becoming_a_symlink_gives_no_file_of_the_host(
    root: Path, out: Path, tmp_path: Path
) -> None:
    """CVE-2018-15664."""
    host = attacked(root, tmp_path)
    read, failed = 0, 0
    with standing(PYTHON, root, inside=SWAP) as state, Reach.running(state) as reach:
        for number in range(300):
            target = out / str(number)
            try:
                if number % 3 == 0:
                    copying.copy_out(reach, "web", "/work/d/f", str(target))
                elif number % 3 == 1:
                    copying.copy_out(reach, "web", "/work/d/.", str(target))
                else:
                    copying.copy_out(reach, "web", "/work/", str(target), follow=True)
            except (LaminaError, OSError):
                failed += 1
            for found in (path for path in out.rglob("*") if path.is_file() and not path.is_symlink()):
                assert found.read_text() == "container", found
                read += 1
                found.unlink()
    assert read > 20, "the attack must not be all there is"
    assert failed > 5, "and it must have taken place"
    assert (host / "f").read_text() == "host"


def test_a_directory_that_keeps_becoming_a_symlink_takes_no_file_to_the_host(
    root: Path, out: Path, tmp_path: Path
) -> None:
    """CVE-2018-15664 the other way, and CVE-2026-42306."""
    host = attacked(root, tmp_path)
    before = host.stat()
    (out / "f").write_text("new")
    (out / "tree/deep").mkdir(parents=True)
    (out / "tree/deep/f").write_text("new")
    written = 0
    with standing(PYTHON, root, inside=SWAP) as state, Reach.running(state) as reach:
        for number in range(300):
            try:
                if number % 2:
                    copying.copy_in(reach, "web", str(out / "f"), "/work/d/f")
                else:
                    copying.copy_in(reach, "web", f"{out}/tree/.", "/work/d")
                written += 1
            except (LaminaError, OSError):
                pass
    assert written > 20
    assert (host / "f").read_text() == "host"
    assert tree(host) == ["f"]
    after = host.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


def test_nothing_of_the_container_is_loaded_by_who_copies(root: Path, out: Path, tmp_path: Path) -> None:
    """CVE-2019-14271: a helper in the container's root loaded the container's libnss."""
    libraries = root / "lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6"):
        (libraries / name).write_bytes(b"not a library: loading it would fail")
    (root / "etc/nsswitch.conf").write_text("passwd: files evil\n")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for place in (f"usr/lib/python{version}/encodings", "encodings"):
        (root / place).mkdir(parents=True)
        (root / place / "idna.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    with standing(PYTHON, root) as state, Reach.running(state) as reach:
        copying.copy_out(reach, "web", "/etc", str(out))
        copying.copy_in(reach, "web", str(out / "etc"), "/data")
        worker = reach._process.pid
        assert os.readlink(f"/proc/{worker}/root") == "/"
        assert os.readlink(f"/proc/{worker}/cwd") == "/"
        assert str(root) not in Path(f"/proc/{worker}/maps").read_text()
        assert Path(f"/proc/{worker}/ns/mnt").samefile("/proc/self/ns/mnt")
    assert not (tmp_path / "trace").exists()


def test_another_process_with_the_same_pid_is_not_reached(root: Path) -> None:
    from dataclasses import replace

    with standing(PYTHON, root) as state:
        with Reach.running(replace(state, pid_started=state.pid_started + 1)) as reach:
            with pytest.raises(ContainerNotRunning):
                reach.find("/")
    with Reach.running(state) as reach:
        with pytest.raises(ContainerNotRunning):
            reach.find("/")


# -- containers that do not run


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[ContainerDirectory, Bench, list[Mount]]]:
    bench = Bench("overlay2", tmp_path / "state")
    chain = bench.stack([directory("etc"), file("etc/hosts", b"image"), directory("data", mode=0o750, uid=9)])
    container = ContainerDirectory(tmp_path / "state", "a" * 64)
    container.make()
    yield container, bench, list(bench.driver.prepare("key", chain))
    bench.close()


def test_a_stopped_container_is_mounted_for_us_alone(
    stopped: tuple[ContainerDirectory, Bench, list[Mount]], tmp_path: Path, out: Path
) -> None:
    container, bench, instructions = stopped
    (out / "x").write_text("x")
    lock = container.lock()
    with Reach.stopped(container, instructions, bench.driver.identity, lock=lock) as reach:
        copying.copy_out(reach, "web", "/etc/hosts", str(out))
        copying.copy_in(reach, "web", str(out / "x"), "/data")
        assert [line for line in mounts() if line.target.startswith(str(container.path))] == []
        os.close(lock)
        with pytest.raises(ContainerRunning):
            container.lock()
    os.close(container.lock())
    assert (out / "hosts").read_text() == "image"
    with bench.mounted(bench.driver.mounts("key")) as path:
        assert (path / "data/x").read_text() == "x"
        assert ((path / "data").stat().st_uid, stat.S_IMODE((path / "data").stat().st_mode)) == (9, 0o750)


def test_a_stopped_containers_volumes_are_there_too(
    stopped: tuple[ContainerDirectory, Bench, list[Mount]], tmp_path: Path, out: Path
) -> None:
    container, bench, instructions = stopped
    volume, closed = tmp_path / "volume", tmp_path / "closed"
    for path in (volume, closed):
        path.mkdir()
        (path / "in").write_text(path.name)
    (volume / "escape").symlink_to("/")
    (out / "x").write_text("x")
    binds = [Bind("/data", str(volume)), Bind("/new/place", str(closed), is_read_only=True),
             Bind("/gone", str(tmp_path / "gone"))]
    lock = container.lock()
    with Reach.stopped(container, instructions, bench.driver.identity, lock=lock, binds=binds) as reach:
        copying.copy_in(reach, "web", str(out / "x"), "/data")
        copying.copy_out(reach, "web", "/new/place/in", str(out))
        with pytest.raises(Denied, match="read-only"):
            copying.copy_in(reach, "web", str(out / "x"), "/new/place")
    assert (volume / "x").read_text() == "x"
    assert (out / "in").read_text() == "closed"
    escaping = [Bind("/data", str(volume), "escape")]
    with Reach.stopped(container, instructions, bench.driver.identity, lock=lock, binds=escaping) as reach:
        with pytest.raises(Denied, match="symlink"):
            reach.find("/data")
    os.close(lock)


def test_killing_who_copies_leaves_no_mount_and_no_lock(
    stopped: tuple[ContainerDirectory, Bench, list[Mount]], tmp_path: Path
) -> None:
    container, bench, instructions = stopped
    code = textwrap.dedent("""
        import json, os, signal, sys
        from pathlib import Path
        from lamina.runtime.container import ContainerDirectory
        from lamina.runtime.reach import Reach
        from lamina.runtime.within import _read_mount
        from lamina.snapshot.namespace import current_identity
        container = ContainerDirectory(Path(sys.argv[1]), "a" * 64)
        reach = Reach.stopped(container, [_read_mount(each) for each in json.loads(sys.argv[2])],
                              current_identity(), lock=container.lock())
        assert reach.find("/etc/hosts")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    from dataclasses import asdict

    document = json.dumps([asdict(each) for each in instructions])
    done = subprocess.run([*PYTHON, "-c", code, tmp_path / "state", document], check=False)
    assert done.returncode == -9
    for _attempt in range(200):
        try:
            os.close(container.lock())
            break
        except ContainerRunning:
            import time

            time.sleep(0.02)
    else:
        raise AssertionError("the lock is still held")
    with bench.mounted(bench.driver.mounts("key")) as path:
        assert (path / "etc/hosts").read_bytes() == b"image"


def test_the_verb_finds_the_container_and_says_what_it_did(
    stopped: tuple[ContainerDirectory, Bench, list[Mount]], tmp_path: Path, out: Path
) -> None:
    container, bench, _instructions = stopped
    (tmp_path / "volume").mkdir()
    (out / "x").write_text("x")
    record = Container(
        id="a" * 64, name="web", image=Digest.of(b""), image_name="image", config=Digest.of(b""), platform="linux",
        driver="overlay2", snapshot="key", parent="", created=0.0, execution={}, options=ContainerOptions(),
        mounts=(parse_volume(f"{tmp_path}/volume:/data").to_json(),),
    )
    ContainerTable(bench.store.state).add(record)
    bench.close()

    def cp(*words: str) -> str:
        err = io.StringIO()
        session = Session(
            stdin=io.StringIO(), stdout=io.StringIO(), stderr=err, clock=lambda: 0.0,
            environ={"LAMINA_ROOT": str(tmp_path / "state")},
            open_engine=lambda _settings, _report: Engine.open(tmp_path / "state"),
        )
        CP.run(VerbParser("cp", CP).read(words, Arguments()), session)
        return err.getvalue()

    assert cp("web:/etc/hosts", str(out)) == f"Successfully copied 2.05kB to {out}\n"
    assert cp("-q", str(out / "x"), "web:/data") == ""
    assert ((out / "hosts").read_text(), (tmp_path / "volume/x").read_text()) == ("image", "x")
    os.close(container.lock())
    for words, complaint in (
        (("web:/x", "db:/x"), "between containers"), (("/x", "/y"), "at least one container"),
        (("web:", "/y"), "has no path"), (("db:/x", "/y"), "db: no such container"),
    ):
        with pytest.raises(LaminaError, match=complaint):
            cp(*words)


# -- ordinary users

COPY = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from lamina.engine import copying
    from lamina.runtime.container import ContainerState, Status
    from lamina.runtime.reach import Reach
    from lamina.content.lease import boot_id, process_start
    import subprocess
    inside, home = sys.argv[1], Path(sys.argv[2])
    root, out = home / "root", home / "out"
    out.mkdir()
    before = "os.chown(root + '/work/f', 7, 8)" if sys.argv[3] == "mapped" else ""
    process = subprocess.Popen([sys.executable, "-c", inside, str(root), before, ""],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\\n"
    try:
        state = ContainerState(status=Status.RUNNING, pid=process.pid, pid_started=process_start(process.pid))
        with Reach.running(state) as reach:
            copying.copy_out(reach, "web", "/work", str(out), keeps_ids=True)
            copying.copy_in(reach, "web", str(out / "work"), "/new")
            (out / "tar").write_bytes(b"")
            with open(out / "tar", "wb") as tar:
                copying.stream_out(reach, "web", "/work", tar)
            with open(out / "tar", "rb") as tar:
                copying.stream_in(reach, "web", tar, "/streamed")
            with open(out / "tar", "rb") as tar:
                copying.stream_in(reach, "web", tar, "/streamed")  # over what is there
            with open(out / "tar2", "wb") as tar:
                copying.stream_out(reach, "web", "/streamed", tar)
            with open(out / "tar3", "wb") as tar:
                copying.stream_out(reach, "web", "/new", tar)
    finally:
        process.kill()
        process.communicate()
    import tarfile
    def owners(name):
        with tarfile.open(out / name) as tar:
            return {each.name: [each.uid, each.gid] for each in tar}
    print(json.dumps({"host": [os.stat(out / "work/f").st_uid, os.stat(out / "work/f").st_mode & 0o7777],
                      "tar": owners("tar"), "tar2": owners("tar2"), "tar3": owners("tar3")}))
""")


@pytest.mark.parametrize("name", ["ordinary_user", "user_without_ranges"])
def test_an_ordinary_user_copies_in_the_containers_user_namespace(name: str, request: pytest.FixtureRequest) -> None:
    user: OrdinaryUser = request.getfixturevalue(name)
    home = Path(tempfile.mkdtemp(prefix="lamina-cp-"))
    try:
        for path in ("root/work", "root/streamed"):
            (home / path).mkdir(parents=True)
        (home / "root/work/f").write_text("x")
        (home / "root/work/f").chmod(0o4755)
        for path in (home, *home.rglob("*")):
            os.chown(path, user.uid, user.gid)
        (home / "root/work/f").chmod(0o4755)
        kind = "mapped" if name == "ordinary_user" else "single"
        done = subprocess.run(user.python("-c", COPY, INSIDE, home, kind), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["host"] == [user.uid, 0o755]
        theirs = [7, 8] if kind == "mapped" else [0, 0]
        assert found["tar"] == {"work": [0, 0], "work/f": theirs}
        assert found["tar2"] == {"streamed": [0, 0], "streamed/work": [0, 0], "streamed/work/f": theirs}
        assert found["tar3"] == {"new": [0, 0], "new/f": [0, 0]}
    finally:
        shutil.rmtree(home)


STOPPED = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from lamina.engine import copying
    from lamina.runtime.container import ContainerDirectory
    from lamina.runtime.reach import Bind, Reach
    from lamina.testing.bench import Bench
    from lamina.testing.images import directory, file
    home = Path(sys.argv[1])
    from lamina.oci.config import chain_ids
    from lamina.snapshot.unpack import Unpacker
    from lamina.testing.images import make_layer
    bench = Bench("overlay2", home / "state")
    made = make_layer([directory("etc"), file("etc/hosts", b"image", uid=3, gid=4, mode=0o600)])
    with Unpacker(bench.layers, bench.driver) as unpacker:
        bench.store.put_bytes(made.descriptor.media_type, made.blob)
        unpacker.submit(made.descriptor, made.diff_id, bench.store.arrived(made.descriptor))
        unpacker.finish([made.diff_id])
    (chain,) = chain_ids([made.diff_id])
    container = ContainerDirectory(home / "state", "a" * 64)
    container.make()
    mounts = list(bench.driver.prepare("key", chain))
    (home / "volume").mkdir()
    (home / "x").write_text("x")
    lock = container.lock()
    with Reach.stopped(container, mounts, bench.driver.identity, lock=lock,
                       binds=[Bind("/data", str(home / "volume"))]) as reach:
        copying.copy_out(reach, "web", "/etc/hosts", str(home))
        copying.copy_in(reach, "web", str(home / "x"), "/data")
        copying.copy_in(reach, "web", str(home / "x"), "/etc")
        with open(home / "tar", "wb") as tar:
            copying.stream_out(reach, "web", "/etc", tar)
    import tarfile
    with tarfile.open(home / "tar") as tar:
        owners = {each.name: [each.uid, each.gid] for each in tar}
    print(json.dumps({"hosts": (home / "hosts").read_text(), "volume": (home / "volume/x").read_text(),
                      "owners": owners}))
    bench.close()
""")


@pytest.mark.parametrize("name", ["ordinary_user", "user_without_ranges"])
def test_an_ordinary_users_stopped_container_is_reached(name: str, request: pytest.FixtureRequest) -> None:
    user: OrdinaryUser = request.getfixturevalue(name)
    home = Path(tempfile.mkdtemp(prefix="lamina-cp-"))
    os.chown(home, user.uid, user.gid)
    try:
        done = subprocess.run(user.python("-c", STOPPED, home), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["hosts"], found["volume"]) == ("image", "x")
        assert found["owners"]["etc/x"] == [0, 0]
        if name == "ordinary_user":
            assert found["owners"]["etc/hosts"] == [3, 4]
    finally:
        shutil.rmtree(home)


def test_identity_of_these_tests() -> None:
    assert current_identity().is_initial, "run as root of the machine"
