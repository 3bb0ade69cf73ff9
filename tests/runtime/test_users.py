"""Who a container's process is: docker's rules, and databases that a stranger wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.runtime.users import MAX_ID, User, UserNotFound, find_user, read_database

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
1000:x:7:7::/odd:/bin/sh
short:x:9:9
bad:x:nine:9::/x:/bin/sh
homeless:x:5:5:::
"""
GROUP = """\
root:x:0:
app:x:1001:
wheel:x:10:app,root
audio:x:29:other,app
1001:x:77:
"""


@pytest.mark.parametrize(("text", "user"), [
    ("", User(uid=0, gid=0, groups=(10,), home="/root")),
    ("root", User(uid=0, gid=0, groups=(10,), home="/root")),
    ("0", User(uid=0, gid=0, groups=(10,), home="/root")),
    ("app", User(uid=1000, gid=1001, groups=(10, 29), home="/home/app")),
    ("app:", User(uid=1000, gid=1001, groups=(10, 29), home="/home/app")),
    ("app:audio", User(uid=1000, gid=29, home="/home/app")),
    ("app:4000", User(uid=1000, gid=4000, home="/home/app")),
    ("1000", User(uid=7, gid=7, home="/odd")),  # a name may look like a number, and names come first
    ("1234", User(uid=1234, gid=0, home="/")),
    ("1234:wheel", User(uid=1234, gid=10, home="/")),
    ("1234:1001", User(uid=1234, gid=77, home="/")),
    (":wheel", User(uid=0, gid=10, home="/root")),
    ("short", User(uid=9, gid=9, home="/")),
    ("homeless", User(uid=5, gid=5, home="/")),
    (str(MAX_ID), User(uid=MAX_ID, home="/")),
])
def test_a_user_is_found_as_docker_finds_it(text: str, user: User) -> None:
    """With the process' own group among the others: nobody can leave it (CVE-2022-36109)."""
    assert find_user(text, PASSWD, GROUP) == replace(user, groups=(user.gid, *user.groups))


@pytest.mark.parametrize("text", ["nobody", "bad", "app:nogroup", "-1", "+1", "1.5", "٣", "app app", " app"])
def test_a_name_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(UserNotFound, match=r"no such (user|group) in the image's /etc/"):
        find_user(text, PASSWD, GROUP)


@pytest.mark.parametrize("text", ["4294967295", "4294967296", "1:4294967295", "99999999999999999999999", "18446744073709551616"])
def test_no_number_wraps_round_to_root(text: str) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        find_user(text, PASSWD, GROUP)


def test_a_database_cannot_smuggle_a_number_in() -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        find_user("evil", "evil:x:4294967296:0::/:/bin/sh\n", "")


def test_digits_of_other_alphabets_are_no_numbers() -> None:
    with pytest.raises(UserNotFound):
        find_user("evil", "evil:x:1:\u00b2::/:/bin/sh\n", "")
    assert find_user("evil", "evil:x:1:\u00b2\n", "").gid == 0


def test_more_groups_are_added_once() -> None:
    found = find_user("app", PASSWD, GROUP, ["wheel", "55", "audio", "1001", "app"])
    assert found.groups == (1001, 10, 29, 55, 77)
    with pytest.raises(UserNotFound, match="'nogroup'"):
        find_user("app", PASSWD, GROUP, ["nogroup"])


NAMES = st.sampled_from(["app", "web", "db", "x"])
IDS = st.integers(0, MAX_ID)
LINES = st.lists(st.tuples(NAMES, IDS, IDS), max_size=5)
MEMBERS = st.lists(st.tuples(NAMES, IDS, st.lists(NAMES, max_size=3)), max_size=5)


@given(LINES, MEMBERS, NAMES)
def test_the_first_line_of_a_name_counts(
    users: list[tuple[str, int, int]], groups: list[tuple[str, int, list[str]]], name: str
) -> None:
    passwd = "".join(f"{each}:x:{uid}:{gid}::/home/{each}:/bin/sh\n" for each, uid, gid in users)
    group = "".join(f"{each}:x:{gid}:{','.join(members)}\n" for each, gid, members in groups)
    first = next((line for line in users if line[0] == name), None)
    if first is None:
        with pytest.raises(UserNotFound):
            find_user(name, passwd, group)
        return
    _, uid, gid = first
    others = {gid, *(number for _, number, members in groups if name in members)}
    found = find_user(name, passwd, group)
    assert (found.uid, found.gid, set(found.groups), found.home) == (uid, gid, others, f"/home/{name}")
    assert len(found.groups) == len(others)


@given(st.text(), st.text(), st.text(max_size=12))
def test_garbage_is_an_error_or_a_user(passwd: str, group: str, text: str) -> None:
    try:
        found = find_user(text, passwd, group)
    except (UserNotFound, InvalidInput):
        return
    assert 0 <= found.uid <= MAX_ID
    assert 0 <= found.gid <= MAX_ID


# -- reading them


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path


def read(tree: Path) -> str:
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    try:
        return read_database(descriptor, "etc/passwd")
    finally:
        os.close(descriptor)


def test_a_database_is_read(tree: Path) -> None:
    (tree / "etc/passwd").write_bytes(b"caf\xe9:x:1:1::/:/bin/sh\n")
    assert read(tree) == "caf\udce9:x:1:1::/:/bin/sh\n"


def test_no_database_is_an_empty_one(tree: Path) -> None:
    assert read(tree) == ""
    (tree / "etc/passwd").mkdir()
    assert read(tree) == ""


def test_a_fifo_does_not_stop_us(tree: Path) -> None:
    os.mkfifo(tree / "etc/passwd")
    assert read(tree) == ""


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../../../../etc/passwd", "passwd"])
def test_a_symlink_leads_nowhere_outside(tree: Path, target: str) -> None:
    (tree / "etc/passwd").symlink_to(target)
    assert read(tree) == ""


def test_an_endless_database_is_cut(tree: Path) -> None:
    with open(tree / "etc/passwd", "wb") as file:
        file.truncate(1 << 32)
    assert len(read(tree)) == 4 << 20
