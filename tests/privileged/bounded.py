"""What a guest does with size limits: each function tells what it saw, for the tests on the outside to judge.

Run as ``python -m tests.privileged.bounded FUNCTION KIND``; /tmp/KIND is a filesystem with project quotas.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.privileged.places import Place, busybox_layer, make_layout

from lamina.content.local import LocalStore
from lamina.layer.entry import Entry
from lamina.snapshot import projectquota, stacked, syscalls
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.probing import choose
from lamina.testing.images import LINUX_AMD64, directory, file

FILL = "dd if=/dev/zero of=/f bs=64k count=400 2>/dev/null; stat -c %s /f"


def loaded(home: Path, name: str, *layers: list[Entry], **environment: str) -> Place:
    place = Place(home / name, None, "overlay2", "embedded", environment)
    place.say("load", "-q", "-i", make_layout(home / f"{name}-layout", [busybox_layer(), *layers]))
    return place


def usage_of(home: Path, project: int) -> tuple[int, ...]:
    with projectquota._opened(home) as descriptor:
        return projectquota._usage(descriptor, project)


def projects(root: Path) -> list[int]:
    """Of the snapshots of overlay2, in the order of their names; both of its directories have the same one."""
    uppers = sorted(root.glob("snapshots/overlay2/*/upper"))
    found = [projectquota.own_project(upper) for upper in uppers]
    assert found == [projectquota.own_project(upper.parent / "work") for upper in uppers]
    return found


def limits(root: Path) -> list[int]:
    """In KiB."""
    return [usage_of(root, project)[0] if project else 0 for project in projects(root)]


# -- what the tests ask for


def a_life(home: Path) -> dict[str, Any]:
    place = loaded(home, "life")
    script = f"{FILL}; rm /f; echo again >/f && cat /f; mkdir /d; df -k / | tail -1"
    place.say("create", "--name", "one", "--storage-opt", "size=8m", "--network", "none", "base:1", "sh", "-c", script)
    told = {
        "asked": place.say("inspect", "--format", "{{json .HostConfig.StorageOpt}}", "one").strip(),
        "limits": limits(place.root), "said": place.lines("start", "-a", "one"),
        "changes": place.lines("diff", "one"),
    }
    (project,) = projects(place.root)
    place.say("commit", "one", "result:1")
    told["result"] = place.say("run", "--rm", "--network", "none", "result:1", "cat", "/f")
    place.say("rm", "one")
    return {**told, "project": project, "left": usage_of(home, project)[0]}


def a_default(home: Path) -> dict[str, Any]:
    place = loaded(home, "default", LAMINA_STORAGE_OPTS="overlay2.size=6m")
    words = ("--network", "none", "base:1", "sh", "-c", FILL)
    told: dict[str, Any] = {
        "usual": int(place.say("run", "--name", "usual", *words)),
        "more": int(place.say("run", "--name", "more", "--storage-opt", "size=12M", *words)),
    }
    told["limits"] = sorted(limits(place.root))
    less = place.run("create", "--storage-opt", "size=1k", "base:1")
    return {**told, "less": [less.returncode, less.stderr], "after": [len(place.ids()), sorted(limits(place.root))]}


def deaths(home: Path) -> dict[str, Any]:
    """Of processes, after each act of making and removing a snapshot that is bounded."""
    root = home / "deaths"
    store = LocalStore.create(root, platform=LINUX_AMD64)
    layers = LayerStore(root)

    def driver() -> Any:
        return choose(root, store.state, layers, wanted="overlay2", options={"overlay2.size": "1m"})

    driver().close()
    codes, places, doomed = [], (projectquota, stacked), []
    for module, name in ((0, "_give"), (0, "_bound"), (0, "_set"), (1, "limit"), (1, "release")):
        child = os.fork()
        if child == 0:
            whole = getattr(places[module], name)

            def dies(*arguments: Any, whole: Any = whole) -> None:
                whole(*arguments)
                os._exit(7)

            setattr(places[module], name, dies)
            one = driver()
            one.prepare(name)
            one.remove(name)
            os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        doomed += [projectquota.own_project(upper) for upper in root.glob("snapshots/overlay2/*/upper")]
    one = driver()
    one.prepare("kept")
    one.sweep()
    return {
        "codes": codes, "doomed": [usage_of(home, project)[0] for project in set(doomed)],
        "left": len(list(root.glob("snapshots/overlay2/*"))), "limits": limits(root),
    }


def four_at_once(home: Path) -> dict[str, Any]:
    place = loaded(home, "many")
    making = [place.start("create", "--storage-opt", f"size={number}m", "base:1", "true") for number in range(1, 5)]
    said = [each.communicate()[1] for each in making]
    told = {"said": said, "projects": projects(place.root), "limits": sorted(limits(place.root))}
    place.clear()
    return told


def an_older_kernel(home: Path) -> dict[str, Any]:
    """Without quotactl_fd(2)."""
    whole = syscalls._call
    names = set()

    def older(name: str, *arguments: Any, about: str = "") -> int:
        if name == "syscall" and arguments[0] == syscalls._QUOTACTL_FD:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        names.add(name)
        return whole(name, *arguments, about=about)

    syscalls._call = older
    parts = [home / "older" / name for name in ("upper", "work")]
    for part in parts:
        part.mkdir(parents=True)
    projectquota.limit(home, parts, 1 << 20)
    return {
        "reasons": [projectquota.reason_against(path) for path in (home, Path("/run"))],
        "limit": usage_of(home, projectquota.own_project(parts[0]))[0], "names": sorted(names),
    }


def other_defaults(home: Path) -> dict[str, Any]:
    """A kernel that would rename directories by a note, and copy the attributes of a file without its content."""
    for name in ("metacopy", "redirect_dir", "index"):
        Path("/sys/module/overlay/parameters", name).write_text("Y")
    place = loaded(home, "defaults", [file("big", b"0123456789" * 500_000), directory("d"), file("d/x", b"x")])
    script = "chmod 600 /big; mv /d /e; echo y >/e/y"
    place.say("run", "--name", "one", "--network", "none", "base:1", "sh", "-c", script)
    (upper,) = place.root.glob("snapshots/overlay2/*/upper")
    marks = [name for path in (upper / "big", upper / "e") for name in os.listxattr(path)]
    told = {"marks": [name for name in marks if "metacopy" in name or "redirect" in name]}
    place.say("commit", "one", "result:1")
    look = "busybox md5sum </big; cat /e/x /e/y; stat -c %a /big; ls -d /d 2>&1"
    told["shown"] = place.run("run", "--rm", "--network", "none", "result:1", "sh", "-c", look).stdout.splitlines()
    return told


def a_plain_mount(home: Path) -> dict[str, Any]:
    plain = Path("/tmp/plain")
    plain.mkdir()
    subprocess.run(
        "truncate -s 60M /tmp/disk; mkfs.ext4 -q /tmp/disk; mount -o loop /tmp/disk /tmp/plain", shell=True, check=True
    )
    return {"reason": projectquota.reason_against(plain)}


if __name__ == "__main__":
    print("FACTS", json.dumps(globals()[sys.argv[1]](Path("/tmp", sys.argv[2]))))
