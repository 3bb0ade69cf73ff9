"""The OCI runtime-spec document of a container: what runc, crun and our own runner are told. Pure.

What the machine contributes (the user that was looked up, the namespaces that are joined, the files that
are mounted) comes in as a :class:`Setting`, so that the same container gives the same document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput
from lamina.runtime.capabilities import ALL, chosen
from lamina.runtime.container import Container
from lamina.runtime.environment import merged_environment
from lamina.runtime.options import ContainerOptions
from lamina.runtime.resources import resources, rlimits
from lamina.runtime.security import MASKED_PATHS, READ_ONLY_PATHS, Security
from lamina.runtime.users import User
from lamina.values import dataclass, field

SPEC_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM = 64 << 20
_SHM = "/dev/shm"  # noqa: S108 - a mount of the container's own
INIT_PATH = "/sbin/docker-init"

# namespaces(7) by the names of the runtime-spec, in the order in which docker writes them.
_NAMESPACES = ("mount", "network", "uts", "pid", "ipc", "cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """``shared`` maps the namespaces that are not new to ``""`` (the host's) or to the path of another's.

    ``mounts`` are runtime-spec mounts beside docker's own, in their order. ``is_user_namespace``: the
    container's root is not the machine's. ``has_single_id``: nobody but root exists there. ``owned`` are the
    capabilities that there are to give.
    """

    rootfs: str
    user: User = field(default_factory=User)
    hostname: str = ""
    domainname: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mapping[str, Any]] = ()
    devices: Sequence[Mapping[str, Any]] = ()
    device_rules: Sequence[dict[str, Any]] = ()
    seccomp: Mapping[str, Any] | None = None
    security: Security = field(default_factory=Security)
    cgroup: str = ""
    has_cgroup2: bool = False
    is_user_namespace: bool = False
    has_single_id: bool = False
    owned: Sequence[str] = ALL
    init: str = ""


def make_spec(container: Container, setting: Setting) -> dict[str, Any]:
    options = container.options
    document: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "process": _process(container, setting),
        "root": {"path": setting.rootfs, "readonly": options.is_read_only},
        "mounts": [*_own_mounts(options, setting), *_with_init(setting), *map(dict, setting.mounts)],
        "annotations": {"dev.lamina.container": container.id},
        "linux": _linux(container, setting),
    }
    if "uts" not in setting.shared:
        document["hostname"] = setting.hostname
        if setting.domainname:
            document["domainname"] = setting.domainname
    return document


def exec_process(
    document: Mapping[str, Any], argv: Sequence[str], *, environment: Sequence[str] = (),
    user: User | None = None, directory: str = "", has_terminal: bool = False, is_privileged: bool = False,
    owned: Sequence[str] = ALL,
) -> dict[str, Any]:
    """One more process of a running container, from the document that it was made with."""
    process = dict(document["process"])
    process["args"] = list(argv)
    process["terminal"] = has_terminal
    process["env"] = merged_environment(process["env"], environment)
    if has_terminal:
        process["env"] = merged_environment(["TERM=xterm"], process["env"])
    if directory:
        process["cwd"] = directory
    if user is not None:
        process["user"] = _user(user)
        process["env"] = merged_environment(
            [each for each in process["env"] if not each.startswith("HOME=")], [f"HOME={user.home}"]
        )
    if is_privileged:
        names = list(chosen((), (), privileged=True, owned=owned))
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    elif user is not None:
        bounding = process["capabilities"]["bounding"]
        process["capabilities"] = _capabilities(bounding, is_root=user.uid == 0)
    return process


def _process(container: Container, setting: Setting) -> dict[str, Any]:
    options, security = container.options, setting.security
    argv = list(container.argv)
    if not argv:
        raise InvalidInput(f"{container.name}: the image names no command; give one after the image's name")
    if setting.init:
        argv = [INIT_PATH, "--", *argv]
    bounding = chosen(
        options.cap_add, options.cap_drop, privileged=options.is_privileged, owned=setting.owned
    )
    process: dict[str, Any] = {
        "terminal": options.has_terminal,
        "user": _user(setting.user),
        "args": argv,
        "env": _environment(container, setting),
        "cwd": container.execution.get("WorkingDir") or "/",
        "capabilities": _capabilities(bounding, is_root=setting.user.uid == 0),
        "noNewPrivileges": security.has_no_new_privileges,
    }
    if limits := rlimits(options.ulimits):
        process["rlimits"] = limits
    if options.oom_score_adj is not None:
        process["oomScoreAdj"] = options.oom_score_adj
    return process


def _user(user: User) -> dict[str, Any]:
    found: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if user.groups:
        found["additionalGids"] = list(user.groups)
    return found


def _capabilities(bounding: Sequence[str], *, is_root: bool) -> dict[str, list[str]]:
    """Never inheritable nor ambient (CVE-2022-24769): a file's inheritable set would hand them to anybody."""
    usable = list(bounding) if is_root else []
    return {"bounding": list(bounding), "effective": usable, "permitted": usable}


def _environment(container: Container, setting: Setting) -> list[str]:
    first = [f"PATH={DEFAULT_PATH}"]
    if setting.hostname:
        first.append(f"HOSTNAME={setting.hostname}")
    if container.options.has_terminal:
        first.append("TERM=xterm")
    given = merged_environment(first, container.execution.get("Env") or ())
    if not any(line.startswith("HOME=") for line in given):
        given.append(f"HOME={setting.user.home}")
    return given


# -- mounts


def _own_mounts(options: ContainerOptions, setting: Setting) -> list[dict[str, Any]]:
    targets = {mount["destination"] for mount in setting.mounts}
    found = [
        _proc(setting),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666",
               "mode=0620", *(() if setting.has_single_id else ("gid=5",))),
        _sys(options, setting),
        *_cgroup(options, setting),
    ]
    if "ipc" not in setting.shared or not setting.is_user_namespace:
        found.append(_mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))
    size = options.shm_size or DEFAULT_SHM
    if setting.shared.get("ipc") == "":
        found.append(_mount(_SHM, "bind", _SHM, "rbind", "rprivate"))
    else:
        found.append(_mount(_SHM, "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}"))
    return [mount for mount in found if mount["destination"] not in targets]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _proc(setting: Setting) -> dict[str, Any]:
    if setting.is_user_namespace and "pid" in setting.shared:
        # proc shows a pid namespace, and is for its owner to mount (proc_fs_context_fill_super).
        return _mount("/proc", "bind", "/proc", "rbind", "nosuid", "noexec", "nodev", "rslave")
    return _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev")


def _sys(options: ContainerOptions, setting: Setting) -> dict[str, Any]:
    access = "rw" if options.is_privileged else "ro"
    if setting.is_user_namespace and "network" in setting.shared:
        # sysfs shows the network namespace, and is for its owner to mount (kernfs_super_ns,
        # sysfs_init_fs_context).
        return _mount("/sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", "rslave", access)
    return _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access)


def _cgroup(options: ContainerOptions, setting: Setting) -> list[dict[str, Any]]:
    """Left out in a user namespace without cgroups of version 2: the kernel lets nobody mount them there."""
    if setting.is_user_namespace and not setting.has_cgroup2:
        return []
    access = "rw" if options.is_privileged else "ro"
    return [_mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", access)]


def _with_init(setting: Setting) -> list[dict[str, Any]]:
    if not setting.init:
        return []
    return [_mount(INIT_PATH, "bind", setting.init, "bind", "ro", "rprivate")]


# -- linux


def _linux(container: Container, setting: Setting) -> dict[str, Any]:
    options = container.options
    found: dict[str, Any] = {
        "namespaces": list(_namespaces(setting)),
        "resources": _resources(options, setting),
    }
    if setting.cgroup:
        found["cgroupsPath"] = setting.cgroup
    if setting.devices:
        found["devices"] = list(map(dict, setting.devices))
    if setting.seccomp is not None:
        found["seccomp"] = dict(setting.seccomp)
    settings = dict(_sysctl(text) for text in options.sysctls)
    if setting.domainname and "uts" not in setting.shared and not setting.is_user_namespace:
        # runc knows `domainname` since 1.2; the file is the machine's root's to write.
        settings["kernel.domainname"] = setting.domainname
    if settings:
        found["sysctl"] = settings
    if not setting.security.shows_system_paths:
        found["maskedPaths"] = list(MASKED_PATHS)
        found["readonlyPaths"] = list(READ_ONLY_PATHS)
    return found


def _namespaces(setting: Setting) -> Sequence[dict[str, str]]:
    found = []
    for kind in _NAMESPACES:
        if kind == "cgroup" and not setting.has_cgroup2:
            continue
        path = setting.shared.get(kind)
        if path is None:
            found.append({"type": kind})
        elif path:
            found.append({"type": kind, "path": path})
    return found


def _resources(options: ContainerOptions, setting: Setting) -> dict[str, Any]:
    if not setting.cgroup:
        return {}  # nobody could set them; the user has been told
    found = resources(options, setting.device_rules)
    if setting.is_user_namespace:
        found.pop("devices")  # for the machine's root to say
    return found


def _sysctl(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"--sysctl: expected NAME=VALUE, got {text!r}")
    if not name.startswith(("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")):
        raise InvalidInput(f"--sysctl: {name}: not divided by namespaces, so it would be the whole machine's")
    return name, value
