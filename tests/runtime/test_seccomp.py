"""Docker's default profile, and profiles from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.capabilities import ALL, DEFAULT
from lamina.runtime.seccomp import default_profile, read_profile
from lamina.runtime.syscallnumbers import ARCHITECTURES, numbers


def rules_for(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def is_allowed(profile: dict[str, Any], name: str) -> bool:
    return any(rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for rule in rules_for(profile, name))


def write(directory: Path, document: Any) -> str:
    path = directory / "profile.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_what_is_not_listed_is_refused() -> None:
    profile = default_profile(DEFAULT, "x86_64")
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    for name in ("mount", "bpf", "keyctl", "add_key", "unshare", "setns", "userfaultfd", "io_uring_setup", "reboot",
                 "kexec_load", "init_module", "open_by_handle_at", "perf_event_open", "swapon", "pivot_root"):
        assert not rules_for(profile, name), name
    for name in ("read", "execve", "ptrace", "openat2", "futex_wait", "chroot", "arch_prctl", "mseal"):
        assert is_allowed(profile, name), name


@pytest.mark.parametrize(("capability", "name"), [
    ("CAP_SYS_ADMIN", "mount"), ("CAP_SYS_ADMIN", "clone3"), ("CAP_SYS_BOOT", "reboot"), ("CAP_BPF", "bpf"),
    ("CAP_SYS_CHROOT", "chroot"), ("CAP_SYS_TIME", "settimeofday"), ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_SYS_MODULE", "init_module"), ("CAP_SYS_PTRACE", "kcmp"), ("CAP_SYSLOG", "syslog"),
])  # fmt: skip
def test_a_capability_opens_its_calls(capability: str, name: str) -> None:
    assert is_allowed(default_profile([capability], "amd64"), name)
    assert not is_allowed(default_profile([], "amd64"), name)


def test_clone_may_not_make_namespaces_and_clone3_is_not_there() -> None:
    profile = default_profile(DEFAULT, "amd64")
    (clone,), (clone3,) = rules_for(profile, "clone"), rules_for(profile, "clone3")
    assert clone["args"] == [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7E020000}]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert rules_for(default_profile(DEFAULT, "s390x"), "clone")[0]["args"][0]["index"] == 1
    assert len(rules_for(default_profile(ALL, "amd64"), "clone")) == 1


def test_architectures_bring_their_smaller_ones() -> None:
    assert default_profile([], "x86_64")["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert default_profile([], "aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert default_profile([], "arm64") == default_profile([], "aarch64")
    assert not is_allowed(default_profile([], "arm64"), "arch_prctl")
    assert is_allowed(default_profile([], "arm64"), "set_tls")


def test_every_listed_name_is_a_system_call_somewhere() -> None:
    known = {name for architecture in ARCHITECTURES for name in numbers(architecture)}
    # Names that only architectures without a table here have.
    known |= {"swapcontext", "sync_file_range2"}
    listed = {name for rule in default_profile(ALL, "amd64")["syscalls"] for name in rule["names"]}
    assert listed - known == {"recv", "send"} - known


def test_names_are_sorted() -> None:
    names = default_profile(DEFAULT, "amd64")["syscalls"][0]["names"]
    assert names == sorted(set(names))


def test_conditions_of_a_file_are_decided(tmp_path: Path) -> None:
    def rule(name: str, **conditions: Any) -> dict[str, Any]:
        return {"names": [name], "action": "SCMP_ACT_ALLOW", **conditions}

    path = write(tmp_path, {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None},
        ],
        "syscalls": [
            rule("always", includes={}, excludes={}, args=None, comment="why"),
            rule("both", includes={"caps": ["CAP_KILL", "CAP_CHOWN"]}),
            rule("one", includes={"caps": ["CAP_KILL", "CAP_SYS_ADMIN"]}),
            rule("not-me", excludes={"caps": ["CAP_KILL"]}),
            rule("here", includes={"arches": ["amd64", "x32"]}),
            rule("elsewhere", includes={"arches": ["arm64"]}),
            rule("not-here", excludes={"arches": ["amd64"]}),
            rule("old-enough", includes={"minKernel": "4.8"}),
            rule("too-new", includes={"minKernel": "6.10"}),
            rule("only-older", excludes={"minKernel": "4.8"}),
            {"name": "legacy", "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        ],
    })
    profile = read_profile(path, ["CAP_KILL", "CAP_CHOWN"], "x86_64", kernel=(6, 9))
    assert [rule["names"] for rule in profile["syscalls"]] == [
        ["always"], ["both"], ["here"], ["old-enough"], ["legacy"],
    ]
    assert profile["syscalls"][0] == {"names": ["always"], "action": "SCMP_ACT_ALLOW"}
    assert profile["syscalls"][-1]["errnoRet"] == 7
    assert profile["architectures"] == ["SCMP_ARCH_X86_64"]


def test_an_empty_file_means_no_filter(tmp_path: Path) -> None:
    assert read_profile(write(tmp_path, {}), [], "amd64") == {"defaultAction": "SCMP_ACT_ALLOW"}


def test_arguments_keep_64_bits(tmp_path: Path) -> None:
    argument = {"index": 2, "value": 2**64 - 1, "valueTwo": 2**63, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [argument]}
    path = write(tmp_path, {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    assert read_profile(path, [], "amd64")["syscalls"] == [rule]


def test_the_packaged_profile_of_other_engines_is_read() -> None:
    profile = read_profile("/usr/share/containers/seccomp.json", DEFAULT, "x86_64")
    assert profile["defaultErrnoRet"] == 38
    assert is_allowed(profile, "read")


@pytest.mark.parametrize(("document", "message"), [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ([], "expected a JSON object"),
    ({"defaultAction": "SCMP_ACT_BANANA"}, "defaultAction: expected one of"),
    ({"syscalls": [{}]}, "defaultAction"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls: expected a list"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_LOG"}]}, "names no system call"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [1], "action": "SCMP_ACT_LOG"}]}, "expected texts"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"]}]}, "a: action"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "name": "b", "action": "SCMP_ACT_LOG"}]},
     "name and names"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "0 to 4095"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": True}, "expected a number"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
      "archMap": [{"architecture": "SCMP_ARCH_X86"}]}, "use one of them"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}, "index"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "EQ"}]}]}, "op: expected one of"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}]}, "minKernel"),
])  # fmt: skip
def test_bad_files_say_what_is_wrong(tmp_path: Path, document: Any, message: str) -> None:
    path = write(tmp_path, document)
    with pytest.raises(InvalidInput, match=message) as caught:
        read_profile(path, [], "amd64")
    assert str(caught.value).startswith(f"seccomp={path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"seccomp=.*/none: cannot be read: No such file"):
        read_profile(str(tmp_path / "none"), [], "amd64")
