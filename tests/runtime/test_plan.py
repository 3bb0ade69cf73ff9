"""What a monitor is told goes through JSON and back unchanged."""

from __future__ import annotations

import json
from pathlib import Path

from tests.runtime.made import container

from lamina.runtime.options import ContainerOptions
from lamina.runtime.plan import Plan
from lamina.snapshot.namespace import Identity, IdRange, Ownership
from lamina.snapshot.snapshotter import Mount

LAYER = Mount(type="erofs", source="/layers/a", target="", options=("ro",))
FULL = Plan(
    root="/state", container=container(ContainerOptions(command=("a",), memory=1 << 26), volumes=("v",)),
    identity=Identity(
        ownership=Ownership.MAPPED, uid_map=(IdRange(0, 1000, 1), IdRange(1, 100000, 65536)),
        gid_map=(IdRange(0, 1000, 1),), is_entered=False, may_mount=True, is_initial=False,
    ),
    mounts=(Mount(type="overlay", source="overlay", target="", options=("userxattr",), layers=(LAYER, LAYER)),),
    runtime="runc", shared={"pid": "", "ipc": "/proc/7/ns/ipc"}, network={"name": "web"}, volumes=[{"mount": {"kind": "tmpfs"}}],
    seccomp={"defaultAction": "SCMP_ACT_ERRNO"}, cgroup="lamina/x", init="/init", console=(24, 80),
)
BARE = Plan(root="/state", container=container(), identity=Identity(ownership=Ownership.KEPT), mounts=(), volumes=[])


def test_a_plan_survives_json() -> None:
    for plan in (FULL, BARE):
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_knows_the_directory() -> None:
    assert FULL.directory.path == Path("/state/containers") / FULL.container.id
