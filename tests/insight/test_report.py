"""What a report says of an image, and that hostile or huge images cannot make it say more than it should."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from tests.layer.indexed import index_of_tar

from lamina.content.memory import MemoryStore
from lamina.image import Image
from lamina.insight.report import (
    MAX_FILES,
    MAX_ROWS,
    MAX_TEXT,
    BigFile,
    ObscuredFile,
    Remedy,
    ReportData,
    Rows,
    Step,
    WasteFile,
    brief,
    make_report,
)
from lamina.insight.waste import Waste, WasteItem, WasteKind
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Reason, Tree
from lamina.oci.digest import Digest
from lamina.testing.images import directory, file, hardlink, make_image, make_layer, symlink, whiteout

NO_WASTE = Waste(total_bytes=0, wasted_bytes=0, items=())


def report_of(
    *layers: tuple[str, Iterable[Entry]], waste: Waste = NO_WASTE, name: str = "app:1",
    shared_with: dict[Digest, tuple[str, ...]] | None = None, **execution: Any,
) -> ReportData:
    """Layers are pairs: instruction, entries."""
    made = [make_layer(list(entries), created_by=created_by) for created_by, entries in layers]
    store = MemoryStore()
    image = Image.load(store, make_image(made, execution=execution).put(store), None)
    tree = Tree(index_of_tar(layer.tar) for layer in made)
    return make_report(image, tree, waste, name=name, shared_with=shared_with)


def item(path: str, size: int, **changes: Any) -> WasteItem:
    return WasteItem(**{"kind": WasteKind.DELETED, "path": path, "bytes": size, "layer": 0,
                        "instruction": "ADD base /", "fix": "do not", "other": 1, **changes})


@pytest.fixture(scope="module")
def report() -> ReportData:
    waste = Waste(total_bytes=129, wasted_bytes=70, items=(
        item("etc/big", 50), item("etc/old", 20), item("x", 5, fix="else", changed=("mode",), other=None),
    ))
    return report_of(
        ("/bin/sh -c #(nop) ADD file:1 in / ", [
            directory("etc"), file("etc/big", b"x" * 50), file("etc/old", b"x" * 20), file("etc/motd", b"hello"),
        ]),
        ("RUN /bin/sh -c rm /etc/big # buildkit", [whiteout("etc/big"), file("etc/old", b"new"), directory("var")]),
        ("COPY . /", [hardlink("etc/alias", "etc/motd"), symlink("lnk", "etc"), file("app", b"a" * 51)]),
        waste=waste, Env=["A=1", "B=2"], Cmd=["sh", "-c", "x"], User="app", ExposedPorts={"80/tcp": {}}, Labels={"k": "v"},
        Entrypoint=None, ArgsEscaped=False, Healthcheck={"Test": ["CMD", "true"], "Interval": 5},
    )


def test_facts_about_the_image(report: ReportData) -> None:
    facts = report.image
    assert (facts.name, facts.platform, facts.created) == ("app:1", "linux/amd64", "2024-05-01T12:00:00Z")
    assert facts.size == 50 + 20 + 5 + 3 + 51
    assert (facts.files, facts.obscured_bytes) == (5, 70)
    assert (facts.wasted_bytes, facts.score) == (70, 45.74)
    assert facts.compressed == sum(layer.summary.compressed for layer in report.layers)


def test_facts_about_layers(report: ReportData) -> None:
    base, run, copy = report.layers
    assert [layer.summary.instruction for layer in report.layers] == ["ADD file:1 in /", "RUN rm /etc/big", "COPY . /"]
    assert (base.size, base.obscured_bytes, base.summary.files_added) == (75, 70, 3)
    assert (run.size, run.obscured_bytes, run.summary.bytes_hidden) == (3, 0, 70)
    assert base.biggest == (
        BigFile(path="etc/big", size=50, is_obscured=True), BigFile(path="etc/old", size=20, is_obscured=True),
        BigFile(path="etc/motd", size=5, is_obscured=False),
    )
    assert copy.biggest == (BigFile(path="app", size=51, is_obscured=False),)


def test_files_are_those_that_a_container_sees_and_each_byte_once(report: ReportData) -> None:
    rows = {node.name: (node.kind, node.layer, node.size) for node in report.files[1:]}
    assert rows == {
        "etc": (Kind.DIRECTORY, 0, 8), "alias": (Kind.FILE, 2, 5), "motd": (Kind.HARDLINK, 0, 0),
        "old": (Kind.FILE, 1, 3), "lnk": (Kind.SYMLINK, 2, 0), "app": (Kind.FILE, 2, 51),
    }
    assert report.files[0].size == report.image.size - report.image.obscured_bytes


def test_obscured_files_come_with_the_largest_first(report: ReportData) -> None:
    assert report.obscured == Rows(total=2, total_bytes=70, rows=(
        ObscuredFile(path="etc/big", kind=Kind.FILE, size=50, layer=0, hidden_by=1, reason=Reason.DELETED),
        ObscuredFile(path="etc/old", kind=Kind.FILE, size=20, layer=0, hidden_by=1, reason=Reason.REPLACED),
    ))


def test_one_remedy_for_files_with_the_same_cause(report: ReportData) -> None:
    def lost(path: str, size: int, other: int | None, *changed: str) -> WasteFile:
        return WasteFile(path=path, size=size, other=other, other_path="", changed=changed)

    assert report.waste == Rows(total=2, total_bytes=75, rows=(
        Remedy(kind=WasteKind.DELETED, layer=0, fix="do not",
               files=Rows(rows=(lost("etc/big", 50, 1), lost("etc/old", 20, 1)), total=2, total_bytes=70)),
        Remedy(kind=WasteKind.DELETED, layer=0, fix="else",
               files=Rows(rows=(lost("x", 5, None, "mode"),), total=1, total_bytes=5)),
    ))


def test_history_in_the_order_of_the_dockerfile(report: ReportData) -> None:
    assert report.history.rows[1] == Step(
        instruction="RUN rm /etc/big", created="2024-05-01T12:00:00Z", comment="", layer=1, size=3)
    assert (report.history.total, report.history.total_bytes) == (3, 129)


def test_settings_are_lists_of_texts(report: ReportData) -> None:
    assert {setting.name: setting.values for setting in report.settings} == {
        "Env": ("A=1", "B=2"), "Cmd": ("sh", "-c", "x"), "User": ("app",), "ExposedPorts": ("80/tcp",),
        "Labels": ("k=v",), "Healthcheck": ('Test=["CMD", "true"]', "Interval=5"),
    }


def test_an_image_without_layers() -> None:
    report = report_of()
    assert (report.image.size, report.image.score, report.layers, report.obscured.total) == (0, 100.0, (), 0)
    assert [node.size for node in report.files] == [0]


# -- bounds


def test_long_texts_are_cut() -> None:
    assert brief("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert brief("x" * 100_000) == "x" * MAX_TEXT + "… (98,000 more characters)"


def test_a_huge_image_gives_a_small_report() -> None:
    count = 3 * MAX_ROWS
    names = [f"d{number % 7}/file-{number}" for number in range(count)]
    waste = Waste(total_bytes=count, wasted_bytes=count, items=tuple(
        item(name, number + 1, fix="same" if number % 2 else f"fix {number}") for number, name in enumerate(names)
    ))
    report = report_of(
        ("RUN " + "y" * 100_000, [file(name, b"x" * (number % 50)) for number, name in enumerate(names)]),
        ("RUN rm", [whiteout(f"d{number}") for number in range(7)]),
        waste=waste, Env=["X=" + "z" * 3_000] * 1000, Labels={f"l{number}": "" for number in range(1000)},
        shared_with=None,
    )
    assert (report.obscured.total, len(report.obscured.rows)) == (count, MAX_ROWS)
    assert report.obscured.total_bytes == sum(number % 50 for number in range(count))
    assert (report.waste.total, len(report.waste.rows)) == (count // 2 + 1, MAX_ROWS)
    same = report.waste.rows[0]
    assert (same.fix, same.files.total, len(same.files.rows)) == ("same", count // 2, MAX_FILES)
    assert [(len(setting.values), setting.more) for setting in report.settings] == [(MAX_ROWS, 500)] * 2
    assert max(len(value) for setting in report.settings for value in setting.values) < MAX_TEXT + 50
    assert len(report.layers[0].biggest) == MAX_FILES
    assert len(json.dumps(report.to_json())) < 3_000_000


def test_a_history_without_end_keeps_its_end() -> None:
    report = report_of(*((f"RUN {number}", [file("a", b"x")]) for number in range(MAX_ROWS + 3)))
    assert report.history.total == MAX_ROWS + 3
    assert [step.layer for step in report.history.rows[:: MAX_ROWS - 1]] == [3, MAX_ROWS + 2]


def test_settings_of_any_shape() -> None:
    nested: Any = "x"
    for _ in range(900):
        nested = [nested]
    report = report_of(Deep={"k": nested}, Number=3, Text="t", Empty=[], Nothing=None, Odd=[1, {"a": None}])
    values = {setting.name: setting.values for setting in report.settings}
    assert values.pop("Deep")[0].startswith("k=[[[[")
    assert values == {"Number": ("3",), "Text": ("t",), "Odd": ("1", '{"a": null}')}


# -- JSON


def test_the_document(report: ReportData) -> None:
    document = json.loads(json.dumps(report.to_json()))
    assert list(document) == ["Image", "Layers", "Files", "Obscured", "Waste", "History", "Settings"]
    assert list(document["Image"]) == [
        "Name", "Digest", "ID", "Platform", "Created", "Compressed", "Size", "Files", "ObscuredBytes", "WastedBytes",
        "Score",
    ]
    assert list(document["Layers"][0]) == [
        "Layer", "DiffID", "Digest", "MediaType", "Instruction", "Created", "Compressed", "TarSize", "Size",
        "ObscuredBytes", "Added", "Changed", "Hidden", "HiddenBytes", "SharedWith", "SharedWithTotal", "Biggest",
    ]
    assert document["Files"][1] == {"Name": "app", "Parent": 0, "Kind": "file", "Layer": 2, "Size": 51, "Files": 1}
    assert document["Obscured"]["Rows"][0] == {
        "Path": "/etc/big", "Kind": "file", "Size": 50, "Layer": 0, "HiddenBy": 1, "Reason": "deleted"}
    assert document["Waste"]["Rows"][1] == {"Kind": "deleted", "Layer": 0, "Fix": "else", "Files": {
        "Rows": [{"Path": "/x", "Size": 5, "Other": None, "OtherPath": "", "Changed": ["mode"]}], "Total": 1,
        "TotalBytes": 5}}
    assert document["History"]["Rows"][2] == {
        "Instruction": "COPY . /", "Created": "2024-05-01T12:00:00Z", "Comment": "", "Layer": 2, "Size": 51}
    assert document["Settings"][0] == {"Name": "Env", "Values": ["A=1", "B=2"], "More": 0}
    assert document["Layers"][0]["Biggest"][0] == {"Path": "/etc/big", "Size": 50, "IsObscured": True}


def test_what_stands_for_smaller_files_says_so() -> None:
    report = report_of(("ADD", [file(f"f{number}", b"x") for number in range(10_050)]))
    document = report.to_json()
    assert len(document["Files"]) <= 10_000
    (rest,) = [node for node in document["Files"] if node["Kind"] == "rest"]
    assert rest == {"Name": "", "Parent": 0, "Kind": "rest", "Layer": -1, "Size": 52, "Files": 52}
