"""report: where the page goes, what is said beside it, and that it is spelled as the command spells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.fakes import Command
from tests.insight.test_page import HOSTILE
from tests.insight.test_report import report_of

from lamina.cli.quantity import human_size
from lamina.cli.terminal import visible
from lamina.errors import NotFound
from lamina.insight.markup import printable
from lamina.insight.page import spelled
from lamina.oci.descriptor import Platform
from lamina.testing.images import file

PAGE = "<!doctype html>\n<p>caf\\xe9 漢\n"


def test_a_page_in_a_file(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = command("report", "-o", str(target), "redis:7", report_page=PAGE)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert result.asked == [("report_page", ("redis:7",), {"platform": None})]
    assert target.read_text(encoding="utf-8") == PAGE
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_people_are_told_what_to_do_with_it(command: Command, tmp_path: Path) -> None:
    command.is_terminal = True
    err = command("report", "-o", str(tmp_path / "a.html"), "redis:7", report_page=PAGE).err
    assert err.endswith("a.html, 31B: any browser opens it, and it needs no network.\n")
    assert "browser" not in command("report", "--format", "json", "-o", str(tmp_path / "a.json"), "a",
                                    report_data=report_of()).err


@pytest.mark.parametrize("output", [(), ("-o", "-")])
def test_a_page_in_a_pipe(command: Command, output: tuple[str, ...]) -> None:
    assert command("report", "redis:7", *output, report_page=PAGE).raw == PAGE.encode()


def test_not_to_a_terminal(command: Command) -> None:
    command.is_terminal = True
    result = command("report", "redis:7", report_page=PAGE)
    assert (result.code, result.raw, result.asked) == (1, b"", [])
    assert result.err == "lamina: report: a page is not for a terminal; use -o FILE, or redirect the output\n"


def test_a_failure_leaves_what_was_there(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("before")
    result = command("report", "-o", str(target), "redis:7", report_page=NotFound("redis:7: no such image"))
    assert (result.code, result.err) == (1, "lamina: redis:7: no such image\n")
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_written_is_named_before_the_work(command: Command, tmp_path: Path) -> None:
    result = command("report", "-o", str(tmp_path / "nowhere" / "a.html"), "redis:7", report_page=PAGE)
    assert (result.code, result.asked) == (1, [])
    assert result.err == f"lamina: {tmp_path}/nowhere: no such file or directory\n"


def test_one_platform(command: Command) -> None:
    asked = command("report", "--platform", "linux/arm64", "docker://redis:7", report_page=PAGE).asked
    assert asked == [("report_page", ("docker://redis:7",), {"platform": Platform(os="linux", architecture="arm64")})]


def test_json_is_one_document(command: Command, tmp_path: Path) -> None:
    report = report_of(("ADD", [file("caf\udce9\x1b", b"x")]))
    command.is_terminal = True
    result = command("report", "--format", "json", "app", report_data=report)
    document = json.loads(result.out)
    assert document == report.to_json()
    assert document["Files"][1]["Name"] == "caf\udce9\x1b"
    assert "\x1b" not in result.out
    command.is_terminal = False
    assert command("report", "--format", "json", "-o", str(tmp_path / "a.json"), "app", report_data=report).code == 0
    assert json.loads((tmp_path / "a.json").read_bytes()) == document


def test_no_other_format(command: Command) -> None:
    result = command("report", "--format", "yaml", "app")
    assert result.code == 125
    assert "choose from" in result.err


def test_the_page_spells_sizes_as_the_command_does() -> None:
    """`insight` cannot import from `cli`: what both write must not drift apart."""
    sizes = [0, 1, 999, 1000, 1001, 9994, 9996, 99_949, 99_951, 999_499, 999_500, 10**6, 123_456_789, 10**9, 5 * 10**20]
    assert [spelled(size) for size in sizes] == [human_size(size) for size in sizes]


def test_the_page_escapes_as_the_command_does() -> None:
    texts = [*HOSTILE, "\t\n\r", "\x80\x9f\xad", "\ue000", "\U000e0001", "plain é 漢"]
    assert [printable(text) for text in texts] == [visible(text) for text in texts]
