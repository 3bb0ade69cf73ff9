"""waste: a table that says what to do, a document with everything, a gate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cli.fakes import Command

from lamina.cli.arguments import UsageError
from lamina.cli.waste import _KINDS, parse_percent, parse_size
from lamina.engine.lookup import ImageNotFound
from lamina.insight.waste import Waste, WasteItem, WasteKind


def item(path: str, **changes: Any) -> WasteItem:
    return WasteItem(**{
        "kind": WasteKind.DELETED, "path": path, "bytes": 1_500, "layer": 0, "instruction": "RUN make", "other": 2,
        "other_instruction": "RUN rm", "fix": "remove it in the RUN that made it (layer 0)", **changes,
    })


def waste(*items: WasteItem, total: int = 100_000) -> Waste:
    return Waste(total_bytes=total, wasted_bytes=sum(each.bytes for each in items), items=items)


FOUND = waste(
    item("opt/b/\x1b[2J", kind=WasteKind.DUPLICATE, bytes=5_000, layer=2, other=0, other_path="a"),
    item("etc/x", kind=WasteKind.METADATA, bytes=4_000, changed=("mode", "owner"), fix="f" * 100),
    item("etc/y", kind=WasteKind.METADATA, bytes=2_000, fix="leave it"),
    item("srv/app/1"), item("srv/app/2"),
    item("old", kind=WasteKind.MOVED, bytes=10, other_path="new\n", fix="move it"),
    item("tmp/z", kind=WasteKind.CACHE, bytes=1, other=None, other_instruction="", other_path="tmp", fix="rm"),
)


def test_the_table(command: Command) -> None:
    result = command("waste", "app", waste=FOUND)
    assert result.asked == [("waste", ("app",), {"platform": None})]
    assert result.lines == [
        "PATH                  SIZE   FILES   KIND                     LAYER   OTHER   FIX",
        "/opt/b/\\x1b[2J = /a    5kB       1   duplicate                    2       0   remove it in the RUN that made it (layer 0)",
        "/etc/x                 4kB       1   metadata (mode, owner)       0       2   " + "f" * 79 + "…",
        "/srv/app/              3kB       2   deleted                      0       2   remove it in the RUN that made it (layer 0)",
        "/etc/y                 2kB       1   metadata (unchanged)         0       2   leave it",
        "/old -> /new\\n         10B       1   moved                        0       2   move it",
        "/tmp/z                  1B       1   cache                        0       -   rm",
        "Score 86.0%: 14kB of 100kB, in 7 files, are pulled for nothing",
        "  metadata 6kB, duplicate 5kB, deleted 3kB, moved 10B, cache 1B",
    ]
    assert (result.code, result.err) == (0, "")


def test_one_row_a_file_and_whole_fixes(command: Command) -> None:
    lines = command("waste", "--no-group", "--no-trunc", "app", waste=FOUND).lines
    assert [line.split()[0] for line in lines[4:6]] == ["/srv/app/1", "/srv/app/2"]
    assert "f" * 100 in lines[2]


@pytest.mark.parametrize(("found", "sentence"), [
    (waste(total=2_000_000), "Score 100%: nothing of 2MB is wasted"),
    (waste(item("a", bytes=1), total=2_000_000), "Score 99.9%: 1B of 2MB, in 1 file, are pulled for nothing"),
])
def test_nothing_and_next_to_nothing(command: Command, found: Waste, sentence: str) -> None:
    assert command("waste", "app", waste=found).lines[-1] == sentence


def test_json_is_one_document_with_every_file(command: Command) -> None:
    document = json.loads(command("waste", "--format", "json", "app", waste=FOUND).out)
    assert list(document) == ["Image", "TotalBytes", "WastedBytes", "Score", "Kinds", "Items"]
    assert (document["Image"], document["TotalBytes"], document["WastedBytes"], document["Score"]) == (
        "app", 100_000, 14_011, 85.99)
    assert document["Kinds"]["deleted"] == {"Files": 2, "Bytes": 3_000}
    assert len(document["Items"]) == 7
    assert document["Items"][0] == {
        "Path": "/opt/b/\x1b[2J", "Kind": "duplicate", "Size": 5_000, "Layer": 2, "Instruction": "RUN make", "Other": 0,
        "OtherInstruction": "RUN rm", "OtherPath": "/a", "Changed": [], "Fix": "remove it in the RUN that made it (layer 0)",
    }
    assert document["Items"][6]["Other"] is None
    assert json.loads(command("waste", "--format", "json", "app", waste=waste()).out)["Items"] == []


def test_templates_have_rows(command: Command) -> None:
    assert command("waste", "--format", "{{.Path}} {{.Files}} {{.Kind}}", "app", waste=FOUND).lines[2:4] == [
        "/srv/app/ 2 deleted", "/etc/y 1 metadata"]
    assert command("waste", "--format", "{{.Path}}", "app", waste=waste()).out == ""


@pytest.mark.parametrize(("words", "code", "complaint"), [
    (("--fail-over", "14.1%"), 0, ""),
    (("--fail-over", "14"), 1, "lamina: waste: 14% of all bytes are wasted, 0.011 points over the limit of 14%\n"),
    (("--fail-over", "0%"), 1, "lamina: waste: 14% of all bytes are wasted, 14 points over the limit of 0%\n"),
    (("--fail-over-bytes", "14011"), 0, ""),
    (("--fail-over-bytes", "10kB"), 1, "lamina: waste: 14kB are wasted, 4.01kB over the limit of 10kB\n"),
    (("--fail-over", "99%", "--fail-over-bytes", "1MB"), 0, ""),
    (("--fail-over", "1%", "--kind", "cache"), 0, ""),
    (("--fail-over-bytes", "0", "--kind", "cache"), 1, "lamina: waste: 1B are wasted, 1B over the limit of 0B\n"),
])
def test_the_gate(command: Command, words: tuple[str, ...], code: int, complaint: str) -> None:
    result = command("waste", *words, "app", waste=FOUND)
    assert (result.code, result.err) == (code, complaint)
    assert "are pulled for nothing" in result.out


def test_both_limits_are_told(command: Command) -> None:
    result = command("waste", "--fail-over=1%", "--fail-over-bytes=1B", "--format=json", "app", waste=FOUND)
    assert (result.code, len(result.err.splitlines())) == (1, 2)
    assert json.loads(result.out)["WastedBytes"] == 14_011


def test_only_some_kinds(command: Command) -> None:
    lines = command("waste", "--kind", "cache", "--kind", "moved", "app", waste=FOUND).lines
    assert len(lines) == 5
    assert lines[-2] == "Score 99.9%: 11B of 100kB, in 2 files, are pulled for nothing"
    assert set(_KINDS) == set(WasteKind)


@pytest.mark.parametrize(("words", "sentence"), [
    (("--kind", "delete", "app"), "lamina: --kind: there is no kind 'delete'; did you mean deleted?"),
    (("--kind", "x", "app"), f"lamina: --kind: there is no kind 'x' (one of {', '.join(_KINDS)})"),
    (("--fail-over", "lots", "app"), "lamina: --fail-over: expected a share of all bytes such as 5%, got 'lots'"),
    (("--fail-over-bytes", "10 parsecs", "app"), "lamina: --fail-over-bytes: expected a size such as 500kB or 10MB, got '10 parsecs'"),
    (("--fail-ovr", "5%", "app"), "lamina: waste: unknown option --fail-ovr; did you mean --fail-over?"),
    ((), "lamina: waste needs IMAGE"),
])
def test_what_cannot_be_read_is_trouble_before_anything_is_asked(
    command: Command, words: tuple[str, ...], sentence: str
) -> None:
    result = command("waste", *words, waste=FOUND)
    assert (result.code, result.err.splitlines()[0], result.asked) == (125, sentence, [])


def test_what_cannot_be_judged_is_trouble_too(command: Command) -> None:
    result = command("waste", "app", waste=ImageNotFound("app: no such image"))
    assert (result.code, result.err) == (125, "lamina: app: no such image\n")


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("4096", 4096), ("10B", 10), ("10kB", 10_000), ("1.5 MB", 1_500_000), ("2g", 2 * 10**9), ("1KiB", 1024),
    ("1tib", 1 << 40),
])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--x") == size


@pytest.mark.parametrize("text", ["", "-1", "1.MB", "MB", "1x", "1ki b", "1e3", "٣MB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text, "--x")


@pytest.mark.parametrize("text", ["", "-1%", "101%", "5%%", "nan", "٣%"])
def test_no_shares(text: str) -> None:
    with pytest.raises(UsageError):
        parse_percent(text, "--x")
