"""Diff, commit and export of containers, by every driver and for every kind of user."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY, OrdinaryUser
from tests.privileged.containers import Still, still

from lamina.engine import committing
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.errors import InvalidInput
from lamina.layer.entry import InvalidLayer
from lamina.oci.digest import Digest
from lamina.snapshot import mounting
from lamina.snapshot.mountinfo import mounts
from lamina.testing.images import device, directory, file, hardlink, make_image, symlink
from lamina.testing.model import differences, read_tree

pytestmark = pytest.mark.privileged

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
BASE = [
    directory("bin"), file("bin/x", b"old" * 100, mode=0o755), file("bin/y", b"y"),
    directory("etc", mode=0o751, uid=4), file("etc/passwd", b"root\n", uid=4, gid=5), directory("etc/d"), file("etc/d/1"), file("etc/d/2"),
    directory("lib"), file("lib/a", b"a"), hardlink("lib/b", "lib/a"), symlink("lib64", "lib"), device("null", 1, 3),
]
NAME = "docker.io/library/app:1"


@pytest.fixture(params=["overlay2", "erofs", "vfs"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    flags = {"data-root": str(tmp_path / "root"), "storage-driver": request.param}
    with Engine.open(settings=Settings.load({}, flags=flags)) as opened:
        make_image(
            [BASE, [file("top", b"t")]],
            execution={"Cmd": ["/bin/x", "-v"], "Env": ["A=1"], "Entrypoint": ["/e"], "OnBuild": ["RUN x"], "Shell": ["/s"]},
        ).put(opened.store, NAME)
        yield opened
        for record in opened.mounts():
            opened.unmount(str(record.path))


@pytest.fixture
def container(engine: Engine) -> Still:
    return still(engine, "app:1")


def act(root: Path) -> None:
    (root / "etc/new").write_bytes(b"new")
    os.chown(root / "etc/new", 1000, 1001)
    os.utime(root / "etc/new", ns=(1, 1_700_000_000_123_456_789))
    os.setxattr(root / "etc/new", "security.capability", CAPABILITY)
    os.setxattr(root / "etc/new", "user.note", b"\0\xff")
    (root / "bin/x").unlink()
    os.close(os.open(root / "bin/y", os.O_WRONLY))
    shutil.rmtree(root / "etc/d")
    (root / "etc/d").mkdir()
    (root / "etc/d/2").write_bytes(b"2")
    (root / "lib/a").chmod(0o600)
    os.link(root / "top", root / "etc/top")
    os.mkfifo(root / "etc/fifo")
    os.mknod(root / "etc/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.symlink("../nowhere", root / "etc/link")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "etc/sock"))


def changes(made: Still) -> list[str]:
    return [f"{each.kind} {each.path}" for each in committing.changes(made.engine, made.container, made.directory)]


def commit(made: Still, name: str | None = "new:1", **more: Any) -> dict[str, Any]:
    """The image's own documents."""
    digest = committing.commit(made.engine, made.container, made.directory, name, **more)
    record = made.engine.store.catalog.with_id_prefix(digest.encoded)[0]
    image = committing.load_record(made.engine, record)
    return {"id": digest, "config": dict(image.config.document), "manifest": json.loads(image.manifest.raw)}


def test_diff_speaks_as_docker_does(container: Still) -> None:
    with container.mounted() as root:
        act(root)
    assert changes(container) == [
        "C /bin", "D /bin/x",
        "C /etc", "C /etc/d", "D /etc/d/1", "C /etc/d/2", "A /etc/fifo", "A /etc/link", "A /etc/new", "A /etc/top", "A /etc/zero",
        "C /lib", *(["C /lib/a", "C /lib/b"] if container.container.driver == "vfs" else ["C /lib/a"]),
        "C /top",
    ]


def test_a_committed_image_shows_what_the_container_saw(engine: Engine, container: Still) -> None:
    with container.mounted() as root:
        act(root)
        expected = {path: each for path, each in read_tree(root).items() if each.kind != "s"}
        # While it runs, from its own mount.
        commit(container)
    mounted = engine.mount("new:1")
    assert differences(expected, read_tree(mounted)) == []
    engine.unmount("new:1")
    assert list(engine.check()) == []


def test_an_image_may_be_committed_on_and_on(engine: Engine, container: Still) -> None:
    with container.mounted() as root:
        act(root)
    commit(container, "new:1")
    again = still(engine, "new:1")
    with again.mounted() as root:
        (root / "etc/new").unlink()
        (root / "bin/x").write_bytes(b"back")
        expected = read_tree(root)
    commit(again, "new:2")
    assert differences(expected, read_tree(engine.mount("new:2"))) == []


def test_export_is_what_the_container_sees(engine: Engine, container: Still, tmp_path: Path) -> None:
    with container.mounted() as root:
        act(root)
        (root / "large").write_bytes(os.urandom(3 << 20))
        expected = {path: each for path, each in read_tree(root).items() if each.kind != "s"}
    out = io.BytesIO()
    committing.export(engine, container.container, out)
    out.seek(0)
    engine.import_image(out, "exported:1")
    expected[""].mtime = -1  # no layer says when the root was changed
    found = read_tree(engine.mount("exported:1"))
    assert differences(expected, found) == []


def test_a_layer_is_where_it_belongs_and_nothing_was_read_again(engine: Engine, container: Still) -> None:
    with container.mounted() as root:
        act(root)
    made = commit(container)
    layer = made["manifest"]["layers"][-1]
    assert layer["digest"] == made["config"]["rootfs"]["diff_ids"][-1]
    assert len(made["manifest"]["layers"]) == 3
    assert made["manifest"]["layers"][:2] == [each.descriptor.to_json() for each in engine.image("app:1").layers]
    with tarfile.open(engine.store.blob_path(Digest(layer["digest"]))) as tar:
        names = tar.getnames()
        assert tar.getmember("etc/new").pax_headers["SCHILY.xattr.user.note"]
        assert tar.getmember("etc").mode == 0o751
    assert names.index("etc") < names.index("etc/new")
    assert "bin/.wh.x" in names
    assert "bin/y" not in names, "only opened"
    assert not [name for name in names if ".wh..wh." in name or "sock" in name]
    row = engine.history("new:1")[0]
    assert row.created_by == "/bin/x -v"
    assert row.size > 0


def test_what_did_not_change_makes_no_layer(engine: Engine, container: Still) -> None:
    with container.mounted() as root:
        os.close(os.open(root / "etc/passwd", os.O_RDWR))
        (root / "bin/x").read_bytes()
    assert changes(container) == []
    made = commit(container, None, message="m", author="a", created="2001-02-03T04:05:06Z")
    assert len(made["config"]["rootfs"]["diff_ids"]) == 2
    assert made["config"]["history"][-1] == {
        "created": "2001-02-03T04:05:06Z", "created_by": "/bin/x -v", "author": "a", "comment": "m", "empty_layer": True,
    }
    assert made["config"]["author"] == "a"
    assert made["config"]["created"] == "2001-02-03T04:05:06Z"


def test_a_container_s_settings_become_the_image_s(engine: Engine) -> None:
    made = commit(
        still(engine, "app:1", Cmd=["a", "b"], Env=["B=2"], Entrypoint=None, Labels={"l": "1"}),
        changes=["ENV C=3", "WORKDIR /w"],
    )
    assert made["config"]["config"] == {
        "Shell": ["/s"], "Cmd": ["a", "b"], "Env": ["B=2", "C=3"], "Labels": {"l": "1"}, "WorkingDir": "/w",
    }
    assert made["config"]["history"][-1]["created_by"] == "a b"


def test_what_cannot_be_committed_leaves_nothing(engine: Engine, container: Still) -> None:
    before = set((engine.root / "blobs").rglob("*"))
    with container.mounted() as root:
        (root / "etc/.wh.passwd").write_bytes(b"")
    with pytest.raises(InvalidLayer, match=r"etc/\.wh\.passwd"):
        commit(container)
    with pytest.raises(InvalidInput, match="NOTHING"):
        commit(container, changes=["NOTHING x"])
    assert set((engine.root / "blobs").rglob("*")) == before
    assert [image.reference for image in engine.images()] == ["app:1"]


def test_a_device_that_looks_like_a_whiteout_is_refused(engine: Engine, container: Still) -> None:
    """overlayfs lets nobody make one; in a plain tree anybody with the right can."""
    with container.mounted() as root:
        if engine.driver.name != "vfs":
            with pytest.raises(PermissionError):
                os.mknod(root / "etc/passwd2", stat.S_IFCHR, 0)
            return
        os.mknod(root / "etc/passwd2", stat.S_IFCHR, 0)
    with pytest.raises(InvalidLayer, match="passwd2"):
        commit(container)


def test_labels_of_this_machine_stay_here(engine: Engine, container: Still) -> None:
    with container.mounted() as root:
        os.setxattr(root / "bin/y", "security.selinux", b"system_u:object_r:container_file_t:s0\0")
        (root / "etc/new").write_bytes(b"")
        os.setxattr(root / "etc/new", "security.selinux", b"system_u:object_r:container_file_t:s0\0")
    assert changes(container) == ["C /etc", "A /etc/new"]
    (layer,) = commit(container)["config"]["rootfs"]["diff_ids"][2:]
    assert not engine.layers_store.index(Digest(layer)).xattrs


def test_places_for_mounts_are_nobody_s_change(container: Still) -> None:
    with container.mounted() as root:
        etc = (root / "etc").stat()
        (root / "etc/hosts").write_bytes(b"")
        (root / "etc/resolv.conf").write_bytes(b"")
        (root / "proc").mkdir(mode=0o555)
        (root / "run/secrets").mkdir(parents=True)
        (root / "run2/here").mkdir(parents=True)
        (root / "run2/here/file").write_bytes(b"mine")
        os.utime(root / "etc", ns=(etc.st_atime_ns, etc.st_mtime_ns))
        os.utime(root, ns=(0, 0))
    (container.directory.path / "stubs.json").write_text(json.dumps({
        "etc/hosts": "file", "etc/resolv.conf": "file", "proc": "directory", "run": "directory",
        "run/secrets": "directory", "run2": "directory", "run2/here": "directory",
    }))
    assert changes(container) == ["A /run2", "A /run2/here", "A /run2/here/file"]
    with container.mounted() as root:
        (root / "etc/resolv.conf").write_bytes(b"now a file of its own")
    assert "A /etc/resolv.conf" in changes(container)
    assert "A /etc/hosts" not in changes(container)


def test_without_mounts_that_are_attached_nowhere(
    container: Still, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.13."""
    with container.mounted() as root:
        act(root)
    usual = changes(container)
    monkeypatch.setattr(mounting, "open_mount", lambda _mount, _stack: -1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert changes(container) == usual
    assert not [line for line in mounts() if line.target.startswith(f"{tmp_path}/lamina-below-")]


def test_by_docker_s_words(engine: Engine) -> None:
    make_image([BASE], is_docker=True).put(engine.store, "docker.io/library/app:docker")
    container = still(engine, "app:docker")
    with container.mounted() as root:
        (root / "etc/new").write_bytes(b"n")
    kinds = [each["mediaType"] for each in commit(container)["manifest"]["layers"]]
    assert kinds == ["application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar"]
    kinds = [each["mediaType"] for each in commit(container, form="oci")["manifest"]["layers"]]
    assert kinds == ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar"]


# -- ordinary users

PROGRAM = textwrap.dedent("""
    import json, os, sys, io
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from dataclasses import asdict
    from lamina.engine import committing
    from lamina.engine.engine import Engine
    from lamina.engine.settings import Settings
    from lamina.runtime.container import Container, ContainerDirectory
    from lamina.snapshot.mounting import mounted
    from lamina.snapshot.namespace import current_identity, enter_user_namespace
    from lamina.testing.images import directory, file, make_image
    from lamina.testing.model import read_tree
    home, step = Path(sys.argv[2]), sys.argv[3]
    if step in ("write", "look"):
        from lamina.snapshot.probing import settled_identity
        enter_user_namespace(settled_identity())
    engine = Engine.open(settings=Settings.load({}, flags={"data-root": str(home / "root"), "storage-driver": sys.argv[4]}))
    place = home / "place"
    def kept():
        text = (home / "container.json").read_text()
        return Container.from_json(json.loads(text)), ContainerDirectory(engine.root, json.loads(text)["id"])
    if step == "make":
        from containers import still
        base = [directory("etc", uid=4, gid=5), file("etc/passwd", b"p", uid=4, gid=5), file("gone"), directory("d"), file("d/1")]
        made = make_image([base], execution={"Cmd": ["x"]})
        made.put(engine.store, "docker.io/library/app:1")
        (home / "container.json").write_text(json.dumps(still(engine, "app:1").container.to_json()))
        place.mkdir()
    elif step == "write":
        container, directory = kept()
        with mounted(engine.driver_named(container.driver).mounts(container.snapshot), place) as root:
            (root / "etc/new").write_bytes(b"n" * 3_000_000)
            os.utime(root / "etc/new", ns=(1, 123_456_789))
            (root / "gone").unlink()
            (root / "d/1").unlink(); (root / "d").rmdir(); (root / "d").mkdir()
            os.close(os.open(root / "etc/passwd", os.O_RDWR))
            if engine.driver.identity.ownership == "mapped":
                os.chown(root / "etc/new", 1000, 1001)
                os.setxattr(root / "etc/new", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    elif step == "commit":
        container, directory = kept()
        listed = [f"{each.kind} {each.path}" for each in committing.changes(engine, container, directory)]
        committing.commit(engine, container, directory, "new:1")
        with open(home / "export.tar", "wb") as out:
            committing.export(engine, container, out)
        entries = engine.layers_store.index(engine.image("new:1").config.diff_ids[-1]).entries()
        print(json.dumps({
            "changes": listed, "entered": engine.driver.identity.is_entered,
            "entries": {each.path: [each.uid, each.gid, each.mtime, each.size, sorted(each.xattrs)] for each in entries},
            "findings": [finding.problem for finding in engine.check()],
        }))
    elif step == "look":
        path = engine.mount("new:1")
        print(json.dumps({name: [each.kind, each.uid, each.gid] for name, each in read_tree(path).items() if name}))
        engine.unmount("new:1")
    engine.close()
""")


@pytest.mark.parametrize(("who", "driver"), [
    ("ordinary_user", "overlay2"), ("ordinary_user", "vfs"), ("user_without_ranges", "overlay2"), ("user_without_ranges", "vfs"),
])
def test_ordinary_users_commit_too(request: pytest.FixtureRequest, who: str, driver: str) -> None:
    user: OrdinaryUser = request.getfixturevalue(who)
    home = Path(tempfile.mkdtemp(prefix="lamina-commit-"))
    tools = home / "tools"
    tools.mkdir()
    shutil.copy(REPOSITORY / "tests/privileged/containers.py", tools)
    os.chown(home, user.uid, user.gid)

    def run(step: str) -> Any:
        done = subprocess.run(
            user.python("-c", PROGRAM, tools, home, step, driver), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else None

    try:
        run("make")
        run("write")
        found = run("commit")
        assert not found["entered"]
        assert found["findings"] == []
        assert found["changes"] == ["C /d", "D /d/1", "C /etc", "A /etc/new", "D /gone"]
        assert found["entries"].keys() - {""} == {"d", "d/.wh.1", "etc", "etc/new", ".wh.gone"}
        assert found["entries"]["etc/new"][2:4] == [123_456_789, 3_000_000]
        is_mapped = who == "ordinary_user"
        if is_mapped:
            assert found["entries"]["etc/new"] == [1000, 1001, 123_456_789, 3_000_000, ["security.capability"]]
        # The image's own owners, whatever is possible on this disk.
        assert found["entries"]["etc"][:2] == [4, 5]
        seen = run("look")
        assert seen.keys() == {"etc", "etc/new", "etc/passwd", "d"}
        with tarfile.open(home / "export.tar") as tar:
            assert tar.getmember("etc/passwd").uid == 4
            assert sorted(tar.getnames())[-4:] == ["d", "etc", "etc/new", "etc/passwd"]
    finally:
        shutil.rmtree(home)
