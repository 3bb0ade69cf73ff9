"""Docker's default seccomp profile, and profiles of people's own: as the runtime specification wants them.

The default profile's facts (which calls need which capability) are docker's of 2026. It allows what is listed
and answers EPERM to the rest. Profiles in docker's format have conditions (``includes``, ``excludes``); they
are decided here, and what comes out is the ``linux.seccomp`` object for runc, crun, or
:mod:`lamina.runtime.bpf`.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput
from lamina.runtime.bpf import ACTIONS, COMPARISONS, MAX_ERRNO
from lamina.values import dataclass

_ALLOW = "SCMP_ACT_ALLOW"
_MAX_PROFILE = 4 * 1024 * 1024  # docker's own is 17 kB

# Allowed to everybody. ptrace and process_vm_* are safe from Linux 4.8 on, which is older than what we need.
_ALWAYS = """
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32
getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set
ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link
linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall
munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe
pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget
semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt
shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat
stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork
vmsplice wait4 waitid waitpid write writev
"""

# Allowed to who has the capability.
_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
        quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

_BY_ARCHITECTURE = {
    "amd64": "arch_prctl modify_ldt",
    "arm": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "arm64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "ppc64le": "swapcontext sync_file_range2",
    "riscv64": "riscv_flush_icache",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    "x86": "modify_ldt",
}

# Socket families are listed, not excluded: socket(2) drops the upper half of its 64-bit argument, so that a
# rule such as "not 38" is passed by 38 + 2**32. Missing are the families that the kernel has no more,
# AF_ALG (38; CVE-2026-31431) and AF_VSOCK (40: not confined to a network namespace).
_FIRST_FAMILIES = 12  # 0 to 11
_FAMILIES = (
    *range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46),
)
# personality(2): Linux, 32-bit, their variants without randomised addresses (0x20000), and "only tell me".
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
_NAMESPACE_FLAGS = 0x7E020000

# With the architectures whose programs the machine runs too.
_ARCHITECTURES = {
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "arm": ("SCMP_ARCH_ARM",),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "loong64": ("SCMP_ARCH_LOONGARCH64",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "x86": ("SCMP_ARCH_X86",),
}
# What uname(2) says, and image platforms that docker's profiles spell otherwise.
_SPELLINGS = {
    "386": "x86", "aarch64": "arm64", "armv7l": "arm", "armv8l": "arm", "i386": "x86", "i686": "x86",
    "loongarch64": "loong64", "x86_64": "amd64",
}


def default_profile(capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """``capabilities`` is the container's bounding set; ``architecture`` such as ``amd64`` or ``x86_64``."""
    machine = _SPELLINGS.get(architecture, architecture)
    names = set(_ALWAYS.split()) | set(_BY_ARCHITECTURE.get(machine, "").split())
    for capability in capabilities:
        names |= set(_BY_CAPABILITY.get(capability, "").split())
    rules = [_rule(sorted(names))]
    rules.append(_rule(["socket"], _argument(0, "SCMP_CMP_LT", _FIRST_FAMILIES)))
    rules += [_rule(["socket"], _argument(0, "SCMP_CMP_EQ", family)) for family in _FAMILIES]
    rules += [_rule(["personality"], _argument(0, "SCMP_CMP_EQ", value)) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        place = 1 if machine == "s390x" else 0  # its clone(2) has the flags second
        rules.append(_rule(["clone"], _argument(place, "SCMP_CMP_MASKED_EQ", _NAMESPACE_FLAGS)))
        # Its flags are in memory, out of a filter's sight. C libraries take ENOSYS for "use clone".
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.EPERM}
    if machine in _ARCHITECTURES:
        profile["architectures"] = list(_ARCHITECTURES[machine])
    return {**profile, "syscalls": rules}


def open_profile(architecture: str) -> dict[str, Any]:
    """Allows everything, to every kind of program that the machine runs."""
    machine = _SPELLINGS.get(architecture, architecture)
    return {"defaultAction": _ALLOW, "architectures": list(_ARCHITECTURES.get(machine, ()))}


def read_profile(
    path: str, capabilities: Collection[str], architecture: str, *, kernel: tuple[int, int] | None = None
) -> dict[str, Any]:
    """A file in docker's format, for ``--security-opt seccomp=FILE``.

    Fields that nobody knows are ignored, as docker ignores them; names of system calls too. ``kernel`` is
    what ``minKernel`` is compared with: this machine's when it is ``None``.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_PROFILE + 1)
    except OSError as error:
        raise InvalidInput(f"seccomp={path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_PROFILE:
        raise InvalidInput(f"seccomp={path}: over {_MAX_PROFILE} bytes is no seccomp profile")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"seccomp={path}: not JSON ({error})") from None
    machine = _SPELLINGS.get(architecture, architecture)
    facts = _Machine(capabilities, machine, kernel or _kernel())
    try:
        return _decided(_mapping(document, "the profile"), facts)
    except InvalidProfile as error:
        raise InvalidProfile(f"seccomp={path}: {error}") from None


class InvalidProfile(InvalidInput):
    pass


@dataclass(frozen=True, slots=True)
class _Machine:
    """What conditions ask about."""

    capabilities: Collection[str]
    architecture: str
    kernel: tuple[int, int]


def _decided(document: Mapping[str, Any], machine: _Machine) -> dict[str, Any]:
    if not document.get("defaultAction") and not document.get("syscalls"):
        return {"defaultAction": _ALLOW}  # `{}` is docker's way to say: no filter
    action = _one_of(document.get("defaultAction"), ACTIONS, "defaultAction")
    profile: dict[str, Any] = {"defaultAction": action}
    if document.get("defaultErrnoRet") is not None:
        profile["defaultErrnoRet"] = _number(document["defaultErrnoRet"], "defaultErrnoRet", MAX_ERRNO)
    architectures = _architectures(document, machine)
    if architectures:
        profile["architectures"] = architectures
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if document.get(key):
            profile[key] = document[key]
    rules = [_mapping(item, "a rule in syscalls") for item in _list(document.get("syscalls"), "syscalls")]
    return {**profile, "syscalls": [_plain(rule) for rule in rules if _applies(rule, machine)]}


def _architectures(document: Mapping[str, Any], machine: _Machine) -> list[str]:
    listed = _texts(document.get("architectures"), "architectures")
    families = _list(document.get("archMap"), "archMap")
    if listed and families:
        raise InvalidProfile("architectures and archMap say the same twice; use one of them")
    own = _ARCHITECTURES.get(machine.architecture, ("",))[0]
    for item in families:
        family = _mapping(item, "an entry of archMap")
        if family.get("architecture") == own:
            return [own, *_texts(family.get("subArchitectures"), "subArchitectures")]
    return listed


def _applies(rule: Mapping[str, Any], machine: _Machine) -> bool:
    """``includes`` must all be so: every capability, the architecture. Nothing of ``excludes`` may be so."""
    wanted = _mapping(rule.get("includes") or {}, "includes")
    unwanted = _mapping(rule.get("excludes") or {}, "excludes")
    architectures = _texts(wanted.get("arches"), "arches")
    if architectures and machine.architecture not in architectures:
        return False
    if any(name not in machine.capabilities for name in _texts(wanted.get("caps"), "caps")):
        return False
    if wanted.get("minKernel") and machine.kernel < _version(wanted["minKernel"]):
        return False
    if machine.architecture in _texts(unwanted.get("arches"), "arches"):
        return False
    if any(name in machine.capabilities for name in _texts(unwanted.get("caps"), "caps")):
        return False
    return not (unwanted.get("minKernel") and machine.kernel >= _version(unwanted["minKernel"]))


def _plain(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as the runtime specification has it."""
    names = _texts(rule.get("names"), "names")
    if rule.get("name"):  # of docker before 1.13
        if names:
            raise InvalidProfile("a rule has name and names; use names")
        names = _texts([rule["name"]], "name")
    if not names:
        raise InvalidProfile("a rule names no system call")
    action = _one_of(rule.get("action"), ACTIONS, f"{names[0]}: action")
    plain: dict[str, Any] = {"names": names, "action": action}
    if rule.get("errnoRet") is not None:
        plain["errnoRet"] = _number(rule["errnoRet"], f"{names[0]}: errnoRet", MAX_ERRNO)
    arguments = [_read_argument(item, names[0]) for item in _list(rule.get("args"), f"{names[0]}: args")]
    return {**plain, "args": arguments} if arguments else plain


def _read_argument(item: Any, name: str) -> dict[str, Any]:
    given = _mapping(item, f"{name}: an argument")
    argument = _argument(
        _number(given.get("index", 0), f"{name}: index", 5),
        _one_of(given.get("op"), COMPARISONS, f"{name}: op"),
        _number(given.get("value", 0), f"{name}: value", 2**64 - 1),
    )
    second = _number(given.get("valueTwo") or 0, f"{name}: valueTwo", 2**64 - 1)
    return {**argument, "valueTwo": second} if second else argument


def _rule(names: Sequence[str], argument: Mapping[str, Any] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": _ALLOW}
    return rule if argument is None else {**rule, "args": [dict(argument)]}


def _argument(index: int, comparison: str, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": comparison}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidProfile(f"{where}: expected a JSON object, got {_shown(value)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidProfile(f"{where}: expected a list, got {_shown(value)}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    for item in _list(value, where):
        if not isinstance(item, str):
            raise InvalidProfile(f"{where}: expected texts, got {_shown(item)}")
    return value or []


def _number(value: Any, where: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidProfile(f"{where}: expected a number from 0 to {most}, got {_shown(value)}")
    return value


def _one_of(value: Any, allowed: Collection[str], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidProfile(f"{where}: expected one of {', '.join(allowed)}, got {_shown(value)}")
    return value


def _version(value: Any) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", value) if isinstance(value, str) else None
    if match is None:
        raise InvalidProfile(f"minKernel: expected MAJOR.MINOR, got {_shown(value)}")
    return int(match[1]), int(match[2])


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
