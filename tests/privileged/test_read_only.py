"""A state directory that nobody can write, or not this user: what is there can be read, and nothing is broken."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.places import Place, busybox_layer, make_layout, owned_directory, wait_for

from lamina.content.state import State
from lamina.content.unwritable import AlwaysChanging, NeedsRecovery, NotWritable
from lamina.snapshot.mounting import unmount

pytestmark = pytest.mark.privileged

READING = (
    "info", "images", "inspect base:1", "history base:1", "layers base:1", "ls base:1 /", "cat base:1 /etc/passwd",
    "blame base:1 /etc/passwd", "ps -as", "logs one", "inspect one", "diff one", "system df", "system df -v", "blobs ls",
    "storage ls", "du base:1", "waste base:1", "secrets base:1", "builder du", "mount", "volume ls", "network ls", "network inspect bridge",
    "check", "save -o {out}/saved.tar base:1", "export -o {out}/image.tar base:1", "export -o {out}/one.tar one",
    "report base:1 -o {out}/report.html",
)
WRITING = (
    "tag base:1 other:1", "rm one", "rmi --force base:1", "run base:1 true", "create base:1", "start one", "prune -f",
    "load -i {out}/saved.tar", "import {out}/image.tar", "commit one", "rename one two", "squash base:1 -t flat:1",
    "volume create mine", "mount base:1",
)


def filled(place: Place) -> None:
    with owned_directory(place.user) as path:
        place.say("load", "-q", "-i", make_layout(path / "layout", [busybox_layer()]))
    place.say("run", "--name", "one", "--network", "none", "base:1", "sh", "-c", "echo hello; touch /new")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as stream:
        stream.truncate(100 << 20)
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    yield disk
    unmount(disk, lazily=True)


def remount(disk: Path, how: str) -> None:
    """The monitor of a container that has ended closes its files a moment later."""
    wait_for(lambda: subprocess.run(["mount", "-o", f"remount,{how}", disk], check=False).returncode == 0)


def insist_readable(place: Place, out: Path, sentences: Sequence[str]) -> None:
    for words in READING:
        done = place.run(*words.format(out=out).split())
        assert done.returncode == 0, f"{words}: {done}"
        assert done.stderr in ("", "Everything is whole.\n"), f"{words}: {done}"
    insist_known_driver(place)
    for words in WRITING:
        done = place.run(*words.format(out=out).split())
        assert done.returncode != 0, f"{words}: {done}"
        assert sum(done.stderr.count(f"{sentence}; ") for sentence in sentences) == 1, f"{words}: {done}"
        assert "Traceback" not in done.stderr


def insist_known_driver(place: Place) -> None:
    """What is in use is not in doubt because it cannot be tried."""
    rows = [json.loads(line) for line in place.say("storage", "ls", "--format", "json").splitlines()]
    assert [row["Usable"] for row in rows if row["InUse"]] == [True]
    assert all(row["Reason"].startswith("cannot be tried: ") and "writable" in row["Reason"] for row in rows)
    assert "Errno" not in place.say("storage", "ls")


def test_a_filesystem_that_is_read_only(mounted: Path, tmp_path: Path) -> None:
    place = Place(mounted / "state")
    filled(place)
    before = place.ids()
    remount(mounted, "ro")
    insist_readable(place, tmp_path, ["the filesystem is read-only"])
    remount(mounted, "rw")
    assert place.run("check").stderr == "Everything is whole.\n"
    assert place.ids() == before
    place.clear()


def test_an_ordinary_user_who_may_not_write(ordinary_user: OrdinaryUser) -> None:
    with owned_directory(ordinary_user) as path, owned_directory(ordinary_user) as out:
        place = Place(path / "state", ordinary_user)
        filled(place)
        subprocess.run(["chmod", "-R", "a-w", place.root], check=True)
        insist_readable(place, out, ["permission denied", "not writable for this user"])
        subprocess.run(["chmod", "-R", "u+w", place.root], check=True)
        assert place.run("check").stderr == "Everything is whole.\n"
        place.clear()


# -- a log that nobody brought into the state file

_WRITER = """
import os, sys
from pathlib import Path
from lamina.content.state import State
state = State(Path(sys.argv[1]))
state.connection.execute("INSERT INTO origins VALUES ('sha256:x', 'r.test/last')")
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def left_by_the_dead(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=True)
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, disk / "state.sqlite"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"done\n"
        writer.send_signal(signal.SIGKILL)
    assert (disk / "state.sqlite-wal").stat().st_size
    yield disk
    unmount(disk, lazily=True)


def test_what_was_done_last_is_seen(left_by_the_dead: Path) -> None:
    remount(left_by_the_dead, "ro")
    state = State(left_by_the_dead / "state.sqlite")
    assert state.rows("SELECT repository FROM origins") == [("r.test/last",)]
    with pytest.raises(NotWritable), state.transaction():
        pass
    state.close()


def test_without_the_index_of_the_log_it_is_said(left_by_the_dead: Path, tmp_path: Path) -> None:
    """As in a copy of the directory that leaves it out."""
    (left_by_the_dead / "state.sqlite-shm").unlink()
    remount(left_by_the_dead, "ro")
    with pytest.raises(NeedsRecovery, match="run any command once where that is possible"):
        State(left_by_the_dead / "state.sqlite")
    copy = tmp_path / "copy"
    shutil.copytree(left_by_the_dead, copy)
    State(copy / "state.sqlite").close()
    os.chmod(copy, 0o755)
    assert State(copy / "state.sqlite").rows("SELECT repository FROM origins") == [("r.test/last",)]


_BUSY = """
import sys
from pathlib import Path
from lamina.content.state import State
number = 0
while True:
    state = State(Path(sys.argv[1]))
    with state.transaction() as connection:
        connection.execute("DELETE FROM origins")
        connection.executemany("INSERT INTO origins VALUES (?, ?)", [
            (f"sha256:{n}", f"r.test/{number}" + "x" * 200) for n in range(2000)])
    state.close()  # what is in the log comes into the file
    number += 1
"""


def test_somebody_else_may_write_all_the_while(tmp_path: Path) -> None:
    """Through another mount: what one reads is one state of the file, and the last one soon."""
    live, read = tmp_path / "live", tmp_path / "read"
    for directory in (live, read):
        directory.mkdir()
    State(live / "state.sqlite").close()
    subprocess.run(["mount", "--bind", live, read], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", read], check=True)
    state = State(read / "state.sqlite")
    with subprocess.Popen([sys.executable, "-c", _BUSY, live / "state.sqlite"]) as writer:
        seen = set()
        try:
            wait_for(lambda: state.rows("SELECT count(*) FROM origins") == [(2000,)])
            while len(seen) < 12:
                with suppress(AlwaysChanging, NeedsRecovery):
                    ((count, first, last),) = state.rows("SELECT count(*), min(repository), max(repository) FROM origins")
                    assert (count, first) == (2000, last)
                    seen.add(first)
        finally:
            writer.kill()
    state.close()
    unmount(read, lazily=True)
