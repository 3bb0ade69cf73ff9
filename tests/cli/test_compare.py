"""diff: docker's letters, what changed, layers, settings, exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cli.fakes import Command, digest

from lamina.errors import NotFound
from lamina.insight.comparison import Change, Comparison, ConfigChange, FileChange, LayerChange
from lamina.layer.entry import Entry, Kind
from lamina.oci.digest import Digest


def change(path: str, before: Entry | None, after: Entry | None, *fields: str) -> FileChange:
    letter = Change.ADDED if before is None else Change.REMOVED if after is None else Change.CHANGED
    return FileChange(
        path=path, change=letter, fields=fields, before=before, after=after,
        bytes_before=0 if before is None else before.size, bytes_after=0 if after is None else after.size,
    )


def layer(before: int | None, after: int | None, **changes: Any) -> LayerChange:
    return LayerChange(**{
        "before": before, "after": after, "is_prefix": False, "diff_id": Digest(digest("a")), "size": 1_000,
        "instruction": "RUN make", **changes,
    })


FOUND = Comparison(
    files=(
        change("etc/\x1b[2J", Entry("x", size=1_500), None),
        change("etc/a", Entry("a", size=1_000), Entry("a", size=2_000, mode=0o4755, uid=1), "mode", "owner", "content"),
        change("etc/b", Entry("b", size=7), Entry("b", size=7, xattrs={"user.x": b"1"}), "xattrs", "content"),
        change("lib", Entry("lib", Kind.DIRECTORY), Entry("lib", Kind.SYMLINK, linkname="usr/lib"), "kind"),
        change("link", Entry("l", Kind.SYMLINK, linkname="a\n"), Entry("l", Kind.SYMLINK, linkname="b"), "target", "mtime"),
        change("new", None, Entry("new", size=3)),
        change("null", Entry("n", Kind.CHAR, major=1, minor=3), Entry("n", Kind.CHAR, major=1, minor=5), "device"),
        change("run", None, Entry("run", Kind.DIRECTORY)),
    ),
    layers=(
        layer(0, 0, is_prefix=True, size=5_000), layer(1, None), layer(None, 1, instruction="RUN \x1b[2J"), layer(2, 3),
    ),
    config=(
        ConfigChange(field="Env", name="A", before="1", after="2\x1b"),
        ConfigChange(field="Cmd", name="", before=["sh"], after=None),
        ConfigChange(field="ExposedPorts", name="80/tcp", before=None, after={}),
    ),
)
NOTHING = Comparison(files=(), layers=(layer(0, 0, is_prefix=True),), config=())


def test_lines(command: Command) -> None:
    result = command("diff", "a:1", "a:2", diff=FOUND)
    assert result.asked == [("diff", ("a:1", "a:2", "/"), {"times": False, "platform": None})]
    assert result.lines == [
        "D /etc/\\x1b[2J  (1.5kB)",
        "C /etc/a  (mode 0644 -> 4755, owner 0:0 -> 1:0, content, 1kB -> 2kB)",
        "C /etc/b  (xattrs, content)",
        "C /lib  (kind directory -> symlink)",
        "C /link  (target a\\n -> b, mtime)",
        "A /new  (3B)",
        "C /null  (device 1:3 -> 1:5)",
        "A /run  (directory)",
        "C config Env.A  (1 -> 2\\x1b)",
        'D config Cmd  (["sh"])',
        "A config ExposedPorts.80/tcp",
        "2 added (3B), 5 changed (1.01kB -> 2.01kB), 1 removed (1.5kB); 3 settings different",
    ]
    assert result.code == 0, "as git diff has it"


def test_nothing_is_different(command: Command) -> None:
    result = command("diff", "--exit-code", "a:1", "a:2", diff=NOTHING)
    assert (result.code, result.out) == (0, "No file is different\n")


def test_exit_code(command: Command) -> None:
    assert command("diff", "--exit-code", "a:1", "a:2", diff=FOUND).code == 1
    only_config = Comparison(files=(), layers=(), config=FOUND.config[:1])
    result = command("diff", "--exit-code", "a:1", "a:2", diff=only_config)
    assert (result.code, result.lines[-1]) == (1, "No file is different; 1 setting different")


def test_names_only(command: Command) -> None:
    result = command("diff", "--name-only", "--times", "a:1", "a:2", "/etc", diff=FOUND)
    assert result.asked[0] == ("diff", ("a:1", "a:2", "/etc"), {"times": True, "platform": None})
    assert result.lines[:2] == ["/etc/\\x1b[2J", "/etc/a"]
    assert len(result.lines) == len(FOUND.files)


def test_layers(command: Command) -> None:
    assert command("diff", "--by", "layer", "a:1", "a:2", diff=FOUND).lines == [
        "IN     A   B   DIFF ID        SIZE   INSTRUCTION",
        "both   0   0   aaaaaaaaaaaa    5kB   RUN make",
        "A      1   -   aaaaaaaaaaaa    1kB   RUN make",
        "B      -   1   aaaaaaaaaaaa    1kB   RUN \\x1b[2J",
        "both   2   3   aaaaaaaaaaaa    1kB   RUN make",
        "layers: 2 (6kB) in both, 1 (1kB) only in A, 1 (1kB) only in B",
    ]


def test_json_is_one_document(command: Command) -> None:
    document = json.loads(command("diff", "--format", "json", "a:1", "a:2", diff=FOUND).out)
    assert list(document) == ["Before", "After", "Totals", "Files", "Layers", "Config"]
    assert document["Totals"] == {
        "Added": {"Files": 2, "Bytes": 3}, "Changed": {"Files": 5, "BytesBefore": 1_007, "BytesAfter": 2_007},
        "Removed": {"Files": 1, "Bytes": 1_500},
    }
    assert document["Files"][2] == {
        "Path": "/etc/b", "Change": "C", "Fields": ["xattrs", "content"],
        "Before": {"Kind": "file", "Size": 7, "Mode": "0644", "Uid": 0, "Gid": 0, "Mtime": 0, "Target": "", "Xattrs": []},
        "After": {"Kind": "file", "Size": 7, "Mode": "0644", "Uid": 0, "Gid": 0, "Mtime": 0, "Target": "",
                  "Xattrs": ["user.x"]},
    }
    assert document["Files"][0]["After"] is None
    assert document["Layers"][1] == {
        "In": "A", "Before": 1, "After": None, "IsPrefix": False, "DiffID": digest("a"), "Size": 1_000,
        "Instruction": "RUN make",
    }
    assert document["Config"][2] == {"Field": "ExposedPorts", "Name": "80/tcp", "Before": None, "After": {}}


def test_templates(command: Command) -> None:
    assert command("diff", "--format", "{{.Change}} {{.Path}}", "a", "b", diff=FOUND).lines[1] == "C /etc/a"
    assert command("diff", "--by", "layer", "--format", "{{.In}} {{.Size}}", "a", "b", diff=FOUND).lines[0] == "both 5000"


@pytest.mark.parametrize(("words", "sentence"), [
    (("a:1",), "lamina: x: no such container"),
    (("--by", "colour", "a", "b"), "lamina: --by: invalid choice: 'colour' (choose from file, layer)"),
])
def test_what_cannot_be_read(command: Command, words: tuple[str, ...], sentence: str) -> None:
    result = command("diff", *words)
    assert result.code == 125
    assert result.err.splitlines()[0].replace("'file', 'layer'", "file, layer") == sentence


def test_trouble_is_not_a_difference(command: Command) -> None:
    result = command("diff", "--exit-code", "a", "b", diff=NotFound("a: no such image"))
    assert (result.code, result.err) == (125, "lamina: a: no such image\n")
