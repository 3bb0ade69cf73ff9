"""layers, blame, obscured, ls, cat: what the engine answers, in tables and sentences."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.fakes import Command, digest, value

from lamina.errors import NotFound
from lamina.insight.provenance import Blame, Deletion, LayerSummary, Obscured, Version
from lamina.layer.entry import Kind
from lamina.layer.tree import Reason
from lamina.oci.digest import Digest

LAYERS = (
    LayerSummary(
        number=0, diff_id=Digest(digest("a")), digest=Digest(digest("1")), instruction="ADD base.tar /",
        compressed=2_000_000, size=4_040_000, files_added=505, files_changed=0, files_hidden=0, bytes_hidden=0,
        shared_with=("busybox:1", "other:2"),
    ),
    LayerSummary(
        number=1, diff_id=Digest(digest("b")), digest=Digest(digest("2")),
        instruction="RUN make \\\n  things that take a very long line to say because there are many of them",
        compressed=900, size=10_240, files_added=1, files_changed=2, files_hidden=3, bytes_hidden=1_500,
    ),
)


def test_layers(command: Command) -> None:
    assert command("layers", "app", layers=LAYERS).lines == [
        "LAYER   DIFF ID        PULLED AS      COMPRESSED     SIZE   ADDED   CHANGED   HIDES   SHARED WITH          INSTRUCTION",
        "    0   aaaaaaaaaaaa   111111111111          2MB   4.04MB     505         0       0   busybox:1, other:2   ADD base.tar /",
        "    1   bbbbbbbbbbbb   222222222222         900B   10.2kB       1         2       3   -                    RUN make \\ things that take a very long line to say because…",
    ]


def test_layers_whole(command: Command) -> None:
    out = command("layers", "--no-trunc", "app", layers=LAYERS).out
    assert digest("a") in out
    assert digest("1") in out
    assert "many of them" in out
    assert len(out.splitlines()) == 3, "an instruction of several lines stays on one"


def test_layers_as_json_are_exact(command: Command) -> None:
    first = json.loads(command("layers", "--format", "json", "app", layers=LAYERS).lines[0])
    assert first == {
        "Layer": 0, "DiffID": digest("a"), "Digest": digest("1"), "Compressed": 2_000_000, "Size": 4_040_000,
        "Added": 505, "Changed": 0, "Hidden": 0, "HiddenBytes": 0, "SharedWith": ["busybox:1", "other:2"],
        "Instruction": "ADD base.tar /",
    }


def test_layers_by_template(command: Command) -> None:
    result = command("layers", "--format", '{{.Layer}} {{join .SharedWith "+"}}', "app", layers=LAYERS)
    assert result.lines == ["0 busybox:1+other:2", "1 "]


def test_layers_explain_the_two_names_to_people_only(command: Command) -> None:
    assert command("layers", "app", layers=LAYERS).err == ""
    command.is_terminal = True
    err = command("layers", "app", layers=LAYERS).err
    assert "One layer, two names." in err
    assert "1.5kB are hidden" in err


# -- blame


def blame(**changes: Any) -> Blame:
    return Blame(**{
        "path": "etc/app.conf", "layer": 2, "diff_id": Digest(digest("c")), "instruction": "COPY app.conf /etc/",
        "kind": Kind.FILE, "size": 1_234, "hides": (), "deleted_by": None, **changes,
    })


LOWER = Version(
    layer=0, diff_id=Digest(digest("a")), instruction="ADD base.tar /\x1b[2J", kind=Kind.FILE, size=99, hidden_by=2,
    reason=Reason.REPLACED,
)
GONE = Deletion(layer=3, diff_id=Digest(digest("d")), instruction="RUN rm -r /etc", path="etc", reason=Reason.DELETED)


def test_blame_of_a_file_that_hides_another(command: Command) -> None:
    result = command("blame", "app:1", "/etc/app.conf", blame=blame(hides=(LOWER,)))
    assert result.asked == [("blame", ("app:1", "/etc/app.conf"), {})]
    assert result.lines == [
        "/etc/app.conf: file, 1.23kB",
        "  from   layer 2 (cccccccccccc)",
        "  by     COPY app.conf /etc/",
        "  hides  layer 0's file, 99B, by ADD base.tar /\\x1b[2J",
    ]


def test_blame_of_a_file_that_is_gone(command: Command) -> None:
    assert command("blame", "app:1:/etc/app.conf", blame=blame(deleted_by=GONE, instruction="")).lines == [
        "/etc/app.conf: file, 1.23kB, seen by no container",
        "  from   layer 2 (cccccccccccc)",
        "  by     (its history does not say)",
        "  gone   deleted with /etc by layer 3: RUN rm -r /etc",
        "  hides  nothing: no layer below has this path",
    ]


def test_blame_of_other_kinds(command: Command) -> None:
    covered = Version(layer=0, diff_id=Digest(digest("a")), instruction="ADD base.tar /", kind=Kind.DIRECTORY, size=0,
                      hidden_by=1, reason=None)
    assert command("blame", "a", "/d", blame=blame(kind=Kind.DIRECTORY, hides=(covered,))).lines[0::3] == [
        "/etc/app.conf: directory", "  covers layer 0's directory, by ADD base.tar /",
    ]
    assert command("blame", "a", "/d", blame=blame(kind=Kind.HARDLINK)).lines[0] == (
        "/etc/app.conf: hard link, 1.23kB"
    )


def test_blame_as_json(command: Command) -> None:
    document = json.loads(command("blame", "--format", "json", "a", "/b", blame=blame(hides=(LOWER,), deleted_by=GONE)).out)
    assert document["Hides"] == [{
        "Layer": 0, "DiffID": digest("a"), "Instruction": "ADD base.tar /\x1b[2J", "Place": "", "Kind": "file", "Size": 99,
        "HiddenBy": 2, "Reason": "replaced",
    }]
    assert document["DeletedBy"]["Path"] == "/etc"


# -- obscured


def row(**changes: Any) -> Obscured:
    return Obscured(**{
        "path": "etc/app.conf", "kind": Kind.FILE, "size": 1_500, "layer": 0, "instruction": "ADD base.tar /",
        "hidden_by": 2, "hidden_by_instruction": "COPY app.conf /etc/", "reason": Reason.REPLACED, **changes,
    })


def test_obscured_with_a_total(command: Command) -> None:
    found = (row(), row(path="s\u202eecret", size=500, reason=Reason.DELETED))
    assert command("obscured", "app", obscured=found).lines == [
        "PATH             SIZE   LAYER   HIDDEN BY   REASON     HIDDEN BY INSTRUCTION",
        "/etc/app.conf   1.5kB       0           2   replaced   COPY app.conf /etc/",
        "/s\\u202eecret    500B       0           2   deleted    COPY app.conf /etc/",
        "2 files, 2kB: stored and pulled, but seen by no container",
    ]


def test_obscured_one_and_none(command: Command) -> None:
    assert command("obscured", "app", obscured=(row(),)).lines[-1].startswith("1 file, 1.5kB: ")
    assert command("obscured", "app", obscured=()).out == (
        "Nothing is obscured: a container sees every file that is stored.\n"
    )
    assert command("obscured", "--format", "json", "app", obscured=()).out == ""


# -- ls


def file(path: str, **changes: Any) -> SimpleNamespace:
    return value(**{
        "path": path, "name": path.rpartition("/")[2], "kind": Kind.FILE, "mode": 0o644, "uid": 0, "gid": 0,
        "size": 1_234, "mtime": 1_714_564_800 * 10**9, "target": "", "layer": 0, **changes,
    })


FILES = (
    file("bin", kind=Kind.DIRECTORY, mode=0o1777, size=0),
    file("bin/sh", kind=Kind.SYMLINK, mode=0o777, size=0, target="/bin/busybox"),
    file("bin/su", mode=0o4755, uid=1000, gid=50, layer=2),
    file("bin/copy", kind=Kind.HARDLINK, target="bin/su"),
    file("dev/\x1b[31mred\n", kind=Kind.CHAR, mode=0o600),
)


@pytest.mark.parametrize(("words", "asked"), [
    (("app",), ("app", "/")), (("app:1",), ("app:1", "/")), (("app:1:/etc",), ("app:1", "/etc")),
    (("localhost:5000/app:1:/a:/b",), ("localhost:5000/app:1", "/a:/b")), (("app", "etc"), ("app", "etc")),
])
def test_where_image_ends_and_path_begins(command: Command, words: tuple[str, ...], asked: tuple[str, str]) -> None:
    assert command("ls", *words, ls=()).asked == [("ls", asked, {"layer": None, "recursive": False})]


def test_ls_prints_names(command: Command) -> None:
    assert command("ls", "app", ls=FILES).lines == ["bin", "sh", "su", "copy", "\\x1b[31mred\\n"]


def test_ls_recursive_prints_paths(command: Command) -> None:
    result = command("ls", "-R", "--layer", "2", "app", ls=FILES)
    assert result.lines == ["/bin", "/bin/sh", "/bin/su", "/bin/copy", "/dev/\\x1b[31mred\\n"]
    assert result.asked[0][2] == {"layer": 2, "recursive": True}


def test_ls_long(command: Command) -> None:
    assert command("ls", "-la", "app", ls=FILES).lines == command("ls", "-l", "app", ls=FILES).lines
    assert command("ls", "-lh", "app", ls=FILES).lines == command("ls", "-lH", "app", ls=FILES).lines
    assert command("ls", "-lx", "app").err.startswith("lamina: ls: unknown option -x\n")
    assert command("ls", "-l", "app", ls=FILES).lines == [
        "MODE         OWNER     SIZE   MODIFIED           LAYER   NAME",
        "drwxrwxrwt   0:0          0   2024-05-01 12:00       0   bin",
        "lrwxrwxrwx   0:0          0   2024-05-01 12:00       0   sh -> /bin/busybox",
        "-rwsr-xr-x   1000:50   1234   2024-05-01 12:00       2   su",
        "-rw-r--r--   0:0       1234   2024-05-01 12:00       0   copy = /bin/su",
        "crw-------   0:0       1234   2024-05-01 12:00       0   \\x1b[31mred\\n",
    ]
    assert "1.23kB" in command("ls", "-lH", "app", ls=FILES).out


def test_ls_as_json_is_exact(command: Command) -> None:
    lines = command("ls", "--format", "json", "app", ls=FILES).lines
    assert json.loads(lines[1]) == {
        "Mode": "lrwxrwxrwx", "Owner": "0:0", "Size": 0, "Modified": "2024-05-01 12:00", "Layer": 0, "Name": "sh",
        "Path": "/bin/sh", "Kind": "symlink", "Target": "/bin/busybox",
    }
    assert json.loads(lines[4])["Path"] == "/dev/\x1b[31mred\n"


# -- cat

CONTENT = "é\n".encode() + b"\x1b[2J\xff"


def test_cat_gives_exact_bytes_to_a_pipe(command: Command) -> None:
    result = command("cat", "app:1:/etc/x", cat=lambda *_, **__: io.BytesIO(CONTENT))
    assert result.raw == CONTENT
    assert result.asked == [("cat", ("app:1", "/etc/x"), {"layer": None})]


def test_cat_gives_harmless_text_to_a_terminal(command: Command) -> None:
    command.is_terminal = True
    result = command("cat", "--layer", "1", "app:1", "/etc/x", cat=lambda *_, **__: io.BytesIO(CONTENT))
    assert result.out == "é\n\\x1b[2J\\xff"
    assert result.asked[0][2] == {"layer": 1}


def test_cat_needs_a_path(command: Command) -> None:
    result = command("cat", "app:1")
    assert result.code == 125
    assert result.err == "lamina: app:1: expected a path too, as in app:1:/etc/os-release\n"


def test_cat_of_what_is_not_there(command: Command) -> None:
    result = command("cat", "app", "/x", cat=NotFound("/x: no such file in app"))
    assert (result.code, result.err) == (1, "lamina: /x: no such file in app\n")
