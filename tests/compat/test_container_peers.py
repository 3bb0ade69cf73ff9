"""Containers as docker and podman have them: the same commands, and every difference is one that is known.

docs/decisions/086-containers-as-docker-has-them.md says of each difference who is right, and why.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compat.container_images import CONFIGS, write_archive
from tests.compat.container_peers import (
    Answer,
    Case,
    Peer,
    Peers,
    Terminal,
    code_only,
    is_failure,
    sorted_environment,
)
from tests.compat.peers import SYSTEM_PATH, Docker, Podman, program

pytestmark = pytest.mark.compat

PODMAN, DOCKER = ("podman",), ("docker",)


@pytest.fixture(scope="module")
def peers(workshop: Path, dockerd: Docker, podman: Podman) -> Iterator[Peers]:
    home = workshop / "same"
    (home / "h").mkdir(parents=True)
    environment = {"PATH": SYSTEM_PATH, "HOME": str(home / "h"), "TMPDIR": str(podman.home / "tmp")}
    command = [
        program("podman"), "--root", podman.home / "root", "--runroot", podman.home / "run", "--tmpdir",
        podman.home / "libpod", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
        "--events-backend", "file", "--runtime", "runc",
    ]
    found = Peers(
        ours=Peer("lamina", (sys.executable, "-m", "lamina", "--root", str(home / "l")), environment),
        docker=Peer("docker", (program("docker"), "-H", f"unix://{dockerd.socket}"), environment),
        podman=Peer("podman", tuple(map(str, command)), environment), scratch=home / "own",
    )
    for peer in found.all:
        (found.scratch / peer.name).mkdir(parents=True)
    archive = write_archive(home / "images.tar")
    found.each(lambda peer: peer.good("load", "-i", archive))
    yield found
    found.each(_clean)


def _clean(peer: Peer) -> None:
    for name in peer.good("ps", "-aq").split():
        peer("kill", name)  # podman would ask nicely first, for ten seconds
        peer("rm", "-f", "-v", name)
    for name in peer.good("volume", "ls", "-q").split():
        peer("volume", "rm", "-f", name)
    for name in (*CONFIGS, "made"):
        peer("image", "rm", "-f", f"{name}:1")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Files of the host's to mount and to copy."""
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "f").write_text("host\n")
    (tmp_path / "d/g").write_text("G\n")
    (tmp_path / "d/e/h").write_text("H\n")
    (tmp_path / "l").symlink_to("f")
    (tmp_path / "f").chmod(0o640)
    return tmp_path


# -- run: codes, environment, users


def test_exit_codes_are_those_of_docker(peers: Peers) -> None:
    peers.compare([
        "run --rm plain:1 sh -c 'echo out; exit 7'", "run --rm plain:1 nosuch", "run --rm plain:1 /etc",
        "run --rm plain:1 badformat", "run --rm plain:1 lostinterp", "run --rm plain:1 ''",
        "run --nosuchflag plain:1 true", "run --memory x plain:1 true", "run --rm --cap-add NOSUCH plain:1 true",
        "run --rm -v relative/path:/x plain:1 true", "run --rm --restart always plain:1 true",
        "run --rm --ulimit nofile=200:100 plain:1 true", "run --rm --sysctl kernel.hostname=x plain:1 true",
        "run --rm --tmpfs /t:bad=1 plain:1 true", "run --rm mute:1", "run --rm --entrypoint '' plain:1",
        Case("run --rm -u nosuch plain:1 true", PODMAN), Case("run --rm -w /etc/passwd plain:1 pwd", PODMAN),
        Case("run --rm -w relative plain:1 pwd", PODMAN), Case("run --rm --device /dev/nosuch plain:1 true", DOCKER),
        Case("run --rm --cpus 99 plain:1 true", DOCKER),
    ])


def test_the_environment_is_that_of_docker(peers: Peers, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text('# comment\nA=1\nB=two words\n  C=indented\nUNSET\nHOME=/elsewhere\n\nD=#no\nE="quoted"\n')
    peers.compare([
        "run --rm -h b plain:1 env", "run --rm -h b -u 4242 -e PATH=/bin -e HOSTNAME=other plain:1 env",
        "run --rm -h b --entrypoint env -e X=1 -e SHAPE= full:1",
        f"run --rm -h b --entrypoint env --env-file {file} -e A=2 full:1", "run --rm -h b -t plain:1 env",
        Case("run --rm -h b --entrypoint env -e COLOUR full:1", PODMAN),
    ], sorted_environment)


def test_a_name_alone_in_an_environment_file_leaves_the_images_variable(peers: Peers, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("COLOUR\n")
    peers.compare([f"run --rm --entrypoint sh --env-file {tmp_path}/env full:1 -c 'echo $COLOUR'"])
    assert peers.ours.good(
        "run", "--rm", "--entrypoint", "sh", "--env-file", tmp_path / "env", "full:1", "-c", "echo $COLOUR"
    ) == "red\n"


def test_the_users_and_groups_are_those_of_docker(peers: Peers) -> None:
    peers.compare([
        "run --rm -u app plain:1 id", "run --rm -u app:staff plain:1 id", "run --rm -u 4242:50 plain:1 id -G",
        "run --rm -u app --group-add staff --group-add 777 plain:1 id", "run --rm -u app plain:1 busybox-setid id",
        "run --rm -u app --security-opt no-new-privileges plain:1 busybox-setid id",
        # Podman leaves root's own group out of its groups.
        Case("run --rm --group-add staff plain:1 id", PODMAN),
    ])


def test_entrypoints_and_working_directories_are_those_of_docker(peers: Peers) -> None:
    peers.compare([
        "run --rm full:1", "run --rm full:1 --help", "run --rm --entrypoint pwd full:1", "run --rm shell:1 a b",
        "run --rm --entrypoint '' full:1 echo direct", "run --rm --entrypoint 'echo joined' full:1 x",
        # Podman makes the image's directory but not the command line's, and gives it to the user.
        Case("run --rm -w /new/deep -u app plain:1 sh -c 'pwd; stat -c %a:%U /new /new/deep'", PODMAN),
        Case("run --rm -w /x/../y plain:1 sh -c 'pwd; ls -d /x'", PODMAN),
        Case("run --rm --read-only -w /newdir plain:1 pwd", PODMAN),
    ])


# -- what the kernel says of it

# Each section is compared alone. Numbers that no two containers share are left out.
PROBE = """
echo '# status'; grep -E '^(Cap|NoNew|Seccomp|Uid|Gid|Groups|SigBlk|SigIgn)' /proc/self/status
echo '# mounts'; sed 's/^[^ ]* [^ ]* [^ ]* [^ ]* //; s/ - \\([^ ]*\\) .*/ - \\1/; s/ master:[0-9]*//' /proc/self/mountinfo |
    sort
echo '# superblocks'; grep -E '^(proc|tmpfs|devpts|sysfs|mqueue|shm) ' /proc/mounts | sort
echo '# devices'; ls -lA /dev | sed 's/ [A-Z][a-z][a-z] .*[0-9] / /'
echo '# hidden'; ls -ld /proc/kcore /proc/keys /proc/timer_list /proc/scsi /sys/firmware | sed 's/ [A-Z][a-z][a-z] .*[0-9] / /'
cat /proc/keys; ls /sys/firmware
echo '# refused'; for file in sys/kernel/hostname sysrq-trigger irq/x bus/x; do echo b >/proc/$file; done 2>&1
mount -t tmpfs t /mnt 2>&1; touch /sys/x 2>&1; chroot / true 2>&1; ulimit -Sc
echo '# groups'; ls /sys/fs/cgroup
"""


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            found[line[2:]] = lines = []
        else:
            lines.append(line)
    return found


@pytest.mark.parametrize("flags", [
    (), ("-u", "app", "--security-opt", "seccomp=unconfined"), ("--cap-drop", "ALL", "--cap-add", "NET_ADMIN"),
    ("--read-only", "--tmpfs", "/tmp"),
], ids=["plain", "user", "capabilities", "read-only"])
def test_the_kernel_says_the_same_of_a_container_as_of_dockers(peers: Peers, flags: tuple[str, ...]) -> None:
    def probe(peer: Peer, *more: str) -> dict[str, list[str]]:
        return _sections(peer.good("run", "--rm", "-h", "probe", *more, *flags, "plain:1", "sh", "-c", PROBE))

    found = peers.each(probe)
    ours, embedded = found["lamina"], probe(peers.ours, "--runtime", "embedded")
    for section, lines in found["docker"].items():
        # Which processors serve which devices: docker hides that too by now (25.0).
        assert [line for line in ours[section] if "/proc/interrupts" not in line] == lines
    for section in ("devices", "refused", "groups"):
        assert ours[section] == found["podman"][section]
    for section in ("status", "devices", "hidden", "refused"):
        assert embedded[section] == ours[section]
    assert _beside_groups(embedded["mounts"]) == _beside_groups(ours["mounts"])


def _beside_groups(mounts: list[str]) -> list[str]:
    """Ours are read-only up to their top, and have the one of version 2 as well where a machine has both."""
    return [line for line in mounts if not line.startswith("/sys/fs/cgroup")]


def test_all_capabilities_are_all_that_there_are_to_give(peers: Peers) -> None:
    """Docker 20.10 asks for those too that its daemon does not have, and fails; where it has all, it agrees."""
    line = "run --rm --privileged plain:1 grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"
    answers = peers.say(line)
    assert answers["lamina"].code == 0
    assert answers["lamina"].out == answers["podman"].out
    for more in ("--cap-add ALL --cap-drop SYS_TIME", "--cap-add all"):
        found = peers.say(f"run --rm {more} plain:1 grep Cap /proc/self/status")
        assert (found["lamina"].code, found["lamina"].out) == (0, found["podman"].out)


def test_limits_are_written_as_docker_writes_them(peers: Peers) -> None:
    files = ("memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes "
             "cpu/cpu.cfs_quota_us cpu/cpu.shares pids/pids.max cpuset/cpuset.cpus memory.max memory.low "
             "memory.swap.max cpu.max cpu.weight pids.max cpuset.cpus")
    show = f"sh -c 'cd /sys/fs/cgroup; for file in {files}; do test -e $file && echo $file $(cat $file); done; nproc'"
    peers.compare([
        f"run --rm -m 32m --memory-reservation 16m --cpus 0.5 --cpu-shares 512 --pids-limit 20 --cpuset-cpus 0 plain:1 {show}",
        # Podman has a limit of 2048 processes where nobody asks for another.
        Case(f"run --rm -m 32m --memory-swap 48m --cpu-quota 20000 plain:1 {show}", PODMAN),
        "run --rm -m 16m plain:1 sh -c 'tail /dev/zero; echo $?'", "run --rm -m 32m --memory-swap 16m plain:1 true",
        "run --rm --ulimit nofile=100:200 --ulimit core=0 plain:1 sh -c 'ulimit -n; ulimit -Hn; ulimit -c'",
        "run --rm --shm-size 1m --oom-score-adj 100 plain:1 sh -c 'grep /dev/shm /proc/mounts; cat /proc/self/oom_score_adj'",
        "run --rm --sysctl net.ipv4.ip_forward=1 plain:1 cat /proc/sys/net/ipv4/ip_forward",
    ])


def test_names_of_the_machine_are_those_of_docker(peers: Peers) -> None:
    peers.compare([
        "run --rm -h bo.x plain:1 sh -c 'hostname; echo $(cat /etc/hostname)'", "run --rm --uts host plain:1 hostname",
        Case("run --rm --init plain:1 sh -c 'cat /proc/1/comm; test $$ -gt 1 && echo second'", PODMAN),
        Case("run --rm -h bo --add-host a:1.2.3.4 plain:1 cat /etc/hosts", PODMAN),
        Case("run --rm --domainname d.e plain:1 cat /proc/sys/kernel/domainname", PODMAN),
    ])


# -- files


def test_mounts_are_those_of_docker(peers: Peers, host: Path) -> None:
    look = "sh -c 'ls -A /data; stat -c %a:%u:%g /data /data/kept; cat /data/kept; echo new >/data/new'"
    peers.compare([
        f"run --rm -v {host}/f:/etc/f plain:1 cat /etc/f", f"run --rm -v {host}/f:/etc/passwd:ro plain:1 cat /etc/passwd",
        f"run --rm -v {host}:/m plain:1 sh -c 'ls -A /m; cat /m/d/e/h; stat -c %a /m/f; grep -c \" /m \" /proc/mounts'",
        f"run --rm -v {host}:/var/run/m plain:1 ls /run/m",
        f"run --rm -v {host}:/m -v v1:/m plain:1 true", f"run --rm -v {host}:/m:bad plain:1 true",
        f"run --rm --mount type=bind,src={host}/nothere,dst=/m plain:1 true",
        f"run --rm --mount type=bind,src={host},dst=/m,readonly plain:1 sh -c 'touch /m/y; ls /m'",
        f"run --rm -v v1:/data plain:1 {look}", "run --rm -v v1:/x/y:ro plain:1 sh -c 'ls /x/y; touch /x/y/z; echo $?'",
        "run --rm -v v2:/data:nocopy plain:1 ls -A /data", "run --rm --mount type=volume,src=v3,dst=/data plain:1 ls /data",
        "run --rm volume:1 sh -c 'ls -A /data /fresh/deep; stat -c %a:%u:%g /data /fresh/deep'",
        "run --rm -v /anon plain:1 sh -c 'stat -c %a:%u:%g /anon; touch /anon/x; echo $?'",
    ])


def test_a_tmpfs_is_that_of_docker(peers: Peers) -> None:
    """Podman's can hold programs that run, copy what is below them, and take no owner."""
    show = "sh -c 'grep \" /t \" /proc/mounts; stat -c %a:%U /t'"
    peers.compare([
        f"run --rm --tmpfs /t:exec,rw plain:1 {show}", Case(f"run --rm --tmpfs /t plain:1 {show}", PODMAN),
        Case(f"run --rm --tmpfs /t:ro plain:1 {show}", PODMAN),
        Case(f"run --rm --tmpfs /t:size=5m,mode=700,uid=1000 plain:1 {show}", PODMAN),
        Case(f"run --rm --mount type=tmpfs,dst=/t,tmpfs-size=4096k,tmpfs-mode=1770 plain:1 {show}", PODMAN),
        Case("run --rm --tmpfs /data plain:1 sh -c 'stat -c %a:%U /data; ls -A /data'", PODMAN),
    ])


def _tree(peer: Peer, container: str) -> dict[str, tuple[Any, ...]]:
    """What ``export`` gives: type, mode, owner, link, size and xattrs of each path; no engine's own files."""
    done = subprocess.run(
        peer.argv("export", container), stdout=subprocess.PIPE, env=dict(peer.environment), check=True
    )
    found = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for entry in archive:
            name = entry.name.removeprefix("./").rstrip("/")
            if name in _OWN_FILES:
                continue
            file = archive.extractfile(entry) if entry.isreg() else None
            xattrs = {key: value for key, value in entry.pax_headers.items() if "xattr" in key}
            found[name] = (entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, entry.linkname, xattrs,
                           file.read() if file is not None else b"")
    return found


# Places for mounts: docker and podman leave theirs executable, and have some more.
_OWN_FILES = (
    "", ".", ".dockerenv", "run/.containerenv", "dev/console", "dev/pts", "dev/shm", "etc/mtab",
    "etc/hostname", "etc/hosts", "etc/resolv.conf", "dev", "proc", "sys",
)
WORK = """
echo changed >/old/first; rm /old/second; mv /old/inner /old/moved; mkdir -p /new/dir; echo x >/new/dir/f
ln /new/dir/f /new/hard; ln -s f /new/dir/s; chmod 700 /data/sub; chown 5:6 /home/app/note; mkfifo /new/fifo
touch /tmp/t; rm /data/link; cp /bin/noexec /root/; chmod 4711 /root/noexec; mknod /new/null c 1 3; true
"""


def test_diff_export_and_commit_are_those_of_docker(peers: Peers) -> None:
    peers.each(lambda peer: peer.good("run", "--name", "worker", "-e", "X=1", "--label", "q=r", "-w", "/data", "-u", "0",
                                      "--entrypoint", "sh", "full:1", "-c", WORK))
    changes = peers.each(lambda peer: sorted(peer.good("diff", "worker").splitlines()))
    assert changes["lamina"] == changes["docker"]
    # Podman leaves out directories in which a file was only given away, and lists those with places for mounts.
    assert set(changes["podman"]) - {"C /etc"} < set(changes["lamina"])
    trees = peers.each(lambda peer: _tree(peer, "worker"))
    assert trees["lamina"] == trees["docker"]
    assert trees["podman"] == {name: seen for name, seen in trees["lamina"].items() if name != "new/null"}

    changed = [f"--change={text}" for text in (
        "ENV A=b", 'CMD ["x","y"]', "LABEL l=m", "USER app", "WORKDIR /old", "EXPOSE 99", "VOLUME /vv",
    )]
    peers.each(lambda peer: peer.good("commit", "-m", "why", "-a", "who", *changed, "worker", "made:1"))
    configs = peers.each(_config)
    assert configs["lamina"] == configs["docker"]
    assert {**configs["podman"], "Env": configs["lamina"]["Env"]} == configs["lamina"]
    assert {*configs["lamina"]["Env"], "container=podman", "TERM=xterm"} == set(configs["podman"]["Env"])

    # The layer says it all: what is unpacked again is what was committed.
    peers.each(lambda peer: peer.good("create", "--name", "again", "made:1"))
    again = peers.each(lambda peer: _tree(peer, "again"))
    assert again["lamina"] == trees["lamina"]
    assert again["lamina"] == again["docker"]


def _config(peer: Peer) -> dict[str, Any]:
    (document,) = json.loads(peer.good("image", "inspect", "made:1"))
    config = document["Config"]
    names = ("Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal")
    return {
        **{name: config.get(name) for name in names}, "Env": sorted(config["Env"]), "Author": document["Author"],
        "Comment": document["Comment"], "Layers": len(document["RootFS"]["Layers"]),
    }


def test_copying_follows_the_rules_of_docker(peers: Peers, host: Path) -> None:
    peers.each(lambda peer: peer.good("create", "--name", "copied", "plain:1"))
    peers.compare([
        "cp copied:/etc/passwd @/pw", "cp copied:/old @/new", "cp copied:/old @/new", "cp copied:/old/. @/dots",
        "cp copied:/etc/passwd @/nosuch/", "cp copied:/old @/pw", "cp copied:/nosuch @/x", "cp copied:/data/link @/link",
        f"cp {host}/f copied:/mnt", f"cp {host}/f copied:/mnt/g", f"cp {host}/f copied:/mnt/nosuch/", f"cp {host}/d copied:/mnt/n",
        f"cp {host}/d copied:/mnt/n", f"cp {host}/d/. copied:/mnt/m", f"cp {host}/d copied:/etc/passwd",
        f"cp {host}/l copied:/mnt/", f"cp {host}/nosuch copied:/mnt", f"cp {host}/f copied:/var/run/",
        f"cp {host}/f copied:/data/link", "cp nosuch:/a @/q",
        # Podman copies between containers, and takes a file with a slash behind it for a file.
        Case("cp copied:/etc/passwd worker:/tmp/", PODMAN), Case("cp copied:/old/first/ @/x", PODMAN),
    ], is_failure)
    outside = peers.each(lambda peer: _listed(peers.scratch / peer.name))
    assert outside["lamina"] == outside["docker"]
    inside = peers.each(lambda peer: _tree(peer, "copied"))
    assert inside["lamina"] == inside["docker"]


def _listed(directory: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(directory))] = (oct(status.st_mode), status.st_uid, status.st_gid, content)
    return found


# -- its life


def test_a_containers_life_is_that_of_dockers(peers: Peers) -> None:
    peers.each(lambda peer: peer.good("create", "--name", "one", "plain:1", "sh", "-c", "echo out; echo err >&2; exit 5"))
    shown = ("{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{json .Config.Cmd}} {{.Path}} {{json .Args}} "
             "{{.HostConfig.NetworkMode}} {{.State.Running}} {{.State.OOMKilled}} {{.State.Pid}} {{.HostConfig.AutoRemove}}")
    peers.compare([
        "inspect -f '{{.State.Status}} {{.State.Running}}' one", "start one", "wait one", "logs one", "start -a one", "logs one",
        f"inspect -f '{shown}' one", "rename one two", "inspect -f '{{.State.Status}}' two", "port two",
        "stop two", "rm two", "rm -f two", Case("logs -n 0 nosuch", PODMAN),
    ])
    peers.compare([
        "start nosuch", "rename nosuch x", "rm nosuch", "wait nosuch", "stop nosuch", "logs nosuch", "exec nosuch true",
        "inspect nosuch", "ps --filter nosuch=1",
    ], is_failure)


LOOP = "trap 'echo HUP' HUP; trap 'echo USR; exit 3' USR1; echo ready; while :; do sleep 0.05; done"


def test_signals_and_states_are_those_of_docker(peers: Peers) -> None:
    peers.each(lambda peer: peer.good("run", "-d", "--name", "loop", "plain:1", "sh", "-c", LOOP))
    peers.each(lambda peer: _until(peer, "loop", "ready"))
    peers.compare(["rm loop", "run --name loop plain:1 true", "unpause loop"], is_failure)
    peers.compare(["pause loop"])
    peers.compare(["start loop", "pause loop", "exec loop true"], is_failure)
    peers.compare([
        "inspect -f '{{.State.Status}} {{.State.Paused}}' loop", "unpause loop",
        "kill -s HUP loop", "exec loop sleep 0.2", "kill -s SIGHUP loop", "exec loop sleep 0.2", "kill -s 1 loop",
        "exec loop sleep 0.2", "kill -s USR1 loop", "wait loop", "logs loop", "inspect -f '{{.State.ExitCode}}' loop",
    ])
    peers.compare(["kill loop", "pause loop", "top loop", "exec loop true", "kill -s NOSUCH loop"], is_failure)
    # Process 1 does not die of a signal that it does not handle: SIGKILL follows.
    peers.each(lambda peer: peer.good("run", "-d", "--name", "deaf", "plain:1", "sleep", "100"))
    peers.compare([
        "stop -t 1 deaf", "inspect -f '{{.State.ExitCode}} {{.State.Status}}' deaf", "start deaf", "kill deaf",
        "wait deaf", "restart -t 0 deaf", "inspect -f '{{.State.Status}}' deaf",
    ])
    peers.each(lambda peer: peer.good("run", "-d", "--name", "own", "--stop-signal", "USR1", "plain:1", "sh", "-c", LOOP))
    peers.each(lambda peer: _until(peer, "own", "ready"))
    peers.compare(["stop own", "inspect -f '{{.State.ExitCode}}' own"])


def _until(peer: Peer, container: str, text: str) -> None:
    end = time.monotonic() + 20
    while text not in peer.good("logs", container):
        assert time.monotonic() < end, f"{peer.name}: {container} never said {text!r}"
        time.sleep(0.05)


def test_restarting_is_counted_as_docker_counts(peers: Peers) -> None:
    """And the command in the foreground ends with the first run."""
    answers = peers.say("run --name again-and-again --restart on-failure:2 plain:1 sh -c 'echo x; exit 4'")
    assert {(answer.code, answer.out) for answer in answers.values()} == {(4, "x\n")}
    # Docker's wait is over with the first run, or with the last, as it happens.
    peers.each(_await_last_run)
    peers.compare([
        "wait again-and-again", "logs again-and-again",
        "inspect -f '{{.RestartCount}} {{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}}' again-and-again",
    ])


def _await_last_run(peer: Peer) -> None:
    limit = time.monotonic() + 20
    state = ("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again-and-again")
    while peer.good(*state).strip() != "2 exited":
        assert time.monotonic() < limit, peer.good(*state)
        time.sleep(0.1)


def test_commands_in_running_containers_are_those_of_docker(peers: Peers) -> None:
    peers.each(lambda peer: peer.good("run", "-d", "-h", "h", "--name", "host", "plain:1", "sleep", "1000"))
    peers.compare([
        "exec host sh -c 'echo out; exit 9'", "exec host sh -c 'kill -9 $$'", "exec -w /data host pwd",
        "exec host sh -c 'ls /proc/self/fd | wc -l'", "exec host cat /proc/1/comm", "exec -t host tty",
        Case("exec -i host wc -c", stdin="x" * 100_000), Case("exec -u app host id", PODMAN),
        Case("exec -u app host grep Cap /proc/self/status", PODMAN),
        # Docker 20.10 has 126 for what is not there, and prints the reason where the output belongs.
        Case("exec host nosuch", DOCKER),
    ])
    peers.compare(["exec -e A=1 -e B host env", "exec -u app host env"], sorted_environment)
    peers.compare(["exec -u nosuch host id", "exec -w /nosuch host pwd", Case("exec -it host true", PODMAN)], _fails)
    peers.compare(["exec -d host touch /made", "exec host /etc"], code_only)
    peers.compare(["exec host sh -c 'sleep 0.2; ls /made'"])


def _fails(answer: Answer) -> object:
    return answer.code != 0


def test_lists_are_those_of_docker(peers: Peers) -> None:
    """Podman has its own ideas of every column."""
    peers.each(lambda peer: peer.good("create", "--name", "listed", "--label", "k=v", "full:1", "a b", "c"))
    columns = "{{.Image}}|{{.Command}}|{{.Names}}|{{.State}}|{{.Ports}}|{{.Mounts}}|{{.Networks}}|{{.Status}}"
    peers.compare([
        Case(f"ps -a --filter name=listed --no-trunc --format '{columns}'", PODMAN),
        Case("ps -a --filter name=listed --format '{{.Command}}'", PODMAN),
        "ps -a --filter label=k=v --format '{{.Names}}'", "ps -aq --filter label=k --format '{{.Names}}'",
        "ps -a --filter status=created --filter label=k --format '{{.Names}}'", "ps -l --format '{{.Names}}'",
        Case("ps -a --filter ancestor=full:1 --filter label=k --format '{{.Names}}'", PODMAN),
        "ps -a --filter ancestor=shell:1 --filter label=k --format '{{.Names}}'",
    ])
    header = peers.each(lambda peer: peer.good("ps").splitlines()[0].split())
    assert header["lamina"] == header["docker"] == header["podman"]


# -- streams and terminals


def test_input_and_output_go_where_docker_lets_them_go(peers: Peers) -> None:
    peers.compare([
        Case("run --rm plain:1 cat", stdin="lost"),
        Case("run --rm -i plain:1 sh -c 'read a; echo got $a; exit 3'", stdin="one\ntwo\n"),
        Case("run --rm -i plain:1 wc -c", stdin="x" * 300_000),
        Case("run --rm -i -a stdin -a stdout plain:1 sh -c 'cat; echo e >&2'", stdin="hello\n"),
        "run --rm -a stderr plain:1 sh -c 'echo o; echo e >&2'", "run --rm -t plain:1 tty",
    ])
    # Podman only warns that the input is no terminal.
    peers.compare([Case("run --rm -it plain:1 true", PODMAN)], _fails)
    answers = peers.say("run --rm plain:1 sh -c 'echo o; echo e >&2'")
    assert {(answer.out, answer.error) for answer in answers.values()} == {("o\n", "e\n")}


def test_input_that_nobody_reads_does_not_keep_output_back(peers: Peers) -> None:
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            peers.ours.argv("run", "--rm", "-i", "plain:1", "sh", "-c", "seq 1 200000"), stdin=endless,
            capture_output=True, timeout=30, env=dict(peers.ours.environment), check=False,
        )
    assert (done.returncode, done.stdout.split()[-1]) == (0, b"200000")


def test_a_terminal_is_that_of_docker(peers: Peers) -> None:
    """Its size, Ctrl-C, a size that changes, Ctrl-P Ctrl-Q and back again, an end, Ctrl-D."""
    peers.each(_run_on_terminal)


def _run_on_terminal(peer: Peer) -> None:
    with peer.terminal("run", "-it", "--name", "screen", "plain:1", "sh", size=(31, 97)) as terminal:
        terminal.expect("/ # ")
        _typed(terminal, "stty size", "31 97")
        _interrupted(terminal)
        terminal.type("sh -c 'trap \"stty size\" WINCH; echo ar''med; while :; do sleep 0.1; done'\r")
        terminal.expect("armed\r\n")
        terminal.resize(40, 120)
        terminal.expect("40 120")
        terminal.type("\x03")
        terminal.expect("/ # ")
        terminal.type("\x10")
        time.sleep(0.2)  # podman takes them for keys only if it reads them one by one
        terminal.type("\x11")
        assert terminal.ended() == 0
    assert peer.good("inspect", "-f", "{{.State.Running}}", "screen") == "true\n"
    with peer.terminal("attach", "screen", size=(50, 130)) as terminal:
        terminal.type("\r")
        terminal.expect("/ # ")
        _typed(terminal, "stty size", "50 130")
        terminal.type("exit 6\r")
        assert terminal.ended() == (0 if peer.name == "podman" else 6)  # which does not tell it here
    with peer.terminal("start", "-ai", "screen") as terminal:
        terminal.expect("/ # ")
        terminal.type("\x04")
        assert terminal.ended() == 0


def _typed(terminal: Terminal, command: str, answer: str) -> None:
    terminal.type(f"{command}\r")
    terminal.expect(answer)
    terminal.expect("/ # ")


def _interrupted(terminal: Terminal) -> None:
    """Ctrl-C is for what runs in the foreground, and for nobody else."""
    terminal.type("echo sle''eping; sleep 100\r")
    terminal.expect("sleeping\r\n")
    time.sleep(0.3)  # between the echo and the sleep there is nothing to see
    terminal.type("\x03")
    terminal.expect("/ # ")
    _typed(terminal, "echo code $?", "code 130")


def test_a_command_on_a_terminal_in_a_running_container_is_that_of_docker(peers: Peers) -> None:
    def ask(peer: Peer) -> None:
        peer.good("run", "-d", "--name", "entered", "plain:1", "sleep", "1000")
        with peer.terminal("exec", "-it", "entered", "sh", size=(22, 77)) as terminal:
            terminal.expect("/ # ")
            _typed(terminal, "stty size; echo $TERM", "22 77\r\nxterm")
            _interrupted(terminal)
            terminal.type("exit 9\r")
            assert terminal.ended() == 9

    peers.each(ask)
