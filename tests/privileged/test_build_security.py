"""Dockerfiles, contexts and bases whose authors mean ill: the host stays as it is, and builds say what is wrong."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.builds import Yard
from tests.privileged.hostile import (
    Ground,
    Item,
    directory,
    ground,  # noqa: F401 - a fixture
    grounds,  # noqa: F401 - a fixture
    link,
)
from tests.privileged.places import processes_of, wait_for

from lamina.runtime.capabilities import DEFAULT, mask

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("hostile")]


@pytest.fixture
def yard(ground: Ground) -> Yard:  # noqa: F811 - the fixture
    return Yard(ground)


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory of the host that everybody may write, and that must stay as it is."""
    top = Path(tempfile.mkdtemp(prefix="lamina-canary-"))
    (top / "file").write_text("host secret")
    (top / "below").mkdir()
    for path in (top, top / "below", top / "file"):
        path.chmod(0o777)
    before = state_of(top)
    yield top
    try:
        assert state_of(top) == before
    finally:
        shutil.rmtree(top)


def state_of(top: Path) -> list[tuple[str, os.stat_result]]:
    return [(str(path), (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ino))
            for path in sorted([top, *top.rglob("*")]) if (status := path.lstat())]


def run(command: str, *flags: str) -> str:
    return f"RUN --network=none {' '.join(flags)} {command}\n"


# -- places for mounts


def test_mounts_land_in_the_image_wherever_its_links_lead(yard: Yard, canary: Path) -> None:
    """CVE-2019-16884 and its kin: whatever a mount needs is made inside."""
    base = yard.ground.image("linked", {
        "run": link(str(canary)), "mnt": link(f"../../../../..{canary}"), "srv": link("/proc/self/root" + str(canary)),
        "opt": link(str(canary / "below")), "media": link("media"),
    })
    for flags in (
        ("--mount=type=secret,id=s",), ("--mount=type=cache,target=/mnt/c",), ("--mount=type=tmpfs,target=/opt/t",),
        ("--mount=type=bind,source=f,target=/run/x/f",), ("--mount=type=bind,source=d,target=/srv/d,rw",),
        ("--mount=type=cache,target=/media/x",), ("--mount=type=cache,target=/mnt",), ("--mount=type=tmpfs,target=/run",),
    ):
        text = f"FROM {base}\n" + run("echo written >/run/here; touch /mnt/c/x /opt/t/x /srv/d/x; true", *flags)
        yard.build(text, {"f": "1", "d/f": "1"}, no_cache=True, secrets=["id=s,src=/etc/hostname"], code=None)
    yard.build(f"FROM {base}\nWORKDIR /run/made/here\nCOPY f /mnt/\nCOPY f /opt/x/y\nADD f /srv/\n", {"f": "1"}, code=None)


@pytest.mark.parametrize("target", [
    "/", "/proc", "/proc/self", "/proc/1/root", "/sys/fs/cgroup", "/dev", "/dev/null", "/dev/pts", "/etc/passwd",
    "../../../etc", "/bin/busybox/x", "/a/../../b", "/dev/pipes", "/proc/self/fd/3", "/x" * 2000, "/x\u001b[31m",
])
def test_places_that_are_odd(yard: Yard, canary: Path, target: str) -> None:
    """It works, or it is refused; a fault of ours it is never, nor of the host's."""
    for mount in (f"--mount=type=cache,target={target}", f"--mount=type=secret,id=s,target={target}"):
        text = f"FROM plain\n{run('true', mount)}"
        yard.build(text, no_cache=True, secrets=["id=s,src=/etc/hostname"], code=None)
    assert (canary / "file").exists()


def test_a_parent_of_a_mount_that_becomes_a_symlink(yard: Yard, canary: Path) -> None:
    """CVE-2024-23652: what is done about the places of mounts afterwards follows nobody's link."""
    command = f"rm -r /x 2>/dev/null; mv /x /moved; ln -s {canary} /x; mkdir /y && ln -s {canary} /y/z; echo done"
    text = "FROM plain\n" + run(command, "--mount=type=tmpfs,target=/x/below", "--mount=type=secret,id=s,target=/x/file")
    outcome = yard.build(text, no_cache=True, secrets=["id=s,src=/etc/hostname"], tags=("swapped",))
    assert outcome.output.endswith("done\n")
    shown = yard.run("swapped", "sh", "-c", "readlink /x; cat /moved/file; ls /moved")
    assert shown.startswith(f"{canary}\n")
    assert Path("/etc/hostname").read_text() not in shown


def test_what_lies_under_a_mount_is_not_in_the_layer(yard: Yard) -> None:
    flags = ("--mount=type=tmpfs,target=/new/t", "--mount=type=cache,target=/new/c", "--mount=type=secret,id=s",
             "--mount=source=f,target=/new/f")
    text = "FROM plain\nCOPY f /kept/f\n" + run("touch /new/mine", *flags) + run("find / -xdev -newer /kept/f 2>/dev/null; true")
    yard.build(text, {"f": "1"}, no_cache=True, secrets=["id=s,src=/etc/hostname"], tags=("under",))
    assert yard.run("under", "sh", "-c", "ls -A /new; ls -A /run 2>/dev/null | grep secrets; true") == "mine\n"


# -- what a command may do


def test_a_command_has_no_more_rights_than_a_container(yard: Yard) -> None:
    outcome = yard.build("FROM plain\n" + run("grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status; ls /proc/self/fd"), no_cache=True)
    found = dict(line.split(":\t") for line in outcome.output.splitlines() if ":\t" in line)
    assert int(found["CapEff"], 16) & ~mask(DEFAULT) == 0
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapAmb"], 16) == 0
    assert found["Seccomp"] == "2"
    assert set(outcome.output.split("\n")[-5:-1]) >= {"0", "1", "2"}
    assert not [line for line in outcome.output.split("\n") if line.isdigit() and int(line) > 3]


def test_the_working_directory_is_no_way_out(yard: Yard) -> None:
    """CVE-2024-21626."""
    for place in (*(f"/proc/self/fd/{number}" for number in (3, 5, 7, 8, 9)), "/proc/1/cwd", "/proc/self/cwd/../../.."):
        outcome = yard.build(f"FROM plain\nWORKDIR {place}\n" + run("pwd; cat marker ../marker ../../marker; ls -A"), no_cache=True, code=None)
        assert "root" not in outcome.output.split() or "container" in outcome.output
        assert not os.path.exists(os.path.join(os.getcwd(), "proc/self"))


def test_what_a_command_leaves_running_ends(yard: Yard) -> None:
    yard.build("FROM plain\n" + run("(sleep 613 &) ; setsid sleep 613 & echo on"), no_cache=True)
    wait_for(lambda: not processes_of(yard.root))


def test_whiteouts_of_its_own(yard: Yard) -> None:
    outcome = yard.build("FROM plain\n" + run("echo x >/home/.wh.app"), no_cache=True, code=None)
    assert outcome.code == 1
    assert ".wh." in outcome.error
    outcome = yard.build("FROM plain\n" + run("mknod /marker2 c 0 0; mknod /zero c 1 5; true"), no_cache=True, tags=("nodes",), code=None)
    if outcome.code == 0:
        assert yard.run("nodes", "sh", "-c", "ls /marker2 2>/dev/null; cat /marker") == "container"


def test_volumes_and_what_is_written_there_afterwards(yard: Yard) -> None:
    base = yard.ground.image("voluminous", {}, 'VOLUME ["/etc","/data","/proc/x","/../up","/bin"]')
    text = f"FROM {base}\n" + run("mkdir -p /data; echo kept >/data/x; echo new >/etc/new") + "VOLUME /late\n" + run("mkdir -p /late; echo late >/late/x")
    assert yard.build(text + run("cat /data/x /etc/new /late/x"), no_cache=True).output == "kept\nnew\nlate\n"
    assert not yard.ground.lamina("volume", "ls", "-q").stdout


ODD: dict[str, dict[str, Item]] = {
    "fifo": {"etc/passwd": Item(kind=b"6")}, "zero": {"etc/passwd": link("/dev/zero")},
    "environ": {"etc/passwd": link("/proc/self/environ")}, "device": {"etc": link("/dev"), "dev/passwd": Item("x")},
    "directory": {"etc/passwd": directory()}, "proc": {"proc": link("/tmp")}, "dev": {"dev": link("/etc")},
    "sys": {"sys": Item("a file", 0o644)}, "tmp": {"tmp": link("/tmp/tmp")},
}


@pytest.mark.parametrize("name", ODD)
def test_bases_that_are_no_systems(yard: Yard, name: str) -> None:
    base = yard.ground.image(f"odd-{name}", ODD[name], without=list(ODD[name]))
    for text in ("USER app\n" + run("id"), "USER app\nWORKDIR /new/w\n", "COPY --chown=app f /x\n", run("echo ran")):
        yard.build(f"FROM {base}\n{text}", {"f": "1"}, no_cache=True, code=None)


@pytest.mark.parametrize("name", ["../../../../tmp/lamina-id", "a\nb", "x" * 5000, "/", ".", "..", "ä\u202e", "'; touch /tmp/lamina-id; '"])
def test_names_of_caches_and_secrets(yard: Yard, name: str) -> None:
    yard.build("FROM plain\n" + run("echo x >/c/x", f"--mount=type=cache,target=/c,id={name}"), no_cache=True, code=None)
    yard.build("FROM plain\n" + run("true", f"--mount=type=secret,id={name}"), no_cache=True, code=None)
    assert not os.path.exists("/tmp/lamina-id")
    caches = yard.root / "buildcaches"
    for path in caches.iterdir() if caches.exists() else ():
        assert len(path.name) == 64
        assert not set(path.name) - set("0123456789abcdef")


@pytest.mark.parametrize("name", ["../../../../../tmp/lamina-script", "a/b", "..", "."])
def test_scripts_with_names_that_lead_elsewhere(yard: Yard, name: str) -> None:
    yard.build(f"FROM plain\nRUN --network=none <<{name}\n#!/bin/sh\necho ran\n{name}\n", no_cache=True, code=None)
    assert not os.path.exists("/tmp/lamina-script")


def test_things_in_a_context_that_are_no_files(yard: Yard) -> None:
    place = yard.context("FROM plain\nCOPY . /all/\n" + run("ls /all; stat -c %F /all/fifo /all/zero"), {"f": "1"})
    os.mkfifo(place / "fifo")
    os.mknod(place / "zero", 0o20666, os.makedev(1, 5))
    for text in ("COPY . /all/", "COPY fifo /x", "COPY zero /x", "ADD fifo /x", run("true", "--mount=source=fifo,target=/m").strip(),
                 run("true", "--mount=source=.,target=/m").strip()):
        (place / "Dockerfile").write_text(f"FROM plain\n{text}\n")
        yard.build("", context=place, no_cache=True, code=None)


def test_very_much_output(yard: Yard) -> None:
    outcome = yard.build("FROM plain\n" + run("yes 0123456789abcdef | head -c 8000000"), no_cache=True)
    assert len(outcome.output) == 8_000_000
