"""Owners beside files, what the filter leaves to the supervisor, and the rules of credentials."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pytest

from lamina.layer.apply import apply
from lamina.layer.diff import diff
from lamina.layer.entry import Entry, Kind
from lamina.layer.owners import (
    CHILDREN_XATTR,
    OWNER_XATTR,
    PLAIN,
    Kept,
    essence,
    keep,
    keep_child,
    parse_kept,
    read_child,
    read_kept,
)
from lamina.layer.root import DirectoryRoot, Ownership
from lamina.runtime.call import Refused
from lamina.runtime.credentials import Ids, _set_id, _set_real_effective, _set_three
from lamina.runtime.ownership import read_owner, with_notifications
from lamina.runtime.seccomp import default_profile
from lamina.runtime.statbuffer import stat_buffer, statx_buffer

SAME = 0xFFFFFFFF


@pytest.mark.parametrize("kept", [
    Kept(1000, 1001), Kept(0, 5), Kept(4294967294, 0), Kept(0, 0, Kind.CHAR, 1, 3), Kept(7, 8, Kind.BLOCK, 259, 1 << 19),
])
def test_a_note_says_what_was_kept(kept: Kept) -> None:
    assert parse_kept(kept.encode()) == kept


@pytest.mark.parametrize("value", [
    b"", b"1000", b"1000:", b":1", b"-1:0", b"4294967295:0", b"1:2:3", b"1:2 x 1:3", b"1:2 c 1", b"1:2 c 1:3 4",
    b"\xb2:1", b" 1:2", b"9" * 5000 + b":1", "१:१".encode(),
])
def test_what_a_stranger_wrote_is_no_note(value: bytes) -> None:
    assert parse_kept(value) is None


def test_a_plain_owner_leaves_no_xattr(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    keep(str(file), Kept(5, 6))
    assert read_owner(str(file)) == (5, 6)
    keep(str(file), PLAIN)
    assert os.listxattr(file) == []
    assert read_owner(str(file)) is None


def test_owners_of_what_has_no_xattrs_are_with_the_directory(tmp_path: Path) -> None:
    here = str(tmp_path)
    for number in range(300):
        keep_child(here, b"n%d" % number, b"x", Kept(number % 7, 1))
    assert read_child(here, b"n13", b"x") == Kept(6, 1)
    assert read_child(here, b"n13", b"another file by now") is None
    assert read_child(here, b"n300", b"x") is None
    for number in range(300):
        keep_child(here, b"n%d" % number, b"x", PLAIN)
    assert os.listxattr(here) == []


@pytest.mark.parametrize("value", [b"", b"\xff", b"\xff\xff", b"\1\0" + bytes(8) + b"abc", bytes(2) + bytes(6) + b"\5\0"])
def test_damaged_notes_of_a_directory_are_none(tmp_path: Path, value: bytes) -> None:
    os.setxattr(tmp_path, CHILDREN_XATTR, value)
    assert read_child(str(tmp_path), b"n", b"") is None
    keep_child(str(tmp_path), b"n", b"", Kept(1, 2))
    assert read_child(str(tmp_path), b"n", b"") == Kept(1, 2)


LAYER = [
    Entry("d", Kind.DIRECTORY, 0o500, 33, 34),
    Entry("d/f", Kind.FILE, 0o444, 1000, 1001, size=1, open=lambda: io.BytesIO(b"x")),
    Entry("d/plain", Kind.FILE, 0o644),
    Entry("d/l", Kind.SYMLINK, 0o777, 5, 6, linkname="f"),
    Entry("d/p", Kind.FIFO, 0o600, 7, 8),
    Entry("null", Kind.CHAR, 0o666, 0, 9, major=1, minor=3),
]


def owners(root: DirectoryRoot) -> dict[str, tuple[object, ...]]:
    return {
        entry.path: (found.kind, found.uid, found.gid, found.major, found.minor)
        for entry in LAYER for found in [root.look(entry.path)]
    }


def test_ignored_owners_are_kept_beside_the_files(tmp_path: Path) -> None:
    with DirectoryRoot(tmp_path, owner=Ownership.IGNORE) as root:
        apply(LAYER, root)
    with DirectoryRoot(tmp_path, owner=Ownership.IGNORE) as root:
        assert owners(root) == {e.path: (e.kind, e.uid, e.gid, e.major, e.minor) for e in LAYER}
        assert all(not root.look(entry.path).xattrs for entry in LAYER)
    assert (os.stat(tmp_path / "d/f").st_uid, os.stat(tmp_path / "d/f").st_gid) == (os.geteuid(), os.getegid())
    assert os.listxattr(tmp_path / "d/plain") == []
    assert stat.S_IMODE(os.stat(tmp_path / "d/f").st_mode) == 0o444
    os.chmod(tmp_path / "d", 0o700)


def test_a_later_layer_takes_a_kept_owner_back(tmp_path: Path) -> None:
    with DirectoryRoot(tmp_path, owner=Ownership.IGNORE) as root:
        apply(LAYER, root)
        apply([
            Entry("d", Kind.DIRECTORY, 0o755), Entry("d/f", Kind.FILE), Entry("d/l", Kind.SYMLINK, linkname="f"),
        ], root)
        found = owners(root)
    assert [found[path][1:3] for path in ("d", "d/f", "d/l", "d/p")] == [(0, 0), (0, 0), (0, 0), (7, 8)]


def test_a_layer_cannot_say_our_notes(tmp_path: Path) -> None:
    for owner in Ownership:
        top = tmp_path / owner.value
        top.mkdir()
        with DirectoryRoot(top, owner=owner) as root:
            apply([Entry("f", Kind.FILE, xattrs={OWNER_XATTR: b"5:5", "user.x": b"1"}, uid=os.geteuid(), gid=os.getegid())],
                  root)
        assert os.listxattr(top / "f") == ["user.x"] or owner is Ownership.IGNORE
        assert read_kept(str(top / "f")) in (None, Kept(os.geteuid(), os.getegid()))


def test_a_changed_kept_owner_is_in_the_difference(tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        with DirectoryRoot(tmp_path / name, owner=Ownership.IGNORE) as root:
            apply([*LAYER, Entry("d", Kind.DIRECTORY, 0o755)], root)
    keep(str(tmp_path / "upper/d/plain"), Kept(1000, 1000))
    link = tmp_path / "upper/d/l"
    keep_child(str(link.parent), b"l", essence(os.lstat(link), b"f"), Kept(99, 98))
    with (
        DirectoryRoot(tmp_path / "lower", owner=Ownership.IGNORE) as lower,
        DirectoryRoot(tmp_path / "upper", owner=Ownership.IGNORE) as upper,
    ):
        found = [(entry.path, entry.uid, entry.gid) for entry in diff(lower, upper) if entry.path]
    assert found == [("d/l", 99, 98), ("d/plain", 1000, 1000)]


# -- the filter


def decide(profile: dict, name: str, flags: int = 0) -> str:
    """As the runtime specification says: a rule without arguments first, then the first that fits."""
    rules = [rule for rule in profile["syscalls"] if name in rule["names"]]
    for rule in rules:
        if not rule.get("args"):
            return rule["action"]
    for rule in rules:
        if all(flags & item["value"] == item["valueTwo"] for item in rule["args"]):
            return rule["action"]
    return profile["defaultAction"]


def test_the_filter_leaves_allowed_calls_to_the_supervisor() -> None:
    profile = with_notifications(default_profile(("CAP_CHOWN",), os.uname().machine))
    assert decide(profile, "fchownat") == decide(profile, "statx") == decide(profile, "setresuid") == "SCMP_ACT_NOTIFY"
    assert decide(profile, "openat", os.O_CREAT | os.O_WRONLY) == "SCMP_ACT_NOTIFY"
    assert decide(profile, "openat", os.O_WRONLY) == decide(profile, "read") == "SCMP_ACT_ALLOW"
    assert decide(profile, "mount") == "SCMP_ACT_ERRNO"


def test_what_a_profile_refuses_stays_refused() -> None:
    profile = with_notifications({
        "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["chown"], "action": "SCMP_ACT_KILL"}, {"names": ["chown", "fchown"], "action": "SCMP_ACT_ALLOW"},
        ],
    })
    assert decide(profile, "chown") == "SCMP_ACT_KILL"
    assert decide(profile, "fchown") == "SCMP_ACT_NOTIFY"
    assert decide(profile, "fchownat") == decide(profile, "openat", os.O_CREAT) == "SCMP_ACT_ERRNO"


def test_without_a_profile_only_those_calls_are_filtered() -> None:
    profile = with_notifications({"defaultAction": "SCMP_ACT_ALLOW"})
    assert decide(profile, "newfstatat") == decide(profile, "openat", os.O_CREAT) == "SCMP_ACT_NOTIFY"
    assert decide(profile, "openat") == decide(profile, "clone") == "SCMP_ACT_ALLOW"


# -- buffers, as the C library reads them


def test_buffers_differ_from_the_kernels_in_the_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    descriptor = os.open(tmp_path / "f", os.O_PATH)
    status = os.fstat(descriptor)
    here = Kept(status.st_uid, status.st_gid)
    for make in (stat_buffer, lambda fd, kept: statx_buffer(fd, kept, 0, 0x7FF)):
        plain, other = make(descriptor, here), make(descriptor, Kept(0x11223344, 0x55667788))
        at = other.index(b"\x44\x33\x22\x11\x88\x77\x66\x55")
        assert plain[at : at + 8] == status.st_uid.to_bytes(4, "little") + status.st_gid.to_bytes(4, "little")
        assert plain[:at] + plain[at + 8 :] == other[:at] + other[at + 8 :]
        assert status.st_ino.to_bytes(8, "little") in plain
    os.close(descriptor)


# -- setuid(2), setreuid(2), setresuid(2)


def refused(change, ids: Ids, *wanted: int) -> int:
    with pytest.raises(Refused) as caught:
        change(ids, wanted, False)
    return caught.value.number


def test_root_becomes_anybody_and_nobody_becomes_root() -> None:
    assert _set_id(Ids(), (1000, 0, 0), True) == Ids.all(1000)
    assert refused(_set_id, Ids.all(1000), 0) == errno.EPERM
    assert refused(_set_id, Ids(), SAME) == errno.EINVAL
    assert _set_id(Ids(1000, 0, 1000, 0), (1000,), False) == Ids.all(1000)


def test_saved_ids_allow_the_way_back() -> None:
    away = _set_three(Ids(), (SAME, 1000, SAME), True)
    assert away == Ids(0, 1000, 0, 1000)
    assert _set_three(away, (SAME, 0, SAME), False) == Ids()
    assert refused(_set_three, away, 7, SAME, SAME) == errno.EPERM


def test_real_and_effective_set_what_is_saved() -> None:
    assert _set_real_effective(Ids(), (1000, 1000), True) == Ids.all(1000)
    assert _set_real_effective(Ids(), (SAME, 1000), True) == Ids(0, 1000, 1000, 1000)
    assert _set_real_effective(Ids.all(5), (SAME, SAME), False) == Ids.all(5)
    assert refused(_set_real_effective, Ids.all(5), 0, SAME) == errno.EPERM
