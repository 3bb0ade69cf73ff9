"""du: rows that add up, and where image ends and path begins."""

from __future__ import annotations

import json

import pytest
from tests.cli.fakes import Command

from lamina.cli.du import split_place
from lamina.errors import NotFound
from lamina.insight.usage import Portion


def row(name: str, size: int, hidden: int = 0, *, layer: int | None = None) -> Portion:
    return Portion(name=name, layer=layer, files=size // 1000, bytes=size, hidden_files=hidden // 1000, hidden_bytes=hidden)


ROWS = (row("/usr", 9_000, 1_000), row("/\x1b[2J", 2_000), row("/etc", 1_000), row("/gone", 0, 5_000))
LAYERS = (row("ADD base.tar /\nx", 9_000, 1_000, layer=0), row("", 0, layer=1))


def test_live_files(command: Command) -> None:
    result = command("du", "app", du=ROWS)
    assert result.asked == [("du", ("app", "/"), {"by": "dir", "depth": 1, "platform": None})]
    assert result.lines == [
        "SIZE   FILES   DIRECTORY",
        " 9kB       9   /usr",
        " 2kB       2   /\\x1b[2J",
        " 1kB       1   /etc",
        "12kB in 12 files",
    ]


def test_hidden_files_too(command: Command) -> None:
    assert command("du", "--hidden", "app", du=ROWS).lines == [
        "SIZE   HIDDEN   FILES   DIRECTORY",
        " 9kB      1kB       9   /usr",
        " 2kB       0B       2   /\\x1b[2J",
        " 1kB       0B       1   /etc",
        "  0B      5kB       0   /gone",
        "12kB in 12 files, and 6kB that no container sees: 18kB stored",
    ]


def test_only_so_many_rows_and_the_rest(command: Command) -> None:
    lines = command("du", "-n", "1", "--hidden", "app", du=ROWS).lines
    assert lines[2] == " 3kB      5kB       3   (3 more)"
    assert lines[3].startswith("12kB in 12 files")
    assert len(command("du", "-n", "3", "app", du=ROWS).lines) == 5


def test_by_layer(command: Command) -> None:
    assert command("du", "--by", "layer", "app", du=LAYERS).lines == [
        "LAYER   SIZE   FILES   INSTRUCTION",
        "    0    9kB       9   ADD base.tar / x",
        "    1     0B       0   (its history does not say)",
        "9kB in 9 files",
    ]


def test_by_extension(command: Command) -> None:
    result = command("du", "--by", "extension", "--depth", "3", "app:/usr", du=(row(".so", 1_000),))
    assert result.asked[0] == ("du", ("app", "/usr"), {"by": "extension", "depth": 3, "platform": None})
    assert result.lines[-1] == "1kB in 1 file"


def test_json_is_exact(command: Command) -> None:
    lines = command("du", "--format", "json", "app", du=ROWS).lines
    assert json.loads(lines[0]) == {
        "Name": "/usr", "Layer": None, "Size": 9_000, "Files": 9, "Hidden": 1_000, "HiddenFiles": 1,
    }
    assert len(lines) == 3
    assert command("du", "--format", "{{.Name}}", "app", du=()).out == ""


@pytest.mark.parametrize(("words", "place"), [
    (("app",), ("app", "/")),
    (("app:1:/usr",), ("app:1", "/usr")),
    (("localhost:5000/a:1:/b:/c",), ("localhost:5000/a:1", "/b:/c")),
    (("docker://host:5000/app:1",), ("docker://host:5000/app:1", "/")),
    (("docker://app:/usr",), ("docker://app", "/usr")),
    (("oci:/srv/layout:tag:/usr",), ("oci:/srv/layout:tag", "/usr")),
    (("oci-archive:/srv/a.tar",), ("oci-archive:/srv/a.tar", "/")),
    (("./a.tar:/usr",), ("./a.tar", "/usr")),
    (("/srv/odd:/a.tar", "usr"), ("/srv/odd:/a.tar", "usr")),
])
def test_where_image_ends_and_path_begins(words: tuple[str, ...], place: tuple[str, str]) -> None:
    assert split_place(words[0], words[1] if len(words) > 1 else None) == place


@pytest.mark.parametrize(("words", "sentence"), [
    (("--depth", "0", "app"), "lamina: --depth: expected 1 or more, got 0"),
    (("-n", "-1", "app"), "lamina: --rows: expected 1 or more, got -1"),
    (("--dept", "2", "app"), "lamina: du: unknown option --dept; did you mean --depth?"),
])
def test_what_cannot_be_read(command: Command, words: tuple[str, ...], sentence: str) -> None:
    result = command("du", *words, du=ROWS)
    assert (result.code, result.err.splitlines()[0]) == (125, sentence)


def test_a_path_that_is_not_there(command: Command) -> None:
    result = command("du", "app", "/x", du=NotFound("/x: no layer of app has it"))
    assert (result.code, result.err) == (1, "lamina: /x: no layer of app has it\n")
