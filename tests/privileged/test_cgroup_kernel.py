"""Control groups in the kernel: limits that bite, and groups that go away."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Conflict, InvalidInput
from lamina.runtime import devicefilter
from lamina.runtime.cgroup import Cgroup, Cgroups

pytestmark = pytest.mark.privileged

SPIN = "while True: pass"
WAIT = "import time; time.sleep(1000)"
MIB = 1 << 20
DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}


@pytest.fixture
def cgroups() -> Cgroups:
    found = Cgroups.detect()
    assert found.version in (1, 2), f"root can make no control groups: {found.refusals}"
    return found


@pytest.fixture
def name(cgroups: Cgroups) -> Iterator[str]:
    top = f"lamina-test-{secrets.token_hex(4)}"
    yield f"{top}/one"
    for hierarchy in cgroups.hierarchies:
        assert not os.path.exists(f"{hierarchy.base}/{top}"), "a test left its control group"


@contextlib.contextmanager
def made(cgroups: Cgroups, name: str, resources: dict[str, Any] | None = None) -> Iterator[Cgroup]:
    group = cgroups.create(name, resources)
    try:
        yield group
    finally:
        group.kill()
        group.remove()


def start(group: Cgroup, code: str) -> subprocess.Popen[str]:
    """Python that begins in the group."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: group.add(0),  # noqa: PLW1509 - no threads here
    )


def finish(process: subprocess.Popen[str], code: int | None = None) -> str:
    output, _ = process.communicate(timeout=30)
    if code is not None:
        assert process.returncode == code
    return output


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))


def test_too_much_memory_kills(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name, {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}) as group:
        assert group.unapplied == ()
        assert group.oom_kills() == 0
        finish(start(group, f"bytearray({200 * MIB})"), -signal.SIGKILL)
        assert group.oom_kills() == 1
        assert cgroups.at(name).oom_kills() == 1
        assert group.stats().memory_limit == 32 * MIB
    assert group.oom_kills() == 0


def test_too_many_processes_are_not_started(cgroups: Cgroups, name: str) -> None:
    code = textwrap.dedent("""
        import os, signal
        try:
            while os.fork():
                pass
            signal.pause()
        except OSError as error:
            print(error.errno, flush=True)
    """)
    with made(cgroups, name, {"pids": {"limit": 5}}) as group:
        process = start(group, code)
        assert process.stdout is not None
        assert process.stdout.readline() == "11\n"
        process.wait(30)
        assert (group.stats().pids, group.stats().pids_limit) == (4, 5)
        group.kill()
        assert group.pids() == []
        process.stdout.close()


def test_frozen_processes_do_nothing_until_they_thaw(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name) as group:
        process = start(group, SPIN)
        group.freeze()
        assert group.is_frozen
        before = cpu_ticks(process.pid)
        time.sleep(0.2)
        assert cpu_ticks(process.pid) == before
        cgroups.at(name).thaw()
        assert not group.is_frozen
        deadline = time.monotonic() + 10
        while cpu_ticks(process.pid) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        group.kill()
        finish(process, -signal.SIGKILL)


def test_kill_reaches_what_forks_and_what_is_frozen(cgroups: Cgroups, name: str) -> None:
    busy = textwrap.dedent("""
        import contextlib, os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            with contextlib.suppress(BlockingIOError):
                if os.fork() == 0:
                    time.sleep(0.02)
                    os._exit(0)
    """)
    with made(cgroups, name, {"pids": {"limit": 200}}) as group:
        processes = [start(group, WAIT), start(group, busy)]
        assert processes[1].stdout is not None
        assert processes[1].stdout.readline() == "ready\n"
        assert len(group.pids()) >= 2
        group.kill()
        assert group.pids() == []
        for process in processes:
            finish(process)
        frozen = start(group, WAIT)
        group.freeze()
        group.kill()
        finish(frozen, -signal.SIGKILL)
        assert not group.is_frozen


def test_kill_reaches_groups_below(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name) as group, made(cgroups, f"{name}/below") as below:
        process = start(below, WAIT)
        assert group.pids() == [process.pid]
        group.kill()
        finish(process, -signal.SIGKILL)


def test_stats_count(cgroups: Cgroups, name: str) -> None:
    code = f"data = bytearray(b'x') * {40 * MIB}\nsum(range(3_000_000))\nprint('ready', flush=True)\n{WAIT}"
    with made(cgroups, name) as group:
        process = start(group, code)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        stats = group.stats()
        assert 40 * MIB < stats.memory_bytes < 80 * MIB
        assert stats.cpu_ns > 10_000_000
        assert stats.system_cpu_ns > stats.cpu_ns
        assert stats.online_cpus == os.cpu_count()
        assert (stats.pids, stats.memory_limit, stats.pids_limit) == (1, None, None)
        group.kill()
        finish(process)


def test_quota_slows_down(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name, {"cpu": {"quota": 10_000, "period": 100_000, "shares": 512}}) as group:
        assert group.unapplied == ()
        process = start(group, SPIN)
        before, start_time = group.stats().cpu_ns, time.monotonic()
        time.sleep(1)
        used = (group.stats().cpu_ns - before) / 1e9 / (time.monotonic() - start_time)
        group.kill()
        finish(process)
        assert used < 0.25


def test_limits_change_up_and_down(cgroups: Cgroups, name: str) -> None:
    """Memory may never be above memory and swap together, so the order of writing matters, each way another."""
    with made(cgroups, name, {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}) as group:
        for size in (256, 32, 512):
            limits = {"memory": {"limit": size * MIB, "swap": size * MIB}, "cpu": {"period": size * 1000, "quota": size * 500}}
            assert group.update(limits) == []
            assert group.stats().memory_limit == size * MIB
        assert group.update({"memory": {"limit": -1, "swap": -1}}) == []
        assert group.stats().memory_limit is None


def test_less_memory_than_is_in_use_is_a_conflict_or_frees_it(cgroups: Cgroups, name: str) -> None:
    code = f"data = bytearray(b'x') * {100 * MIB}\nprint('ready', flush=True)\n{WAIT}"
    with made(cgroups, name, {"memory": {"limit": 300 * MIB, "swap": 300 * MIB}}) as group:
        process = start(group, code)
        assert process.stdout is not None
        process.stdout.readline()
        if cgroups.version == 1:
            with pytest.raises(Conflict, match="--memory"):
                group.update({"memory": {"limit": 20 * MIB}})
        group.kill()
        finish(process)


def test_values_that_the_kernel_refuses_are_named(cgroups: Cgroups, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"--cpu-period: the kernel refuses '.*5' \(Invalid argument\)"):
        cgroups.create(name, {"cpu": {"period": 5}})
    assert cgroups.at(name).places == ()


def test_a_group_with_processes_is_not_replaced_or_removed(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name) as group:
        process = start(group, WAIT)
        with pytest.raises(Conflict, match=str(process.pid)):
            cgroups.create(name)
        with pytest.raises(Conflict, match=str(process.pid)):
            group.remove()
        group.kill()
        finish(process)
        # What was left by a monitor that was killed is empty, and replaced.
        assert cgroups.create(name, {"pids": {"limit": 7}}).stats().pids_limit == 7
    assert cgroups.at(name).places == ()
    group.remove()


def test_two_containers_share_the_directory_above(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name) as group:
        with made(cgroups, name.replace("one", "two")):
            pass
        assert cgroups.at(name).places == group.places


def device_code(*paths: str) -> str:
    return (
        "import os, json\nfound = {}\n"
        f"for path in {paths!r}:\n"
        "  try:\n    os.close(os.open(path, os.O_RDWR)); found[path] = 0\n"
        "  except OSError as error: found[path] = error.errno\n"
        "print(json.dumps(found))"
    )


def test_devices_that_are_not_listed_cannot_be_opened(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, name, {"devices": [DENY_ALL, NULL]}) as group:
        assert group.unapplied == ()
        told = json.loads(finish(start(group, device_code("/dev/null", "/dev/zero")), 0))
        assert told == {"/dev/null": 0, "/dev/zero": 1}


@pytest.mark.parametrize(("rules", "null", "zero"), [
    ([DENY_ALL, NULL], 0, 1),
    ([DENY_ALL, {**NULL, "access": "r"}], 1, 1),
    ([DENY_ALL, {"allow": True, "type": "c", "access": "rw"}], 0, 0),
    ([DENY_ALL, {"allow": True, "type": "b", "access": "rw"}], 1, 1),
    ([DENY_ALL, {"allow": True, "type": "c", "major": 1, "access": "rwm"}, {**NULL, "allow": False}], 0, 0),
    ([{**NULL, "allow": False, "access": "w"}], 1, 0),
    ([{**NULL, "allow": False, "access": "m"}], 0, 0),
])  # fmt: skip
def test_the_device_program_of_version_2(
    cgroups: Cgroups, name: str, rules: list[dict[str, Any]], null: int, zero: int
) -> None:
    """A program of a group in the unified hierarchy, which a hybrid machine has as well."""
    with made(cgroups, name) as group:
        unified = group.paths.get("")
        assert unified is not None, "this machine has no version 2 of control groups mounted"
        devicefilter.attach(unified, devicefilter.compile_rules(rules))
        told = json.loads(finish(start(group, device_code("/dev/null", "/dev/zero")), 0))
        assert told == {"/dev/null": null, "/dev/zero": zero}


def test_groups_of_runc_are_found_by_the_same_name(cgroups: Cgroups, name: str, tmp_path: Path) -> None:
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    busybox = Path("/bin/busybox").read_bytes()
    (tmp_path / "rootfs/bin/busybox").write_bytes(busybox)
    (tmp_path / "rootfs/bin/busybox").chmod(0o755)
    document = {
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/", "env": [],
                    "user": {"uid": 0, "gid": 0}, "noNewPrivileges": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": cgroups.spec_path(name), "namespaces": [{"type": "mount"}, {"type": "pid"}],
                  "resources": {"pids": {"limit": 50}, "memory": {"limit": 64 * MIB}}},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(document))
    container = f"lamina-test-{secrets.token_hex(4)}"
    runc = ["runc", "--root", str(tmp_path / "state")]
    subprocess.run(
        [*runc, "run", "--detach", "--bundle", str(tmp_path), container], check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        group = cgroups.at(name)
        state = json.loads(subprocess.run([*runc, "state", container], check=True, capture_output=True).stdout)
        assert group.pids() == [state["pid"]]
        stats = group.stats()
        assert (stats.pids_limit, stats.memory_limit) == (50, 64 * MIB)
        group.freeze()
        status = subprocess.run([*runc, "state", container], check=True, capture_output=True).stdout
        assert json.loads(status)["status"] == "paused"
        group.thaw()
        assert group.update({"pids": {"limit": 60}}) == []
        assert group.stats().pids_limit == 60
        group.kill()
    finally:
        subprocess.run([*runc, "delete", "--force", container], check=True)
        cgroups.at(name).remove()
        for hierarchy in cgroups.hierarchies:  # runc leaves the directory above
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(f"{hierarchy.base}/{name}"))


def test_an_ordinary_user_is_told_why_there_are_no_limits() -> None:
    code = (
        "from lamina.runtime.cgroup import Cgroups\n"
        "group = Cgroups.detect().create('lamina/x', {'memory': {'limit': 1 << 30}, 'devices': [{'allow': False}]})\n"
        "print(*group.unapplied, sep='\\n'); group.add(0); group.kill(); group.remove()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], user="lamina-nosub", group="lamina-nosub", extra_groups=[], check=True,
        capture_output=True, text=True, cwd="/", env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if "--memory: " not in done.stdout:
        assert Cgroups.detect().version == 2  # something is delegated to this user
    else:
        assert "may not write" in done.stdout or "delegated" in done.stdout


ENTER = textwrap.dedent("""
    import os, sys
    open(sys.argv[1], "w").write("0")
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[3]])
""")

DELEGATED = textwrap.dedent("""
    import json, os, signal, subprocess, sys
    from lamina.runtime.cgroup import Cgroups
    found = Cgroups.detect()
    group = found.create("lamina/one", {"pids": {"limit": 9}, "devices": [{"allow": False}]})
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    group.add(process.pid)
    told = {"base": found.hierarchies[0].base, "path": found.spec_path("lamina/one"), "pids": group.pids() == [process.pid],
            "unapplied": [item.option for item in group.unapplied], "limit": group.stats().pids_limit}
    group.freeze()
    told["frozen"] = group.is_frozen
    group.kill()
    told["killed"] = process.wait() == -signal.SIGKILL
    group.remove()
    print(json.dumps(told))
""")


def test_an_ordinary_user_uses_what_is_delegated(cgroups: Cgroups, name: str) -> None:
    with made(cgroups, os.path.dirname(name)) as group, made(cgroups, name) as session:
        service, inside = group.paths[""], session.paths[""]
        for path in (service, inside, *(f"{one}/cgroup.{file}" for one in (service, inside)
                                        for file in ("procs", "subtree_control"))):  # fmt: skip
            shutil.chown(path, "lamina-test", "lamina-test")
        arguments = [f"{inside}/cgroup.procs", str(os.stat(inside).st_uid), DELEGATED]
        done = subprocess.run(
            [sys.executable, "-c", ENTER, *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        told = json.loads(done.stdout)
        top = next(item.top for item in cgroups.hierarchies if item.version == 2)
        assert told["base"] == service
        assert told["path"] == f"{service.removeprefix(top)}/lamina/one"
        assert (told["pids"], told["frozen"], told["killed"]) == (True, True, True)
        has_limits = cgroups.version == 2
        assert (told["unapplied"], told["limit"]) == (([], 9) if has_limits else (["--pids-limit"], None))
        assert not os.path.exists(f"{service}/lamina")
