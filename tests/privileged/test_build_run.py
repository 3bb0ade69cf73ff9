"""RUN as everybody can have it: mounts, users, variables, here-documents, networks, secrets, agents and caches."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import remove_when_idle
from tests.privileged.builds import Yard, finish
from tests.privileged.hostile import Ground, Grounds, Item, ground, grounds, link  # noqa: F401 - fixtures
from tests.privileged.places import busybox_layer, make_layout

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("network")]

EPOCH = 1_700_000_000
SECRET = "Schlaraffenland-4711"


@pytest.fixture
def yard(ground: Ground) -> Yard:  # noqa: F811 - the fixture
    return Yard(ground)


@pytest.fixture
def homes() -> Iterator[list[Path]]:
    found: list[Path] = []
    yield found
    for home in found:
        remove_when_idle(home)


def none(command: str, *flags: str) -> str:
    """A network takes a while to be made."""
    return f"RUN --network=none {' '.join(flags)} {command}\n"


# -- the command


def test_users_variables_directories_and_documents(yard: Yard) -> None:
    outcome = yard.build(
        "FROM plain\nARG A=1\nENV B=2 C=$A\nRUN --network=none echo $A-$B-$C-$PATH-$PWD\nUSER app\nWORKDIR /home/app/w\n"
        "RUN --network=none id -u; id -g; pwd; touch mine; stat -c %u:%g mine\nUSER 0:1000\n"
        "RUN --network=none id -u; id -g\nRUN --network=none <<E\necho first\necho second\nE\n"
        "RUN --network=none <<E cat\n$B\nE\nRUN --network=none <<E\n#!/bin/cat\nscript\nE\n"
        'SHELL ["/bin/sh", "-ec"]\nRUN --network=none echo $0\nRUN --network=none ["/bin/echo", "$B"]\n',
        no_cache=True, tags=("users",),
    )
    said = outcome.output.split("\n")[:-1]
    assert said[0] == "1-2-1-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin-/"
    assert said[1:8] == ["1000", "1000", "/home/app/w", "1000:1000", "0", "1000", "first"]
    assert said[8:] == ["second", "2", "#!/bin/cat", "script", "/bin/sh", "$B"]
    assert yard.run("users", "stat", "-c", "%u:%g", "mine") == "1000:1000\n"


def test_what_a_command_changes_is_in_the_next_and_in_the_image(yard: Yard) -> None:
    outcome = yard.build(
        "FROM plain\n" + none("rm /marker; rm -r /home; mkdir /home; echo new >/home/file; chmod 4755 /home/file; ln /home/file /l")
        + none("test ! -e /marker; cat /l; rm /l"), no_cache=True, tags=("changed",),
    )
    assert outcome.output == "new\n"
    assert yard.run("changed", "sh", "-c", "ls -A /home; stat -c %a /home/file; ls /marker /l 2>&1 | wc -l") == "file\n4755\n2\n"


def test_failures_say_which_command_and_leave_no_image(yard: Yard) -> None:
    for command, word in (("exit 3", "exit code 3"), ("sh -c 'kill -9 $$'; exit $?", "137"), ("nonsense-command", "127")):
        outcome = yard.build(f"FROM plain\n{none(command)}", code=1, tags=("failed",))
        assert word in outcome.error
        assert outcome.error.count("\n") == 1
    assert "missing" in yard.build('FROM plain\nRUN ["/missing"]\n', code=None).error
    assert "failed" not in yard.ground.lamina("images").stdout


def test_networks(yard: Yard) -> None:
    show = "ls /sys/class/net | wc -l"
    outcome = yard.build(f"FROM plain\nRUN --network=none {show}\nRUN {show}\n", no_cache=True)
    alone, default = map(int, outcome.output.split())
    assert alone < default
    own = yard.build("FROM plain\nRUN readlink /proc/self/ns/net\n", no_cache=True, network="none").output
    assert own.strip() != os.readlink("/proc/self/ns/net")
    host = "FROM plain\nRUN --network=host readlink /proc/self/ns/net\n"
    assert "network.host" in yard.build(host, code=1).error
    assert yard.build(host, allows=("network.host",), no_cache=True).output.strip() == os.readlink("/proc/self/ns/net")


# -- mounts


def test_bind_mounts_of_the_context_and_of_stages(yard: Yard) -> None:
    text = (
        "FROM plain AS other\nCOPY d /o/\nRUN --network=none ln -s / /o/all; ln -s /o/f /o/link; chown 1000:1000 /o/f\nFROM plain\n"
        + none("cat /m/f; echo over >/m/f && cat /m/f", "--mount=type=bind,source=d,target=/m,rw")
        + none("cat /m/f; (echo over >/m/f) 2>/dev/null || echo read-only", "--mount=type=bind,source=d,target=/m")
        + none("cat /one", "--mount=source=d/f,target=/one")
        + none("stat -c %u /m/f; cat /m/f", "--mount=from=other,source=/o,target=/m")
        + none("cat /f", "--mount=from=other,source=/o/link,target=/f")
        + none("cat /m/marker /m/o/f", "--mount=from=other,target=/m")
        + none("cat /m/marker; echo", "--mount=from=plain,target=/m")
        + none("ls -d /m /one /f 2>/dev/null; true")
    )
    outcome = yard.build(text, {"d/f": "file\n"}, no_cache=True, tags=("bound",))
    said = outcome.output.split("\n")[:-1]
    assert said == ["file", "over", "file", "read-only", "file", "1000", "file", "file", "containerfile", "container"]
    assert yard.run("bound", "sh", "-c", "ls -d /m /one /f 2>/dev/null; true") == ""


def test_a_source_of_a_mount_stays_where_it_is_looked_for(yard: Yard) -> None:
    """CVE-2024-1753: a link to the root, and ``..``, in whatever the mount comes from."""
    text = "FROM plain AS evil\nRUN --network=none ln -s / /root-link; ln -s ../../../../.. /up; ln -s /proc/1/root /proc-link\nFROM plain\n"
    for source in ("/root-link", "/up", "/../../..", "/root-link/../up"):
        mount = none("cat /m/marker; ls -A /m | wc -l", f"--mount=from=evil,source={source},target=/m")
        outcome = yard.build(text + mount, no_cache=True, code=None)
        assert outcome.code == 1 or outcome.output.startswith("container"), (source, outcome)
        assert not os.path.exists("/marker")
    files = {"link": link("/"), "d/up": link("../../../..")}
    for source in ("link", "d/up", "../..", "link/etc", "d/up/etc"):
        outcome = yard.build(
            "FROM plain\n" + none("cat /m/shadow /m/etc/shadow 2>/dev/null; true", f"--mount=source={source},target=/m"),
            files, no_cache=True, code=None,
        )
        assert "root:" not in outcome.output, source


def test_tmpfs_mounts(yard: Yard) -> None:
    command = "grep ' /t ' /proc/mounts; head -c 2000000 /dev/zero >/t/x || echo full"
    text = "FROM plain\n" + none(command, "--mount=type=tmpfs,target=/t,size=1m")
    outcome = yard.build(text, no_cache=True, tags=("tmp",))
    assert "tmpfs" in outcome.output
    assert "full" in outcome.output
    assert yard.run("tmp", "sh", "-c", "ls -d /t 2>/dev/null; true") == ""


def test_a_cache_keeps_what_was_written_whoever_owns_it(yard: Yard) -> None:
    name = os.urandom(8).hex()
    mount = f"--mount=type=cache,target=/c,id=../../../{name},uid=1000,gid=1000,mode=0700"
    text = "FROM plain\nUSER app\n" + none("echo x >>/c/count; wc -l </c/count; stat -c %a:%u /c", mount)
    owner = 0 if yard.has_single_id else 1000
    assert yard.build(text, no_cache=True, tags=("cached",)).output.split() == ["1", f"700:{owner}"]
    assert yard.build(text, no_cache=True).output.split() == ["2", f"700:{owner}"]
    assert yard.run("cached", "sh", "-c", "ls -A /c 2>/dev/null; true") == ""
    # Not with rglob: the directory of a container that ran with --rm may go at any moment.
    found = [
        os.path.join(above, each) for above, names, files in os.walk(yard.ground.home) for each in (*names, *files)
    ]
    assert not [path for path in found if name in os.path.basename(path) and "context-" not in path]
    twice = none("echo y >/a/y; cat /b/y", f"--mount=type=cache,target=/a,id={name},sharing=locked",
                 f"--mount=type=cache,target=/b,id={name},sharing=shared")
    assert yard.build(f"FROM plain\n{twice}", no_cache=True).output == "y\n"


def test_a_cache_that_begins_with_files(yard: Yard) -> None:
    """Once: what is in it later is what commands left there."""
    mount = f"--mount=type=cache,target=/c,id={os.urandom(8).hex()},from=one,source=/d"
    text = "FROM plain AS one\nCOPY <<E /d/in/f\nfirst\nE\nFROM plain\n" + none("cat /c/in/f; echo next >/c/in/f", mount)
    assert yard.build(text, no_cache=True).output == "first\n"
    assert yard.build(text, no_cache=True).output == "next\n"


def test_two_builds_and_one_cache(yard: Yard) -> None:
    """``locked`` one after the other, ``private`` with a directory each, ``shared`` with each other."""
    name = os.urandom(8).hex()
    overlap = "test ! -e /c/busy || echo together; touch /c/busy; sleep 1; test -e /c/busy || echo taken; rm -f /c/busy"

    def both(sharing: str, command: str) -> list[str]:
        text = "FROM plain\n" + none(command, f"--mount=type=cache,target=/c,id={name}-{sharing},sharing={sharing}")
        started = [yard.start(text, no_cache=True) for _ in range(2)]
        return sorted(finish(process).output for process in started)

    assert both("locked", overlap) == ["", ""]
    assert both("private", "touch /c/$RANDOM; sleep 3; ls /c | wc -l") == ["1\n", "1\n"]
    there = "test -e /c/one-here && test -e /c/two-here"
    wait = f"n=0; while ! {{ {there}; }}; do n=$((n+1)); test $n -gt 600 && exit 1; sleep 0.1; done"
    meet = f"mkdir /c/one 2>/dev/null && mine=one || mine=two; touch /c/$mine-here; {wait}"
    assert both("shared", meet) == ["", ""]


# -- secrets


def test_secrets_are_seen_by_the_command_alone(yard: Yard) -> None:
    text = (
        "FROM plain\n"
        + none("cat /run/secrets/s; stat -c %a:%u /run/secrets/s; echo $S", "--mount=type=secret,id=s", "--mount=type=secret,id=s,env=S")
        + none("id -u; cat /etc/deep/er; stat -c %a:%u /etc/deep/er",
               "--mount=type=secret,id=s,target=/etc/deep/er,uid=1000,gid=1000,mode=0440")
        + none("ls /run/secrets/absent 2>&1 | wc -l", "--mount=type=secret,id=absent")
        + none("ls -d /run/secrets /etc/deep 2>/dev/null; true")
    )
    with kept(SECRET) as file:
        outcome = yard.build(text, no_cache=True, secrets=[f"id=s,src={file}"], tags=("secretive",))
    said = outcome.output.replace(SECRET, "S!").split()
    # Where there is one id only, all files are its.
    owner = 0 if yard.has_single_id else 1000
    assert said == ["S!400:0", "S!", "0", f"S!440:{owner}", "1"]
    insist_nowhere(yard.root, SECRET)
    assert SECRET not in yard.ground.lamina("history", "--no-trunc", "secretive").stdout
    assert SECRET not in yard.ground.lamina("inspect", "secretive").stdout
    required = "FROM plain\n" + none("true", "--mount=type=secret,id=absent,required")
    assert "absent" in yard.build(required, code=1).error


def test_secrets_lie_on_no_disk_while_the_command_runs(yard: Yard) -> None:
    """Nor in anybody's arguments. Whoever is killed now leaves nothing behind."""
    text = "FROM plain\nRUN --network=none --mount=type=secret,id=s --mount=type=secret,id=s,env=S echo runs; sleep 600\n"
    with kept(SECRET) as file:
        process = yard.start(text, no_cache=True, secrets=[f"id=s,src={file}"],
                             arguments={"HTTP_PROXY": f"http://{SECRET}@proxy"})
        try:
            assert process.stdout is not None
            assert any('"output"' in line for line in process.stdout)
            insist_nowhere(yard.root, SECRET)
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    assert SECRET.encode() not in path.read_bytes(), path
        finally:
            os.killpg(process.pid, 9)
            process.communicate()
    yard.ground.lamina("prune", "-f")
    insist_nowhere(yard.root, SECRET)


def test_crun_keeps_no_secret_and_mounts_files(homes: list[Path]) -> None:
    """It refuses cgroups in hybrid mode; so here they are not, in a namespace of mounts."""
    home = Path(tempfile.mkdtemp(prefix="lamina-crun-"))
    homes.append(home)
    own = Ground(None, "crun", home)
    own.image("plain")
    unified = "/sys/fs/cgroup/unified"
    script = f'if mountpoint -q {unified}; then umount {unified}; fi; exec "$@"'
    yard = Yard(own, before=("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"))
    flags = ("--mount=type=secret,id=s", "--mount=type=secret,id=s,env=S", "--mount=source=d/f,target=/f")
    text = "FROM plain\n" + none("echo runs; until test -e /c/go; do sleep 0.1; done; cat /f; echo $S", *flags, "--mount=type=cache,target=/c")
    with kept(SECRET) as file:
        process = yard.start(text, {"d/f": "file\n"}, no_cache=True, secrets=[f"id=s,src={file}"])
        assert process.stdout is not None
        line = next((line for line in process.stdout if '"output"' in line), "")
        insist_nowhere(yard.root, SECRET)
        for cache in (yard.root / "buildcaches").glob("*/0/files"):
            (cache / "go").touch()
        outcome = finish(process)
    assert line
    assert outcome.output == f"file\n{SECRET}\n"
    insist_nowhere(yard.root, SECRET)


def test_proxies_reach_the_command_and_nothing_else(yard: Yard) -> None:
    proxy = f"http://user:{SECRET}@proxy:3128"
    text = "FROM plain\nARG OWN\n" + none("echo $HTTP_PROXY $OWN")
    outcome = yard.build(text, no_cache=True, arguments={"HTTP_PROXY": proxy, "OWN": "1"}, tags=("proxied",))
    assert outcome.output == f"{proxy} 1\n"
    insist_nowhere(yard.root, SECRET)
    assert yard.build(text, arguments={"HTTP_PROXY": "http://another", "OWN": "1"}).cached


@contextlib.contextmanager
def kept(text: str) -> Iterator[Path]:
    """A file outside of everything that is searched."""
    top = Path(tempfile.mkdtemp(prefix="lamina-secret-"))
    try:
        top.chmod(0o755)
        (top / "file").write_text(text)
        (top / "file").chmod(0o644)
        yield top / "file"
    finally:
        shutil.rmtree(top)


def insist_nowhere(root: Path, text: str) -> None:
    needle = text.encode()
    for above, _names, files in os.walk(root):
        for name in files:
            path = os.path.join(above, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    assert needle not in file.read(), path


# -- the agent


class Agent:
    """Answers each byte with the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        path.chmod(0o777)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    while data := connection.recv(100):
                        connection.sendall(bytes(each + 1 for each in data))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def agent() -> Iterator[Agent]:
    place = Path(tempfile.mkdtemp(prefix="lamina-ssh-"))
    place.chmod(0o755)
    made = Agent(place / "socket")
    yield made
    made.close()
    shutil.rmtree(place)


def python_files() -> dict[str, Item]:
    """Debian's interpreter with next to nothing: enough for a socket."""
    found = {"python/usr/bin/python3": Item(Path("/usr/bin/python3").read_bytes())}
    linked = subprocess.run(["ldd", "/usr/bin/python3"], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        place = library if library.startswith("/usr") else f"/usr{library}"
        found[f"python{place}"] = Item(Path(library).read_bytes())
    where = ["/usr/bin/python3", "-ISc", "import encodings; print(encodings.__path__[0])"]
    encodings = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    for path in encodings.glob("*.py"):
        found[f"python{path}"] = Item(path.read_bytes())
    return found


def test_the_agent_is_lent_to_one_command(yard: Yard, agent: Agent) -> None:
    client = (
        "import posix, _socket; s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM); "
        "s.connect(posix.environ[b'SSH_AUTH_SOCK']); s.send(b'abc'); print(s.recv(3))"
    )
    ask = f'python3 -ISBc "{client}" 2>/dev/null'
    text = (
        "FROM plain\nCOPY python /\n" + none(f"{ask}; stat -c %a:%u $SSH_AUTH_SOCK", "--mount=type=ssh")
        + "USER app\n" + none(ask, "--mount=type=ssh,id=default,uid=1000,target=/tmp/agent")
        + none("echo [$SSH_AUTH_SOCK]; ls /run/buildkit /tmp/agent 2>/dev/null; true")
    )
    outcome = yard.build(text, python_files(), no_cache=True, agents={"default": str(agent.path)}, tags=("agent",))
    assert outcome.output.split() == ["b'bcd'", "600:0", "b'bcd'", "[]"], outcome
    required = "FROM plain\n" + none("true", "--mount=type=ssh,required")
    assert "ssh default" in yard.build(required, code=1).error
    assert not list(yard.root.rglob("agent"))


# -- drivers


def test_with_an_epoch_every_driver_and_runtime_gives_the_same_image(homes: list[Path], tmp_path: Path) -> None:
    text = (
        "FROM base:1 AS a\n" + none("mkdir -p /made/deep; echo 1 >/made/deep/f; ln -s f /made/deep/l; rm -r /tmp; chmod 700 /bin")
        + "FROM base:1\nENV X=1\nCOPY --from=a /made /copied\n"
        + none("cp -r /copied /again; mv /again/deep /again/moved; touch /again/é; rm /bin/seq; chown 1000:1000 /again/moved/f")
    )
    base = make_layout(tmp_path / "base", [busybox_layer()])
    digests = {}
    for driver in ("overlay2", "erofs", "vfs"):
        home = Path(tempfile.mkdtemp(prefix="lamina-drivers-"))
        homes.append(home)
        environment = {"LAMINA_STORAGE_DRIVER": driver}
        Ground(None, "runc", home).lamina("load", "-q", "-i", base, **environment)
        for runtime in ("runc", "embedded"):
            outcome = Yard(Ground(None, runtime, home), environment).build(text, epoch=EPOCH, no_cache=True)
            digests[driver, runtime] = outcome.image["digest"]
    assert len(set(digests.values())) == 1, digests


# -- beside others


def test_pruning_takes_nothing_from_a_build_that_goes_on(yard: Yard) -> None:
    text = "FROM plain\n" + "".join(none(f"echo {n}-$$ >/f{n}; sleep 0.1") for n in range(6)) + none("ls /f0 /f5")
    process = yard.start(text, no_cache=True)
    while process.poll() is None:
        yard.ground.lamina("prune", "-f")
    assert finish(process).output.endswith("/f0\n/f5\n")


@pytest.mark.parametrize("runtime", ["runc", "embedded"])
def test_the_group_that_holds_the_groups(grounds: Grounds, runtime: str) -> None:  # noqa: F811 - the fixture
    """--cgroup-parent: as the machine sees the command, which sees itself at the top."""
    parent = f"lamina-test-{os.getpid()}/inner"
    process = Yard(grounds.of(f"root-{runtime}")).start(
        "FROM plain\n" + none("echo begun; while true; do sleep 1000; done"), no_cache=True, cgroup_parent=parent,
    )
    assert process.stdout is not None
    while '"stage": "output"' not in process.stdout.readline():
        pass
    members = _members(parent)
    for pid in members:
        os.kill(pid, 9)
    assert "137" in finish(process, 1).error
    assert members
    assert not _members(parent)
    for place in Path("/sys/fs/cgroup").glob(f"**/{parent}"):
        place.rmdir()
        place.parent.rmdir()


def _members(parent: str) -> list[int]:
    files = Path("/sys/fs/cgroup").glob(f"**/{parent}/*/cgroup.procs")
    return sorted({int(line) for file in files for line in file.read_text().split()})
