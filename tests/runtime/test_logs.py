"""Logs: what a container wrote is read again, in order, however it came and whenever the file was turned over."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.logs import LogFollower, LogPolicy, LogWriter, log_policy, parse_line, read_log

KEPT = LogPolicy()
TEXT = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))
WRITES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), TEXT), max_size=30)
LONG = 16 << 10


def write(path: Path, policy: LogPolicy, writes: list[tuple[str, bytes]]) -> None:
    writer = LogWriter(path, policy)
    for stream, data in writes:
        writer.write(stream, data)
    writer.end()


def texts(path: Path) -> dict[str, str]:
    found: dict[str, str] = defaultdict(str)
    for line in read_log(path):
        found[line.stream] += line.text
    return found


@given(WRITES)
def test_what_is_written_is_read(writes: list[tuple[str, bytes]]) -> None:
    expected: dict[str, bytes] = defaultdict(bytes)
    for stream, data in writes:
        expected[stream] += data
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "log", KEPT, writes)
        found = texts(Path(place) / "log")
    assert found == {stream: data.decode() for stream, data in expected.items() if data}


@given(st.text(alphabet="aé\U0001f40b\n", max_size=20), st.integers(1, LONG), st.integers(LONG - 8, LONG + 8))
def test_long_lines_are_cut_between_characters(text: str, chunk: int, length: int) -> None:
    data = b"x" * length + text.encode() + b"y" * LONG
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "log"
        write(path, KEPT, [("stdout", data[at : at + chunk]) for at in range(0, len(data), chunk)])
        lines = list(read_log(path))
    assert "".join(line.text for line in lines).encode() == data
    assert all(len(line.text.encode()) <= LONG for line in lines)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(1, 4), st.integers(200, 600))
def test_turning_over_keeps_the_end_of_it(sizes: list[int], files: int, most: int) -> None:
    lines = [f"{number} {'z' * size}\n" for number, size in enumerate(sizes)]
    policy = LogPolicy(max_size=most, max_files=files)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "log"
        write(path, policy, [("stdout", line.encode()) for line in lines])
        names = sorted(each.name for each in Path(place).iterdir())
        assert names == ["log", *(f"log.{number}" for number in range(1, len(names)))]
        assert len(names) <= files
        assert all(each.stat().st_size <= most for each in Path(place).iterdir())
        kept = [line.text for line in read_log(path)]
    assert kept == lines[len(lines) - len(kept) :]
    assert kept


def test_older_files_are_read_by_number(tmp_path: Path) -> None:
    for number, name in enumerate(["log.10", "log.9", "log.2", "log.1", "log"]):
        write(tmp_path / name, KEPT, [("stdout", b"%d\n" % number)])
    assert [line.text for line in read_log(tmp_path / "log")] == ["0\n", "1\n", "2\n", "3\n", "4\n"]


def test_the_format_is_dockers(tmp_path: Path) -> None:
    write(tmp_path / "log", KEPT, [("stdout", b'say "hi"\n'), ("stderr", b"caf\xc3\xa9 \xff")])
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (first["log"], first["stream"]) == ('say "hi"\n', "stdout")
    assert (second["log"], second["stream"]) == ("café �", "stderr")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["time"])
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for text in (b"a\n", b"b\n"):
        write(tmp_path / "log", KEPT, [("stdout", text)])
    assert texts(tmp_path / "log") == {"stdout": "a\nb\n"}


def test_a_line_that_a_power_cut_tore_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "log", KEPT, [("stdout", b"a\n")])
    with open(tmp_path / "log", "ab") as file:
        file.write(b'{"log":"b\\n","stre\n[]\n5\nnull\n')
    write(tmp_path / "log", KEPT, [("stdout", b"c\n")])
    assert texts(tmp_path / "log") == {"stdout": "a\nc\n"}
    assert parse_line(b'{"log":"x"}') is None


def test_nothing_is_kept_if_nothing_is_to_be(tmp_path: Path) -> None:
    write(tmp_path / "log", LogPolicy(is_kept=False), [("stdout", b"a\n")])
    assert list(tmp_path.iterdir()) == []
    assert list(read_log(tmp_path / "log")) == []


def test_a_log_is_never_somebody_elses_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep\n")
    (tmp_path / "log").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        LogWriter(tmp_path / "log", KEPT)
    with pytest.raises(OSError, match="symbolic links"):
        list(read_log(tmp_path / "log"))
    assert (tmp_path / "precious").read_text() == "keep\n"


# -- following


def test_a_follower_gets_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(path, KEPT)
    writer.write("stdout", b"before\n")
    follower = LogFollower(path)
    before = list(read_log(path, follower.position))
    writer.write("stdout", b"one\ntw")
    first = follower.read()
    writer.write("stdout", b"o\n")
    second, third = follower.read(), follower.read()
    writer.end()
    follower.close()
    assert [line.text for line in before] == ["before\n"]
    assert [[line.text for line in lines] for lines in (first, second, third)] == [["one\n"], ["two\n"], []]


def test_a_follower_follows_through_a_turning_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(path, LogPolicy(max_size=300, max_files=2))
    follower = LogFollower(path, from_start=True)
    found = []
    for number in range(50):
        writer.write("stdout", b"%d\n" % number)
        found += follower.read()
    writer.end()
    follower.close()
    assert [line.text for line in found] == [f"{number}\n" for number in range(50)]


def test_a_follower_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    follower = LogFollower(tmp_path / "log")
    assert (follower.read(), follower.position) == ([], 0)
    write(tmp_path / "log", KEPT, [("stdout", b"a\n")])
    assert [line.text for line in follower.read()] == ["a\n"]
    follower.close()


# -- options


@pytest.mark.parametrize(("driver", "options", "policy"), [
    ("json-file", [], LogPolicy()),
    ("none", [], LogPolicy(is_kept=False)),
    ("json-file", ["max-size=10m", "max-file=3"], LogPolicy(max_size=10 << 20, max_files=3)),
    ("json-file", ["max-size=1K"], LogPolicy(max_size=1024)),
    ("json-file", ["max-size=2g"], LogPolicy(max_size=2 << 30)),
    ("json-file", ["max-size=4096", "max-file=1"], LogPolicy(max_size=4096)),
])
def test_policies(driver: str, options: list[str], policy: LogPolicy) -> None:
    assert log_policy(driver, options) == policy


@pytest.mark.parametrize("options", [
    ["max-size"], ["max-size="], ["max-size=0"], ["max-size=-1"], ["max-size=1x"], ["max-size=k"], ["max-size=" + "9" * 5000],
    ["max-size=1m", "max-file=0"], ["max-size=1m", "max-file=1001"], ["max-size=1m", "max-file=x"], ["max-file=3"],
    ["max-size=1m", "max-file=" + "9" * 5000], ["compress=true"],
])
def test_options_that_cannot_be_read(options: list[Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^--log-opt"):
        log_policy("json-file", options)


def test_other_drivers_are_explained() -> None:
    with pytest.raises(Unsupported, match="--log-driver syslog: there are json-file and none"):
        log_policy("syslog", [])
