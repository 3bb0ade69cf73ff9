"""The demo runs, shows every chapter of the story, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.fakes import Command

from lamina.cli.demochapters import CHAPTERS
from lamina.cli.demofiles import compiler
from lamina.cli.samples import IMAGES, publish, tar_of
from lamina.content.local import LocalStore
from lamina.oci.descriptor import Platform


def demo(home: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(home), "LAMINA_ROOT": str(home / "mine"),
               "HTTP_PROXY": "http://127.0.0.1:9", "LAMINA_EXPERIMENTAL": "enabled"}
    return subprocess.run([*before, sys.executable, "-m", "lamina", *words], env=environ, capture_output=True, text=True,
                          check=False)


def test_the_story(tmp_path: Path) -> None:
    done = demo(tmp_path, "demo")
    assert (done.returncode, done.stderr) == (0, "")
    for number, chapter in enumerate(CHAPTERS, 1):
        assert f"\n{number}. {chapter.title}\n" in done.stdout
        assert chapter.after in done.stdout
    first, _, rest = done.stdout.partition("Layers are shared")
    assert first.count(": Pull complete") == 3
    assert ": Already exists" not in first
    second, _, third = rest.partition("Pulling again")
    assert second.count(": Already exists") == 2
    assert second.count(": Pull complete") == 1
    assert third.partition("What it takes")[0].count(": Already exists") == 3
    assert "File 7: the updated version of File 6\n" in done.stdout
    assert "  hides  layer 1's file, 50kB, by RUN apt-get install -y java" in done.stdout
    assert "1 file, 50kB: stored and pulled, but seen by no container" in done.stdout
    assert "  gone   deleted by layer 2: RUN rm /files/file-5" in done.stdout
    assert "Layers 1 to 2 become one; 1 layer below kept" in done.stdout
    assert 'found: path "/files/file-5" in layer 1' in done.stdout
    assert done.stdout.count("clean") >= 1
    assert "diff one\nC /files\nC /files/file-6\n" in done.stdout
    assert "diff two\nC /files\nA /files/note\n" in done.stdout
    last = done.stdout.partition("The image stays as it was")[2].partition("Building an image")[0]
    assert "File 7: the updated version of File 6\n" in last
    assert re.search(r"^Containers +2 +0 ", last, re.MULTILINE)
    assert "rm one two\none\ntwo\n" in last
    assert list(tmp_path.iterdir()) == []


def chapter(text: str, title: str) -> str:
    return re.split(r"^\d+\. ", text.partition(f". {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.privileged
def test_the_story_of_a_build(tmp_path: Path) -> None:
    done = demo(tmp_path, "demo")
    assert (done.returncode, done.stderr) == (0, "")
    first = chapter(done.stdout, "Building an image")
    assert first.count("not cached: never built here") == 3
    assert re.search(r"^ +0 .* base:latest +COPY files /$", first, re.MULTILINE)
    placed = chapter(done.stdout, "Which line put that file there?")
    assert "  at     Dockerfile:3\n  hides  layer 1's file, 50kB, by COPY java / (Dockerfile:2)\n" in placed
    again = chapter(done.stdout, "Building again")
    assert "COPY java /\n#2 CACHED\n" in again
    assert "COPY source /\n#3 not cached: app/Hello.java changed\n" in again
    command = chapter(done.stdout, "Running a command in a build")
    assert command.count("CACHED") == 2
    (top,) = re.findall(r"^ +3 .*$", command, re.MULTILINE)
    assert re.search(r" 1 +0 +0 +- +RUN /bin/javac /app/Hello.java /app/Hello.class$", top)
    small, _, after = chapter(done.stdout, "Squashing while building").partition("\n$ lamina build --network none")
    assert len(re.findall(r"^ +\d .*$", small.partition("$ lamina layers")[2].partition("\n\n")[0], re.MULTILINE)) == 2
    assert re.search(r"^ +0 .* base:latest, .*COPY files /$", small, re.MULTILINE)
    assert after.count("CACHED") == 3


def test_the_compiler_copies_and_tells_when_it_could_not(tmp_path: Path) -> None:
    program = tmp_path / "javac"
    program.write_bytes(compiler(os.uname().machine))
    program.chmod(0o755)
    (tmp_path / "source").write_text("class Hello {}\n")
    assert subprocess.run([program, tmp_path / "source", tmp_path / "class"], check=False).returncode == 0
    assert (tmp_path / "class").read_text() == "class Hello {}\n"
    assert (tmp_path / "class").stat().st_mode & 0o777 == 0o644
    assert subprocess.run([program, tmp_path / "missing", tmp_path / "class"], check=False).returncode == 1


@pytest.mark.privileged
@pytest.mark.parametrize("who", ["ordinary_user", "user_without_ranges"])
def test_the_story_is_the_same_for_everybody(request: pytest.FixtureRequest, who: str) -> None:
    user = request.getfixturevalue(who)
    done = subprocess.run(user.python("-m", "lamina", "demo"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(chapter.after in done.stdout for chapter in CHAPTERS)


@pytest.mark.privileged
def test_where_nothing_can_be_mounted_it_says_why_and_goes_on(tmp_path: Path) -> None:
    """As in a container of docker's: root, but not to mount."""
    done = demo(tmp_path, "demo", before=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.partition("12. Containers: a layer of their own\n")[2]
    assert "\nNot here: containers take mounts, and root lacks CAP_SYS_ADMIN here, " in told
    assert "$ lamina create" not in done.stdout
    assert "\nNot here: containers take mounts, " in chapter(told, "Running a command in a build")
    assert "RUN" not in told.partition("Squashing while building")[2]
    assert chapter(told, "Squashing while building").count("CACHED") == 4
    assert "That is all there is to it" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.privileged
def test_where_no_program_may_run_it_says_why_and_goes_on(tmp_path: Path) -> None:
    mounting = 'mount -t tmpfs -o noexec tmpfs "$0" && exec "$@"'
    done = demo(tmp_path, "--storage-driver", "vfs", "demo",
                before=("unshare", "--mount", "sh", "-c", mounting, str(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")
    told = chapter(done.stdout, "Running a command in a build")
    assert f"\nNot here: {tmp_path}" in told
    assert "mounted noexec; TMPDIR chooses another.\n" in told
    assert chapter(done.stdout, "Squashing while building").count("CACHED") == 4


README = Path(__file__).parent.parent.parent / "README.md"


def comparable(line: str) -> str:
    """Without what differs from run to run and from machine to machine: ports, digests, times, sizes."""
    line = re.sub(r"127\.0\.0\.1:\d{5}", "HOST", line)
    line = re.sub(r"[0-9a-f]{64}|[0-9a-f]{12}", "ID", line)
    line = re.sub(r"DONE \d+\.\ds", "DONE TIME", line)
    return re.sub(r"\d+(\.\d+)?[kM]?B\b", "SIZE", " ".join(line.split()))


def test_the_readme_shows_what_it_prints(tmp_path: Path) -> None:
    shown = README.read_text().partition("shortened at the dots:\n\n```text\n")[2].partition("\n```")[0].splitlines()
    printed = {comparable(line) for line in demo(tmp_path, "demo").stdout.splitlines()}
    assert len(shown) > 50
    assert [line for line in shown if line != "..." and comparable(line) not in printed] == []


def test_what_is_kept_can_be_used(tmp_path: Path) -> None:
    keep = tmp_path / "playground"
    done = demo(tmp_path, "demo", "--keep", str(keep))
    assert done.returncode == 0
    assert f"lamina --root {keep}/state images" in done.stdout
    listed = demo(tmp_path, "--root", f"{keep}/state", "images", "--format", "{{.Repository}}")
    names = {line.partition("/")[2] or line for line in listed.stdout.splitlines()}
    assert names - {"<none>"} == {"demo/app", "demo/worker", "base", "hello"}
    again = demo(tmp_path, "demo", "--keep", str(keep))
    assert (again.returncode, again.stdout) == (1, "")
    assert "not empty" in again.stderr


def test_a_place_that_cannot_be_made(command: Command) -> None:
    result = command("demo", "--keep", "/proc/nowhere")
    assert result.code == 1
    assert result.err.startswith("lamina: /proc/nowhere: ")


@pytest.mark.parametrize("name", IMAGES)
def test_samples_are_the_same_every_time(name: str, tmp_path: Path) -> None:
    tars = [[tar_of(layer) for layer in IMAGES[name]] for _ in range(2)]
    assert tars[0] == tars[1]
    platform = Platform(os="linux", architecture="amd64")
    found = []
    for root in ("a", "b"):
        store = LocalStore.create(tmp_path / root, platform=platform)
        publish(store, "demo", platform)
        found.append([record.descriptor.digest for record in store.catalog.records()])
        store.close()
    assert found[0] == found[1]


def test_the_samples_share_their_first_two_layers() -> None:
    app, worker = IMAGES["app"], IMAGES["worker"]
    assert app[:2] == worker[:2]
    assert app[2] != worker[2]
