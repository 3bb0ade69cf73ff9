"""What is different between two images: files, layers, settings."""

from __future__ import annotations

from typing import Any

import pytest
from tests.insight.told import Told

from lamina.insight.comparison import Change, Comparison, compare_configs, compare_images
from lamina.layer.entry import Entry, Kind
from lamina.testing.images import MTIME, device, directory, fifo, file, hardlink, symlink, whiteout


def compare(before: Told, after: Told, **options: Any) -> Comparison:
    return compare_images(before.side, after.side, **options)


def listed(found: Comparison) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(str(change.change), change.path, change.fields) for change in found.files]


def single(*entries: Entry) -> Told:
    return Told(("COPY . /", [directory("", mode=0o755), *entries]))


BASE = ("ADD base /", [directory("etc"), file("etc/a", b"1"), file("etc/b", b"2")])


def test_added_removed_changed() -> None:
    before = Told(BASE)
    after = Told(BASE, ("RUN x", [file("etc/a", b"9"), whiteout("etc/b"), file("etc/c", b"333")]))
    found = compare(before, after)
    assert listed(found) == [("C", "etc/a", ("content",)), ("D", "etc/b", ()), ("A", "etc/c", ())]
    assert [(change.bytes_before, change.bytes_after) for change in found.files] == [(1, 1), (1, 0), (0, 3)]
    assert [change.before is None for change in found.files] == [False, False, True]
    assert not found.is_same


@pytest.mark.parametrize(("before", "after", "fields"), [
    (file("a", b"1"), file("a", b"1", mode=0o755), ("mode",)),
    (file("a", b"1"), file("a", b"1", uid=1), ("owner",)),
    (file("a", b"1"), file("a", b"1", gid=1, mode=0o600), ("mode", "owner")),
    (file("a", b"1"), file("a", b"12"), ("content",)),
    (file("a", b"1"), file("a", b"2", xattrs={"user.x": b"1"}), ("xattrs", "content")),
    (file("a", b"1"), symlink("a", "b"), ("kind",)),
    (file("a", b"1"), directory("a"), ("kind", "mode")),
    (symlink("a", "b"), symlink("a", "c"), ("target",)),
    (device("a", 1, 3), device("a", 1, 5), ("device",)),
    (device("a", 1, 3), device("a", 1, 3, kind=Kind.BLOCK), ("kind",)),
    (fifo("a"), fifo("a", mode=0o600), ("mode",)),
    (directory("a"), directory("a", mode=0o700), ("mode",)),
])
def test_what_changed(before: Entry, after: Entry, fields: tuple[str, ...]) -> None:
    assert listed(compare(single(before), single(after))) == [("C", "a", fields)]


def test_times_are_ignored_unless_asked_for() -> None:
    before, after = single(file("a", b"1")), single(file("a", b"1", mtime=MTIME + 1))
    assert listed(compare(before, after)) == []
    assert listed(compare(before, after, times=True)) == [("C", "a", ("mtime",))]


def test_only_what_sizes_leave_open_is_read() -> None:
    before = Told(BASE, ("RUN x", [file("same", b"12"), file("size", b"1"), file("empty"), file("z", b"12")]))
    after = Told(BASE, ("RUN y", [file("size", b"12"), file("same", b"12"), file("empty"), file("z", b"21")]))
    assert listed(compare(before, after)) == [("C", "size", ("content",)), ("C", "z", ("content",))]
    assert len(before.read) == len(after.read) == 2
    assert after.read == sorted(after.read)


def test_below_a_path() -> None:
    before, after = single(), single(directory("a"), file("a/x", b"1"), file("b", b"1"), file("a.b", b"1"))
    assert listed(compare(before, after, path="a")) == [("A", "a", ()), ("A", "a/x", ())]


def test_names_of_one_file_count_their_bytes_once() -> None:
    found = compare(single(), single(file("a", b"123"), hardlink("b", "a"), hardlink("c", "a")))
    assert [change.bytes_after for change in found.files] == [3, 0, 0]
    assert [change.after.size for change in found.files if change.after is not None] == [3, 3, 3]


def test_the_root_counts() -> None:
    found = compare(Told(("x", [directory("", mode=0o755)])), Told(("x", [directory("", mode=0o700)])))
    assert listed(found) == [("C", "", ("mode",))]


# -- layers


def test_layers() -> None:
    one, two, three = (("RUN 1", [file("1", b"1")]), ("RUN 2", [file("2", b"2")]), ("RUN 3", [file("3", b"3")]))
    found = compare(Told(BASE, one, two), Told(BASE, three, two))
    assert [(row.before, row.after, row.is_prefix, row.instruction) for row in found.layers] == [
        (0, 0, True, "ADD base /"), (1, None, False, "RUN 1"), (None, 1, False, "RUN 3"), (2, 2, False, "RUN 2"),
    ]
    assert all(row.size > 0 for row in found.layers)


def test_the_same_image_has_only_layers_in_common() -> None:
    found = compare(Told(BASE, BASE), Told(BASE, BASE))
    assert [(row.before, row.after, row.is_prefix) for row in found.layers] == [(0, 0, True), (1, 1, True)]
    assert found.is_same


# -- settings


def settings(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    found = compare_configs(Told(execution=before).image, Told(execution=after).image)
    return [(change.field, change.name, change.before, change.after) for change in found]


def test_settings() -> None:
    before = {
        "Env": ["PATH=/bin", "A=1", "GONE=x"], "Cmd": ["sh"], "Labels": {"v": "1"}, "User": "me",
        "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/",
    }
    after = {
        "Env": ["A=2", "PATH=/bin", "NEW="], "Entrypoint": ["run"], "Cmd": ["sh"], "Labels": {"v": "2"},
        "ExposedPorts": {"81/tcp": {}}, "WorkingDir": "/",
    }
    assert settings(before, after) == [
        ("Env", "A", "1", "2"), ("Env", "GONE", "x", None), ("Env", "NEW", None, ""), ("Entrypoint", "", None, ["run"]),
        ("User", "", "me", None), ("Labels", "v", "1", "2"), ("ExposedPorts", "80/tcp", {}, None),
        ("ExposedPorts", "81/tcp", None, {}),
    ]


def test_settings_that_say_nothing_are_the_same() -> None:
    assert settings({"Cmd": None, "User": "", "Labels": None, "Env": None}, {}) == []


def test_settings_of_the_wrong_sort_are_compared_as_they_stand() -> None:
    assert settings({"Env": "A=1", "Labels": [1], "Cmd": {"x": 1}}, {"Env": [1, {"a": 2}], "Cmd": ["x"]}) == [
        ("Env", "", "A=1", None), ("Env", "1", None, ""), ("Env", '{"a": 2}', None, ""),
        ("Cmd", "", {"x": 1}, ["x"]), ("Labels", "", [1], None),
    ]


def test_letters_are_docker_s() -> None:
    assert [str(change) for change in Change] == ["A", "C", "D"]
