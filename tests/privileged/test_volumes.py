"""Volumes on disk, their first use, and where mounts go inside a hostile image."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser

from lamina.errors import Denied, InvalidInput, NotFound, Unsupported
from lamina.runtime import volumes
from lamina.runtime.binding import bind_inside, bind_subpath, open_source
from lamina.runtime.targets import StubKind, make_stub, resolve_target
from lamina.runtime.volume import parse_volume
from lamina.runtime.volumes import VolumeStore, give_to, prepare_volume, volume_mount
from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import mounts

pytestmark = pytest.mark.privileged


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "state")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "image"
    (image / "data/sub").mkdir(parents=True)
    (image / "data/file").write_text("image")
    (image / "data/sub/deep").write_text("deep")
    (image / "data/link").symlink_to("/etc/passwd")
    os.link(image / "data/file", image / "data/again")
    os.chown(image / "data", 33, 34)
    (image / "data").chmod(0o1770)
    os.chown(image / "data/file", 35, 36)
    os.setxattr(image / "data/file", "user.note", b"x")
    return image


@pytest.fixture
def rootfs(image: Path) -> Iterator[int]:
    descriptor = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


# -- the store


def test_volumes_are_closed_to_others_but_open_to_their_containers(store: VolumeStore) -> None:
    """CVE-2021-41091: set-uid programs in a world-readable store."""
    os.umask(0o077)
    store.create("data", now=1.0)
    os.umask(0o022)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (store.directory, store.data("data"))}
    assert modes == {store.directory: 0o700, store.data("data"): 0o755}


def test_a_volume_is_found_again_with_what_was_said_of_it(store: VolumeStore) -> None:
    made = store.create("data", now=1.5, labels={"a": "b"}, options={"type": "tmpfs", "o": "size=1m"})
    assert store.get("data") == made
    assert store.create("data", now=9.0, labels={"other": ""}) == made, "what is there stays as it is"
    anonymous = store.create_anonymous(now=2.0)
    assert anonymous.is_anonymous
    assert len(anonymous.name) == 64
    assert [each.name for each in store.walk()] == sorted(["data", anonymous.name])
    store.remove("data")
    with pytest.raises(NotFound, match="data: no such volume"):
        store.get("data")
    with pytest.raises(NotFound):
        store.remove("data")
    for name in ("../x", "a/b", ".hidden", "", "x"):
        with pytest.raises(InvalidInput):
            store.create(name, now=0)
        with pytest.raises(InvalidInput):
            store.data(name)


def test_two_processes_that_make_one_volume_get_the_same(store: VolumeStore) -> None:
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from lamina.runtime.volumes import VolumeStore
        store = VolumeStore(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(60):
            made = store.create(f"volume-{number}", now=float(sys.argv[2]))
            (store.data(made.name) / sys.argv[2]).touch()
            print(made.created)
    """)
    started = [
        subprocess.Popen([sys.executable, "-c", code, store.directory.parent, str(number)],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    answers = [each.communicate()[0].split() for each in started]
    assert [each.returncode for each in started] == [0, 0, 0]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 60
    assert all(sorted(os.listdir(store.data(f"volume-{number}"))) == ["0", "1", "2"] for number in range(60))
    assert [name for name in os.listdir(store.directory) if name.startswith(".")] == []


def test_what_interrupted_processes_left_is_swept(store: VolumeStore) -> None:
    store.create("data", now=1.0)
    for name in (".removing-1", ".new-old", ".new-young"):
        (store.directory / name / "_data").mkdir(parents=True)
    os.utime(store.directory / ".new-old", (1, 1))
    store.sweep()
    assert sorted(os.listdir(store.directory)) == [".new-young", "data"]


def test_only_what_can_be_mounted_is_accepted_as_an_option(store: VolumeStore, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="only type=tmpfs"):
        store.create("nfs", now=0, options={"type": "nfs", "o": "addr=host", "device": ":/x"})
    with pytest.raises(InvalidInput, match="unknown"):
        store.create("typo", now=0, options={"tipe": "tmpfs"})
    with pytest.raises(InvalidInput, match="absolute path"):
        store.create("bind", now=0, options={"type": "none", "o": "bind", "device": "x"})
    with pytest.raises(InvalidInput, match="unknown tmpfs option"):
        store.create("tmpfs", now=0, options={"type": "tmpfs", "o": "sise=1m"})
    asked = parse_volume("scratch:/s")
    scratch = store.create("scratch", now=0, options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"})
    assert volume_mount(asked, scratch, store.data("scratch"))["type"] == "tmpfs"
    assert {"size=1m", "uid=5"} <= set(volume_mount(asked, scratch, store.data("scratch"))["options"])
    www = store.create("www", now=0, options={"type": "none", "o": "bind,ro", "device": str(tmp_path)})
    made = volume_mount(parse_volume("www:/w"), www, store.data("www"))
    assert (made["source"], "ro" in made["options"]) == (str(tmp_path), True)
    gone = store.create("gone", now=0, options={"o": "bind", "device": str(tmp_path / "gone")})
    with pytest.raises(NotFound, match="no such directory"):
        volume_mount(parse_volume("gone:/w"), gone, store.data("gone"))


# -- the first use


def filled(data: Path) -> bool:
    """Whether it has all that the image has at /data."""
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*"))
    return names == ["again", "file", "link", "sub", "sub/deep"]


def test_an_empty_volume_gets_what_the_image_has_there(store: VolumeStore, rootfs: int) -> None:
    store.create("data", now=0)
    data = store.data("data")
    assert prepare_volume(data.parent, rootfs, "/data")
    assert filled(data)
    top, found = data.stat(), (data / "file").stat()
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (33, 34, 0o1770)
    assert (found.st_uid, found.st_gid, found.st_nlink) == (35, 36, 2)
    assert os.getxattr(data / "file", "user.note") == b"x"
    assert os.readlink(data / "link") == "/etc/passwd"
    assert sorted(os.listdir(data.parent)) == ["_data", "volume.json"]
    (data / "file").write_text("changed")
    assert not prepare_volume(data.parent, rootfs, "/data")
    assert (data / "file").read_text() == "changed"


def test_a_volume_with_something_in_it_is_left_alone(store: VolumeStore, rootfs: int) -> None:
    store.create("data", now=0)
    (store.data("data") / "mine").touch()
    assert not prepare_volume(store.data("data").parent, rootfs, "/data")
    assert os.listdir(store.data("data")) == ["mine"]
    store.create("other", now=0)
    assert not prepare_volume(store.data("other").parent, rootfs, "/not/there")
    assert not prepare_volume(store.data("other").parent, rootfs, "/data/file")


def test_an_image_cannot_fill_a_volume_with_files_of_the_host(
    store: VolumeStore, rootfs: int, image: Path, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").touch()
    (image / "evil").symlink_to(host)
    (image / "up").symlink_to("../" * 30 + str(host))
    (image / "inside").symlink_to("/data/sub")
    for number, target in enumerate(("/evil", "/up", "/evil/../" + str(host))):
        name = f"volume-{number}"
        store.create(name, now=0)
        prepare_volume(store.data(name).parent, rootfs, target)
        assert os.listdir(store.data(name)) == []
    store.create("inside", now=0)
    assert prepare_volume(store.data("inside").parent, rootfs, "/inside")
    assert os.listdir(store.data("inside")) == ["deep"]


@pytest.mark.parametrize("moment", ["mkdir", "rename", "utime", "rmdir", "link", "chmod"])
def test_who_is_killed_while_filling_a_volume_is_followed_up(moment: str, store: VolumeStore, image: Path) -> None:
    """Killed at each call of a kind, one after another, until the volume is full."""
    store.create("data", now=0)
    data = store.data("data")
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from lamina.runtime.volumes import prepare_volume
        count, original = int(sys.argv[3]), getattr(os, sys.argv[4])
        def act(*arguments, **more):
            global count
            count -= 1
            if count < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)
        setattr(os, sys.argv[4], act)
        prepare_volume(Path(sys.argv[1]), os.open(sys.argv[2], os.O_RDONLY), "/data")
    """)
    killed = 0
    for count in range(40):
        arguments = [data.parent, image, str(count), moment]
        done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed, "the calls are made"
    assert filled(data)
    assert (data.stat().st_uid, stat.S_IMODE(data.stat().st_mode)) == (33, 0o1770)
    assert not (data.parent / volumes._STAGED).exists()


def test_what_another_container_wrote_meanwhile_stays(store: VolumeStore, rootfs: int) -> None:
    store.create("data", now=0)
    data = store.data("data")
    assert volumes._stage(data.parent, rootfs, "/data")
    (data / "file").write_text("another's")
    assert prepare_volume(data.parent, rootfs, "/data")
    assert (data / "file").read_text() == "another's"
    assert filled(data)


def test_files_of_a_volume_can_be_given_to_the_containers_user(tmp_path: Path) -> None:
    (tmp_path / "v/sub").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.touch()
    (tmp_path / "v/sub/link").symlink_to(outside)
    give_to(tmp_path / "v", 7, 8)
    assert {os.lstat(path).st_uid for path in (tmp_path / "v", *(tmp_path / "v").rglob("*"))} == {7}
    assert outside.stat().st_uid == 0


# -- where mounts go


def test_what_is_missing_is_made_and_the_rest_looks_untouched(image: Path, rootfs: int) -> None:
    before = {path: path.stat().st_mtime_ns for path in (image, image / "data")}
    os.umask(0o077)
    assert make_stub(rootfs, "/data/a//./b", StubKind.DIRECTORY) == ["/data/a", "/data/a/b"]
    assert make_stub(rootfs, "/x/file", StubKind.FILE) == ["/x", "/x/file"]
    os.umask(0o022)
    assert make_stub(rootfs, "/data/a/b", StubKind.DIRECTORY) == []
    assert make_stub(rootfs, "/data/file", StubKind.FILE) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert stat.S_IMODE((image / "data/a").stat().st_mode) == 0o755
    assert stat.S_IMODE((image / "x/file").stat().st_mode) == 0o644
    with pytest.raises(InvalidInput, match="/data/file is no directory"):
        make_stub(rootfs, "/data/file", StubKind.DIRECTORY)
    with pytest.raises(InvalidInput, match="a directory in the image"):
        make_stub(rootfs, "/data", StubKind.FILE)


def test_symlinks_on_the_way_lead_into_the_image_even_where_they_dangle(
    image: Path, rootfs: int, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (image / "etc").mkdir()
    (image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (image / "to-host").symlink_to(host)
    (image / "up").symlink_to("../" * 30 + "tmp/x")
    (image / "loop").symlink_to("loop")
    made = make_stub(rootfs, "/etc/resolv.conf", StubKind.FILE)
    assert made[-1] == "/run/systemd/resolve/stub-resolv.conf"
    assert (image / "run/systemd/resolve/stub-resolv.conf").is_file()
    assert (image / "etc/resolv.conf").is_symlink()
    assert make_stub(rootfs, "/to-host/planted", StubKind.DIRECTORY)[-1] == f"{host}/planted"
    assert make_stub(rootfs, "/up/planted", StubKind.FILE)[-1] == "/tmp/x/planted"
    assert list(host.iterdir()) == []
    assert not Path("/tmp/x/planted").exists()
    with pytest.raises(InvalidInput, match="too many symlinks"):
        make_stub(rootfs, "/loop/x", StubKind.DIRECTORY)
    descriptor = resolve_target(rootfs, "/to-host/planted")
    assert os.path.samestat(os.fstat(descriptor), (image / str(host).lstrip("/") / "planted").stat())
    os.close(descriptor)


def test_mounts_are_made_by_descriptor_and_inside(image: Path, rootfs: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "in").touch()
    (image / "link").symlink_to("/data/sub")
    descriptor = os.open(source, os.O_PATH)
    try:
        assert bind_inside(rootfs, "/link", descriptor, is_read_only=True) == []
        (line,) = (line for line in mounts() if line.target.startswith(str(image)))
        assert (line.target, "ro" in line.options) == (str(image / "data/sub"), True)
        assert os.listdir(image / "data/sub") == ["in"]
    finally:
        os.close(descriptor)
        syscalls.umount(str(image / "data/sub"), syscalls.MNT_DETACH)


def test_a_subpath_of_a_volume_leads_through_no_symlink(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/x").touch()
    (data / "evil").symlink_to("/etc")
    (data / "near").symlink_to("sub")
    for subpath in ("evil", "evil/ssl", "near", "sub/../../data"):
        with pytest.raises((Denied, OSError)):
            os.close(open_source(str(data), subpath))
    with pytest.raises(NotFound, match="no such file or directory in the volume"):
        open_source(str(data), "gone")
    place = tmp_path / "place"
    bind_subpath(data, "sub", place)
    try:
        assert os.listdir(place) == ["x"]
    finally:
        syscalls.umount(str(place))


# -- ordinary users

USER = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from lamina.runtime.volumes import VolumeStore, prepare_volume
    home = Path(sys.argv[1])
    store = VolumeStore(home / "state")
    store.create("data", now=0)
    store.create("other", now=0)
    child = os.fork()
    if child == 0:
        from lamina.snapshot.namespace import current_identity, enter_user_namespace
        enter_user_namespace(current_identity())
        image = home / "image"
        (image / "data").mkdir(parents=True)
        (image / "data/f").write_text("x")
        (image / "data/closed").mkdir()
        (image / "data/closed/in").touch()
        if sys.argv[2] == "mapped":
            os.chown(image / "data/f", 7, 8)
            os.chown(image / "data/closed", 7, 8)
        (image / "data/closed").chmod(0o700)
        prepare_volume(store.data("data").parent, os.open(image, os.O_RDONLY), "/data")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    owner = os.stat(store.data("data") / "f").st_uid
    store.remove("data")
    print(json.dumps([owner, os.getuid(), sorted(os.listdir(store.directory))]))
""")


@pytest.mark.parametrize("name", ["ordinary_user", "user_without_ranges"])
def test_an_ordinary_user_fills_and_removes_volumes(name: str, request: pytest.FixtureRequest) -> None:
    user: OrdinaryUser = request.getfixturevalue(name)
    home = Path(tempfile.mkdtemp(prefix="lamina-volumes-"))
    os.chown(home, user.uid, user.gid)
    kind = "mapped" if name == "ordinary_user" else "single"
    try:
        done = subprocess.run(user.python("-c", USER, home, kind), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        owner, uid, left = json.loads(done.stdout)
        assert (owner != uid) == (kind == "mapped")
        assert left == ["other"]
    finally:
        shutil.rmtree(home)
