"""Every stored byte in one row."""

from __future__ import annotations

import pytest
from tests.insight.told import Told
from tests.layer import tarbytes

from lamina.insight.usage import NO_EXTENSION, By, Portion, extension_of, merge, usage_of
from lamina.testing.images import directory, file, hardlink, whiteout


@pytest.fixture(scope="module")
def told() -> Told:
    return Told(
        ("ADD base /", [
            directory("usr"), directory("usr/lib"), file("usr/lib/libc.so.6", b"1" * 10), file("usr/a.txt", b"12"),
            file("init", b"123"), directory("etc"), file("etc/gone.conf", b"1234"),
        ]),
        ("RUN make", [file("usr/lib/x.so", b"1" * 5), hardlink("usr/lib/y.so", "usr/lib/x.so"), whiteout("etc/gone.conf")]),
        ("RUN make", [file("usr/a.txt", b"1")]),
    )


def rows(found: tuple[Portion, ...]) -> list[tuple[str, int | None, int, int, int, int]]:
    return [(row.name, row.layer, row.files, row.bytes, row.hidden_files, row.hidden_bytes) for row in found]


def test_by_directory(told: Told) -> None:
    assert rows(usage_of(told.image, told.tree)) == [
        ("/usr", None, 3, 16, 1, 2), ("/", None, 1, 3, 0, 0), ("/etc", None, 0, 0, 1, 4),
    ]
    assert rows(usage_of(told.image, told.tree, depth=2))[:2] == [("/usr/lib", None, 2, 15, 0, 0), ("/", None, 1, 3, 0, 0)]


def test_below_a_path(told: Told) -> None:
    assert rows(usage_of(told.image, told.tree, path="usr")) == [
        ("/usr/lib", None, 2, 15, 0, 0), ("/usr", None, 1, 1, 1, 2),
    ]
    assert rows(usage_of(told.image, told.tree, path="usr/a.txt")) == [("/usr", None, 1, 1, 1, 2)]
    assert usage_of(told.image, told.tree, path="us") == ()


def test_by_layer_in_their_order(told: Told) -> None:
    assert rows(usage_of(told.image, told.tree, By.LAYER)) == [
        ("ADD base /", 0, 2, 13, 2, 6), ("RUN make", 1, 1, 5, 0, 0), ("RUN make", 2, 1, 1, 0, 0),
    ]
    assert rows(usage_of(told.image, told.tree, By.LAYER, path="init"))[1:] == [
        ("RUN make", 1, 0, 0, 0, 0), ("RUN make", 2, 0, 0, 0, 0),
    ]


def test_by_instruction(told: Told) -> None:
    assert rows(usage_of(told.image, told.tree, By.INSTRUCTION)) == [
        ("ADD base /", None, 2, 13, 2, 6), ("RUN make", None, 2, 6, 0, 0),
    ]


def test_by_extension(told: Told) -> None:
    assert rows(usage_of(told.image, told.tree, By.EXTENSION)) == [
        (".so", None, 2, 15, 0, 0), (NO_EXTENSION, None, 1, 3, 0, 0), (".txt", None, 1, 1, 1, 2), (".conf", None, 0, 0, 1, 4),
    ]


def test_what_removes_files_may_have_bytes_too() -> None:
    told = Told(tarbytes.tar(tarbytes.member("a", b"1")), tarbytes.tar(tarbytes.member(".wh.a", b"22")))
    assert rows(usage_of(told.image, told.tree)) == [("/", None, 0, 0, 2, 3)]


@pytest.mark.parametrize(("path", "extension"), [
    ("a/b.tar.GZ", ".gz"), ("libssl.so.3", ".so"), ("lib.so.1.2.3", ".so"), (".bashrc", NO_EXTENSION), ("README", NO_EXTENSION),
    ("a.b/c", NO_EXTENSION), ("x.", NO_EXTENSION), ("x.thisisnoextension", NO_EXTENSION), ("python3.12", NO_EXTENSION),
    ("a.\x1b[2J", NO_EXTENSION), ("..x", NO_EXTENSION), ("a.c++", ".c++"), ("", NO_EXTENSION), ("1.2", NO_EXTENSION),
])
def test_extensions(path: str, extension: str) -> None:
    assert extension_of(path) == extension


def test_several_rows_as_one() -> None:
    row = Portion(name="a", layer=1, files=1, bytes=2, hidden_files=3, hidden_bytes=4)
    assert rows((merge("x", [row, row]),)) == [("x", None, 2, 4, 6, 8)]
