"""Runtime-spec documents: the same options give the same document, and each one keeps the specification's rules."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.made import container

from lamina.errors import InvalidInput
from lamina.runtime.options import ContainerOptions
from lamina.runtime.security import parse_security
from lamina.runtime.spec import Setting, exec_process, make_spec, merged_environment
from lamina.runtime.users import User

GOLDEN = Path(__file__).parent.parent / "data" / "spec"
# Set it to have the files written anew; what changed is then for a person to read in the diff.
REWRITES = bool(os.environ.get("LAMINA_TEST_REWRITE"))
HOST = {"pid": "", "ipc": "", "uts": "", "network": ""}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "privileged": (
        {"is_privileged": True}, {"security": parse_security([], is_privileged=True), "has_cgroup2": True},
    ),
    "read-only": ({"is_read_only": True}, {}),
    "user": ({}, {"user": User(uid=1000, gid=1000, groups=(4, 20), home="/home/app")}),
    "capabilities": ({"cap_add": ("NET_ADMIN", "cap_sys_time"), "cap_drop": ("MKNOD",)}, {}),
    "no-capabilities": ({"cap_drop": ("ALL",), "security": ("no-new-privileges",)},
                        {"security": parse_security(["no-new-privileges", "systempaths=unconfined"])}),
    "limits": ({
        "memory": 512 << 20, "memory_swap": 1 << 30, "memory_reservation": 256 << 20, "cpus": 1.5,
        "cpu_shares": 512, "cpuset_cpus": "0-1", "pids_limit": 100, "has_oom_kill": False,
        "ulimits": ("nofile=1024:2048", "core=-1"), "oom_score_adj": -500, "shm_size": 128 << 20,
    }, {}),
    "shared-with-the-host": ({}, {"shared": HOST}),
    "shared-with-another": ({}, {"shared": {"pid": "/proc/7/ns/pid", "network": "/proc/7/ns/net"}}),
    "user-namespace": ({}, {"is_user_namespace": True}),
    "user-namespace-host-network": ({}, {"is_user_namespace": True, "shared": {"network": ""}}),
    "user-namespace-cgroup2": ({"memory": 64 << 20}, {"is_user_namespace": True, "has_cgroup2": True}),
    "no-group": ({"memory": 64 << 20}, {"is_user_namespace": True, "cgroup": ""}),
    "single-id": ({}, {"is_user_namespace": True, "has_single_id": True, "cgroup": ""}),
    "terminal": ({"has_terminal": True}, {}),
    "init": ({}, {"init": "/usr/bin/catatonit"}),
    "mounts": ({}, {"mounts": [
        {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["size=1k"]},
        {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro", "rprivate"]},
    ]}),
    "named": ({"sysctls": ("net.core.somaxconn=1024",)}, {"domainname": "example.com"}),
    "devices": ({}, {
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "device_rules": [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}],
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []},
    }),
}


def document(name: str) -> dict[str, Any]:
    options, setting = CASES[name]
    given = {"rootfs": "/state/containers/c0ffee/rootfs", "hostname": "c0ffee000000", "cgroup": "/lamina/c0ffee", **setting}
    return make_spec(container(ContainerOptions(**options)), Setting(**given))


@pytest.mark.parametrize("name", CASES)
def test_options_give_the_document_that_is_on_file(name: str) -> None:
    path, text = GOLDEN / f"{name}.json", json.dumps(document(name), indent=1) + "\n"
    if REWRITES:
        path.write_text(text, encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(text)


def test_every_file_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


# -- the specification's rules (opencontainers/runtime-spec 1.0.2: config.md, config-linux.md)

NAMESPACES = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup"}
ROOT_FIELDS = {"ociVersion", "process", "root", "hostname", "domainname", "mounts", "annotations", "linux"}
PROCESS_FIELDS = {
    "terminal", "consoleSize", "user", "args", "env", "cwd", "capabilities", "noNewPrivileges", "rlimits", "oomScoreAdj",
}
LINUX_FIELDS = {
    "namespaces", "resources", "cgroupsPath", "devices", "seccomp", "sysctl", "maskedPaths", "readonlyPaths",
}


def is_id(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**32


def check_process(process: dict[str, Any]) -> None:
    assert process.keys() <= PROCESS_FIELDS
    assert os.path.isabs(process["cwd"])
    assert process["args"]
    assert all(isinstance(word, str) for word in process["args"])
    names = [line.partition("=")[0] for line in process["env"]]
    assert all(names)
    assert len(set(names)) == len(names)
    assert all("=" in line for line in process["env"])
    assert is_id(process["user"]["uid"])
    assert is_id(process["user"]["gid"])
    assert all(map(is_id, process["user"].get("additionalGids", ())))
    sets = process["capabilities"]
    assert sets.keys() <= {"bounding", "effective", "permitted", "inheritable", "ambient"}
    assert not [*sets.get("inheritable", ()), *sets.get("ambient", ())], "CVE-2022-24769"
    assert all(re.fullmatch("CAP_[A-Z_]+", name) for names in sets.values() for name in names)
    assert set(sets["effective"]) <= set(sets["permitted"]) <= set(sets["bounding"])
    kinds = [limit["type"] for limit in process.get("rlimits", ())]
    assert len(set(kinds)) == len(kinds), "runtimes MUST refuse duplicates"
    assert all(0 <= limit["soft"] <= limit["hard"] < 2**64 for limit in process.get("rlimits", ()))
    assert -1000 <= process.get("oomScoreAdj", 0) <= 1000


def check_mounts(mounts: list[dict[str, Any]]) -> None:
    targets = [mount["destination"] for mount in mounts]
    assert all(map(os.path.isabs, targets))
    assert len(set(targets)) == len(targets)
    for mount in mounts:
        assert mount.keys() <= {"destination", "type", "source", "options"}
        assert (mount["type"] == "bind") == bool({"bind", "rbind"} & set(mount["options"]))
        above = [other for other in targets[: targets.index(mount["destination"])]
                 if other.startswith(mount["destination"].rstrip("/") + "/")]
        assert not above, f"{mount['destination']} is mounted over {above}"


def check_linux(linux: dict[str, Any]) -> None:
    assert linux.keys() <= LINUX_FIELDS
    kinds = [each["type"] for each in linux["namespaces"]]
    assert set(kinds) <= NAMESPACES
    assert len(set(kinds)) == len(kinds), "runtimes MUST refuse duplicates"
    assert all(os.path.isabs(each.get("path", "/")) for each in linux["namespaces"])
    assert all(map(os.path.isabs, (*linux.get("maskedPaths", ()), *linux.get("readonlyPaths", ()))))
    for rule in linux["resources"].get("devices", ()):
        assert isinstance(rule["allow"], bool)
        assert re.fullmatch("r?w?m?", rule["access"])
        assert rule.get("type", "a") in ("a", "c", "b")
    for name in linux.get("sysctl", {}):
        needed = "network" if name.startswith("net.") else "uts" if name == "kernel.domainname" else "ipc"
        assert needed in kinds, f"{name} is the host's without a namespace of its own"


@pytest.mark.parametrize("name", CASES)
def test_the_document_keeps_the_rules_of_the_specification(name: str) -> None:
    found = document(name)
    assert found.keys() <= ROOT_FIELDS
    assert re.fullmatch(r"1\.\d+\.\d+", found["ociVersion"])
    assert isinstance(found["root"]["readonly"], bool)
    assert found["root"]["path"]
    check_process(found["process"])
    check_mounts(found["mounts"])
    check_linux(found["linux"])
    kinds = {each["type"] for each in found["linux"]["namespaces"]}
    assert "uts" in kinds or "hostname" not in found, "the host's own name would change"
    assert "mount" in kinds


def test_what_a_container_shares_is_no_namespace_of_its_own() -> None:
    kinds = {each["type"]: each.get("path") for each in document("shared-with-another")["linux"]["namespaces"]}
    assert kinds == {"mount": None, "network": "/proc/7/ns/net", "uts": None, "pid": "/proc/7/ns/pid", "ipc": None}
    assert [each["type"] for each in document("shared-with-the-host")["linux"]["namespaces"]] == ["mount"]


def test_an_ordinary_user_of_the_container_can_use_no_capability() -> None:
    sets = document("user")["process"]["capabilities"]
    assert sets["bounding"]
    assert not sets["effective"]
    assert not sets["permitted"]


def test_home_is_the_users_unless_the_image_has_one() -> None:
    assert "HOME=/home/app" in document("user")["process"]["env"]
    given = container(execution={"Cmd": ["sh"], "Env": ["HOME=/srv"]})
    env = make_spec(given, Setting(rootfs="/r", user=User(uid=1, home="/home/x")))["process"]["env"]
    assert [line for line in env if line.startswith("HOME=")] == ["HOME=/srv"]


def test_a_container_without_a_command_is_refused() -> None:
    with pytest.raises(InvalidInput, match="web: the image names no command"):
        make_spec(container(execution={}), Setting(rootfs="/r"))


@pytest.mark.parametrize("text", ["kernel.panic=1", "vm.swappiness=1", "net.core.somaxconn", "=1"])
def test_settings_of_the_whole_machine_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--sysctl"):
        make_spec(container(ContainerOptions(sysctls=(text,))), Setting(rootfs="/r"))


# -- one more process


def test_exec_keeps_what_it_is_not_told() -> None:
    made = document("limits")
    process = exec_process(made, ["ls"])
    assert process == {**made["process"], "args": ["ls"], "terminal": False}
    check_process(process)


def test_exec_as_another_user() -> None:
    process = exec_process(
        document("defaults"), ["id"], environment=["A=2", "PATH"], user=User(uid=5, gid=6, home="/h"), directory="/tmp",
        has_terminal=True,
    )
    check_process(process)
    assert (process["user"], process["cwd"], process["terminal"]) == ({"uid": 5, "gid": 6}, "/tmp", True)
    assert {"A=2", "HOME=/h", "TERM=xterm"} <= set(process["env"])
    assert not any(line.startswith("PATH=") for line in process["env"])
    assert process["capabilities"]["effective"] == []


def test_exec_privileged_has_everything() -> None:
    sets = exec_process(document("no-capabilities"), ["id"], is_privileged=True)["capabilities"]
    assert {"CAP_SYS_ADMIN", "CAP_SYS_MODULE"} <= set(sets["effective"])


def test_exec_leaves_the_document_as_it_is() -> None:
    made = document("defaults")
    before = json.dumps(made)
    exec_process(made, ["id"], environment=["X=1"], user=User(uid=1), is_privileged=True)
    assert json.dumps(made) == before


@pytest.mark.parametrize(("below", "above", "merged"), [
    (["A=1", "B=2"], ["A=3"], ["A=3", "B=2"]),
    (["A=1", "B=2"], ["A"], ["B=2"]),
    ([], ["C"], []),
    (["A=1"], ["B=x=y", "B=z"], ["A=1", "B=z"]),
    (["A=1"], ["A="], ["A="]),
])
def test_environments_are_merged_by_name(below: list[str], above: list[str], merged: list[str]) -> None:
    assert merged_environment(below, above) == merged
