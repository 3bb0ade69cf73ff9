"""`--storage-opt size=`: what a container may write, on filesystems that can bound it, and elsewhere.

Project quotas take a kernel with quota formats: those tests run in a guest, on an ext4 and an xfs of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.loopdisk import wait_until_forgotten
from tests.privileged.places import Place, busybox_layer, make_layout, owned_directory, wait_for
from tests.privileged.uml import REPOSITORY, Guest

from lamina.errors import InvalidInput
from lamina.layer.entry import Entry
from lamina.runtime.seccomp import default_profile
from lamina.snapshot import projectquota
from lamina.snapshot.drivers import find_driver, read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.namespace import current_identity
from lamina.snapshot.probing import probe
from lamina.testing.images import file

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("storage size")]

# -- where nothing can be bounded


@pytest.fixture(scope="module", params=["overlay2", "erofs", "vfs"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", None, request.param, "embedded")
        made.say("load", "-q", "-i", make_layout(path / "layout", [busybox_layer()]))
        yield made


SENTENCES = {
    "overlay2": r"lamina: storage driver overlay2: a size limit takes project quotas: /\S* \(\w+\): .*\n",
    "erofs": r"lamina: storage driver erofs: a size limit takes project quotas: /\S* \(\w+\): .*\n",
    "vfs": r"lamina: --storage-opt size: the storage driver vfs cannot limit what a container writes\n",
}


def test_a_sentence_and_nothing_left(place: Place) -> None:
    before = place.usage()
    done = place.run("create", "--storage-opt", "size=10G", "base:1", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert re.fullmatch(SENTENCES[place.driver], done.stderr), done.stderr
    assert place.ids() == []
    assert place.usage() == before
    assert list((place.root / "containers").glob("*")) == []
    assert [path for path in (place.root / "snapshots" / place.driver).glob("*/*") if path.name != "tree"] == []


@pytest.mark.parametrize(("words", "complaint"), [
    ("size=lots", "--storage-opt size: expected a size such as 512m or 10G, got 'lots'"),
    ("size=0", "--storage-opt size: expected a size"), ("size=-1", "--storage-opt size: expected a size"),
    ("size", "--storage-opt size: expected size=SIZE"), ("colour=red", "--storage-opt colour=red: expected size=SIZE"),
    ("overlay2.size=1g", "--storage-opt overlay2.size=1g: expected size=SIZE; there is no other option"),
])
def test_what_it_cannot_be(place: Place, words: str, complaint: str) -> None:
    done = place.run("create", "--storage-opt", words, "base:1")
    assert done.returncode == 125
    assert done.stderr.startswith(f"lamina: {complaint}")
    assert place.ids() == []


def test_ordinary_users_are_told(ordinary_user: OrdinaryUser) -> None:
    with owned_directory(ordinary_user) as path, owned_directory(None) as other:
        other.chmod(0o755)
        made = Place(path / "root", ordinary_user, "overlay2", "embedded")
        made.say("load", "-q", "-i", make_layout(other / "layout", [busybox_layer()]))
        done = made.run("create", "--storage-opt", "size=10G", "base:1")
        assert (done.returncode, done.stderr) == (125, (
            "lamina: storage driver overlay2: a size limit takes project quotas, which root alone may set\n"
        ))
        assert made.ids() == []


def test_the_default_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    options = read_options(["overlay.size=1g", "erofs.size=1g"])
    reasons = {each.name: each.reason for each in probe(tmp_path, options)}
    hands = Hands(current_identity())
    for name in ("overlay2", "erofs"):
        assert reasons[name].startswith("its option size takes project quotas: /")
        with pytest.raises(InvalidInput, match=rf"storage option {name}\.size: expected a size"):
            find_driver(name).reason_against(tmp_path, hands, {"size": "much"})


# -- no way out

# xfs knows projects even where the kernel has no quotas.
WAYS_OUT = ("-p 7 /f", "-p 0 /d", "-P /d", "-p 0 /", "-P /")


@pytest.fixture(scope="module")
def on_xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("xfs")
    image, disk = home / "image", home / "disk"
    with image.open("wb") as out:
        out.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    made = Place(disk / "root", None, "overlay2")
    try:
        made.say("load", "-q", "-i", make_layout(home / "layout", [busybox_layer() + chattr()]))
        yield made
    finally:
        made.clear()
        subprocess.run(["umount", disk], check=True)
        wait_until_forgotten(image)


def chattr() -> list[Entry]:
    """Busybox's own cannot change projects."""
    program = shutil.which("chattr")
    assert program is not None
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [file(path.strip("/"), Path(path).read_bytes(), mode=0o755)
                 for path in re.findall(r"(/\S+) \(0x", linked)]
    return [*libraries, file("bin/chattr", Path(program).read_bytes(), mode=0o755)]


@pytest.mark.parametrize("runtime", ["embedded", "runc"])
@pytest.mark.parametrize("is_bounded", [True, False])
def test_a_container_cannot_leave_its_project(on_xfs: Place, runtime: str, is_bounded: bool) -> None:
    """Its own root, that is, with the rights that a container has by default."""
    place = Place(on_xfs.root, None, "overlay2", runtime)
    tries = "; ".join(f"chattr {way} >/tmp/said 2>&1; echo $? $(cat /tmp/said)" for way in WAYS_OUT)
    script = f"mkdir /d; echo x >/f; {tries}"
    place.say("create", "--name", "one", "--network", "none", "base:1", "sh", "-c", f"{script}; touch /over; sleep 1000")
    (upper,) = place.root.glob("snapshots/overlay2/*/upper")
    for part in (upper, upper.parent / "work") if is_bounded else ():
        projectquota._give(part, 77_777_777)
    try:
        place.say("start", "one")
        wait_for((upper / "over").exists)
        said = [*place.say("logs", "one").splitlines(), *place.lines("exec", "one", "sh", "-c", tries)]
        assert len(said) == 2 * len(WAYS_OUT)
        if is_bounded:
            assert all(line.startswith("1 ") and "not permitted" in line for line in said), said
            assert {projectquota._project(path) for path in (upper, upper / "d")} == {77_777_777}
        else:
            assert set(said) == {"0"}
    finally:
        place.say("rm", "-f", "one")


# Whoever wrote these looked at what ioctl(2) is asked for, and was not thinking of projects.
HOSTILE = {
    "but for one": {"index": 1, "op": "SCMP_CMP_NE", "value": 0x5412},
    "what is no terminal's": {"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0x20000000, "valueTwo": 0},
    "of any file": {"index": 0, "op": "SCMP_CMP_GE", "value": 0},
}


@pytest.mark.parametrize("runtime", ["embedded", "runc"])
@pytest.mark.parametrize("kind", [*HOSTILE, "unconfined", "empty"])
def test_nor_with_a_profile_of_its_own(on_xfs: Place, tmp_path: Path, runtime: str, kind: str) -> None:
    place = Place(on_xfs.root, None, "overlay2", runtime)
    profile = tmp_path / "profile"
    if kind in HOSTILE:
        everything = default_profile(("CAP_SYS_ADMIN",), "amd64")["syscalls"][0]["names"]
        profile.write_text(json.dumps({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
                {"names": [name for name in everything if name != "ioctl"] + ["socket"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [HOSTILE[kind]]},
            ],
        }))
    elif kind == "empty":
        profile.write_text("{}")
    option = f"seccomp={'unconfined' if kind == 'unconfined' else profile}"
    tries = "; ".join(f"chattr {way} >/tmp/said 2>&1; echo $? $(cat /tmp/said)" for way in WAYS_OUT)
    place.say("create", "--name", "one", "--network", "none", "--security-opt", option, "base:1", "sh", "-c",
              f"mkdir /d; echo x >/f; {tries}; touch /over")
    (upper,) = place.root.glob("snapshots/overlay2/*/upper")
    for part in (upper, upper.parent / "work"):
        projectquota._give(part, 77_777_777)
    try:
        place.say("start", "-a", "one")
        assert (upper / "over").exists()
        said = place.say("logs", "one").splitlines()
        assert len(said) == len(WAYS_OUT)
        assert all(line.startswith("1 ") and "not permitted" in line for line in said), said
        assert {projectquota._project(path) for path in (upper, upper / "d")} == {77_777_777}
    finally:
        place.say("rm", "-f", "one")


# -- where it can


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    disks = []
    for name, make in (("ext4", ["mkfs.ext4", "-q", "-O", "quota,project"]), ("xfs", ["mkfs.xfs", "-q"])):
        disks.append(tmp_path_factory.mktemp("disks") / name)
        with disks[-1].open("wb") as file:
            file.truncate(400 << 20)
        subprocess.run([*make, disks[-1]], check=True, capture_output=True)
    with Guest(disks=disks) as made:
        made.check(
            "mkdir /tmp/ext4 /tmp/xfs; mount -o prjquota /dev/ubda /tmp/ext4; mount -o pquota /dev/ubdb /tmp/xfs"
        )
        yield made


def inside(guest: Guest, act: str, kind: str) -> dict[str, Any]:
    done = guest.run(f"PYTHONPATH={REPOSITORY} {sys.executable} -m tests.privileged.bounded {act} {kind}", timeout=180)
    assert done.returncode == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("FACTS ")]
    found: dict[str, Any] = json.loads(line.partition(" ")[2])
    return found


KINDS = pytest.mark.parametrize("kind", ["ext4", "xfs"])


@KINDS
def test_a_container_that_may_write_so_much(guest: Guest, kind: str) -> None:
    facts = inside(guest, "a_life", kind)
    assert facts["asked"] == '{"size":"8m"}'
    assert facts["limits"] == [8192]
    size, again, shown = facts["said"]
    assert 7 << 20 < int(size) <= 8 << 20
    assert again == "again"
    assert shown.split()[1] == "8192", "df shows what there is for this container"
    assert {"A /d", "A /f"} <= set(facts["changes"])
    assert facts["result"] == "again\n"
    assert facts["project"] >= 1 << 24
    assert facts["left"] == 0


def test_a_default_for_all(guest: Guest) -> None:
    facts = inside(guest, "a_default", "ext4")
    assert 5 << 20 < facts["usual"] <= 6 << 20
    assert 11 << 20 < facts["more"] <= 12 << 20
    assert facts["limits"] == [6144, 12288]
    # An empty directory takes a block.
    assert facts["less"] == [125, "lamina: a size limit of 1024 bytes: 2048 are in use already\n"]
    assert facts["after"] == [2, [6144, 12288]]


@KINDS
def test_whoever_dies_leaves_no_limit(guest: Guest, kind: str) -> None:
    facts = inside(guest, "deaths", kind)
    assert facts["codes"] == [7] * 5
    assert len(facts["doomed"]) == 5
    assert not any(facts["doomed"])
    assert facts["left"] == 1
    assert facts["limits"] == [1024]


def test_four_at_once_get_projects_of_their_own(guest: Guest) -> None:
    facts = inside(guest, "four_at_once", "xfs")
    assert facts["said"] == [""] * 4
    assert len(set(facts["projects"])) == 4
    assert facts["limits"] == [1024, 2048, 3072, 4096]


def test_without_the_newer_call(guest: Guest) -> None:
    """Linux 5.14 has quotactl_fd(2); before, the filesystem is named by its device."""
    facts = inside(guest, "an_older_kernel", "xfs")
    assert facts["reasons"] == ["", "/run (tmpfs): has none; ext4 and xfs have"]
    assert (facts["limit"], facts["names"]) == (1024, ["quotactl"])


def test_what_the_kernel_does_by_default_does_not_count(guest: Guest) -> None:
    """Linux 6.1, with metacopy and redirect_dir on for all: layers are whole, as the whole life of a container."""
    facts = inside(guest, "other_defaults", "ext4")
    assert facts["marks"] == []
    whole = hashlib.md5(b"0123456789" * 500_000, usedforsecurity=False).hexdigest()
    assert facts["shown"] == [f"{whole}  -", "xy", "600", "ls: /d: No such file or directory"]


def test_an_option_of_mounting_is_named(guest: Guest) -> None:
    facts = inside(guest, "a_plain_mount", "ext4")
    assert facts["reason"] == "/tmp/plain (ext4): mounted without them; mount it with the option prjquota"
