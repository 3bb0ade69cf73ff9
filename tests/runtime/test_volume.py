"""What -v, --mount and --tmpfs mean, and what is refused with which sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.runtime.mountflag import parse_mount, settle_mount
from lamina.runtime.volume import (
    ContainerMount,
    DuplicateMount,
    MountKind,
    all_mounts,
    borrowed_mounts,
    image_mounts,
    in_mounting_order,
    oci_mount,
    parse_borrowed,
    parse_tmpfs,
    parse_volume,
    settle_volume,
)

BIND, VOLUME, TMPFS = MountKind.BIND, MountKind.VOLUME, MountKind.TMPFS


@pytest.mark.parametrize(("text", "expected"), [
    ("/data", {"kind": VOLUME, "source": "", "target": "/data", "copies_up": True}),
    ("/data/../x//y/", {"target": "/x/y"}),
    ("//data", {"target": "/data"}),
    ("/host:/data", {"kind": BIND, "source": "/host", "creates_source": True, "copies_up": False}),
    ("/:/host:ro", {"kind": BIND, "source": "/", "target": "/host", "is_read_only": True}),
    ("./here:/data", {"kind": BIND, "source": "/work/here"}),
    ("../up:/data", {"kind": BIND, "source": "/up"}),
    (".:/data", {"kind": BIND, "source": "/work"}),
    ("name:/data", {"kind": VOLUME, "source": "name", "creates_source": False, "is_read_only": False}),
    ("na.me_1-2:/data:ro,nocopy", {"source": "na.me_1-2", "is_read_only": True, "copies_up": False}),
    ("/host:/data:rw,rslave,z", {"is_read_only": False, "propagation": "rslave"}),
    ("/host:/data:U,Z", {"chowns": True, "propagation": "rprivate"}),
    ("/host:/data:cached", {"is_read_only": False}),
])
def test_a_volume_flag_reads_as_docker_does(text: str, expected: dict[str, Any]) -> None:
    found = parse_volume(text, "/work")
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "expected [SOURCE:]TARGET"),
    (":/data", "expected [SOURCE:]TARGET"),
    ("/a:/b:ro:x", "expected [SOURCE:]TARGET"),
    ("data", "'data' is no absolute path"),
    ("name:data", "'data' is no absolute path"),
    ("/host:/", "nothing can be mounted over the container's whole filesystem"),
    ("/host:/x/..", "nothing can be mounted over"),
    ("/data:ro", "options need a source"),
    ("/host:/data:or", "unknown option 'or'"),
    ("/host:/data:rpivate", "did you mean rprivate?"),
    ("/host:/data:ro,rw", "'ro' and 'rw' cannot both be given"),
    ("/host:/data:ro,", "unknown option ''"),
    ("a/b:/data", "give a host directory as an absolute path, or as ./PATH"),
    ("x:/data", "no name for a volume"),
    ("-x:/data", "no name for a volume"),
    (f"{'n' * 300}:/data", "at most 255 characters"),
    ("name:/data:rshared", "rshared is for host directories"),
    ("/a\0b:/data", "cannot hold a NUL"),
])
def test_a_volume_flag_that_is_wrong_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_volume(text, "/work")
    assert complaint in str(caught.value)


def test_a_relative_source_needs_to_be_settled_first() -> None:
    with pytest.raises(InvalidInput, match="needs an absolute path"):
        parse_volume("./x:/data")
    assert settle_volume("./x:/data:ro", "/work") == "/work/x:/data:ro"
    assert settle_volume("/data", "/work") == "/data"
    assert settle_volume("name:/data", "/work") == "name:/data"
    settled = settle_mount('type=bind,"src=./a,b",dst=/data', "/work")
    assert parse_mount(settled).source == "/work/a,b"


@pytest.mark.parametrize(("text", "expected"), [
    ("target=/data", {"kind": VOLUME, "source": ""}),
    ("type=volume,source=name,target=/data,readonly", {"source": "name", "is_read_only": True}),
    ("type=BIND,src=/host,dst=/data,ro=true,bind-propagation=shared", {
        "kind": BIND, "is_read_only": True, "propagation": "shared", "creates_source": False}),
    ("type=bind,src=/host,destination=/data,bind-recursive=disabled", {"is_recursive": False}),
    ("type=bind,src=./x,dst=/data,readonly=false", {"source": "/work/x", "is_read_only": False}),
    ('type=bind,"src=/a,b",dst=/data', {"source": "/a,b"}),
    ("type=volume,src=name,dst=/data,volume-nocopy,volume-subpath=./a//b", {"copies_up": False, "subpath": "a/b"}),
    ("type=volume,src=name,dst=/data,volume-opt=type=tmpfs,volume-opt=o=size=1m,volume-label=a=b", {
        "volume_options": (("type", "tmpfs"), ("o", "size=1m")), "volume_labels": (("a", "b"),)}),
    ("type=tmpfs,dst=/tmp,tmpfs-size=64m,tmpfs-mode=1770", {"kind": TMPFS, "options": ("size=67108864", "mode=1770")}),
])
def test_a_mount_flag_reads_as_docker_does(text: str, expected: dict[str, Any]) -> None:
    found = parse_mount(text, "/work")
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "expected KEY=VALUE"),
    ("type=bind,src=/host", "needs target=PATH"),
    ("type=bind,dst=/data", "needs source=PATH"),
    ("type=bind,src=host,dst=/data", "needs an absolute path"),
    ("type=bnd,src=/h,dst=/d", "did you mean bind?"),
    ("type=image,src=x,dst=/d", "not supported"),
    ("type=bind,sorce=/h,dst=/d", "did you mean source?"),
    ("type=bind,src=/h,target", "expected target=VALUE"),
    ("type=bind,src=/h,dst=/d,ro=maybe", "expected true or false"),
    ("type=bind,src=/h,dst=/d,volume-nocopy", "volume-nocopy is for type=volume"),
    ("type=volume,src=name,dst=/d,tmpfs-size=1m", "tmpfs-size is for type=tmpfs"),
    ("type=tmpfs,src=x,dst=/d", "a tmpfs has no source"),
    ("type=tmpfs,dst=/d,tmpfs-mode=9", "octal"),
    ("type=tmpfs,dst=/d,tmpfs-size=big", "size such as 64m"),
    ("type=volume,dst=/d,readonly", "would stay empty"),
    ("type=volume,src=name,dst=/d,volume-subpath=../x", "without .."),
    ("type=volume,src=name,dst=/d,volume-driver=nfs", "only 'local'"),
    ('type=bind,"src=/a', "not comma-separated"),
    ("type=bind,src=/h,dst=/d,bind-propagation=rsave", "did you mean rslave?"),
])
def test_a_mount_flag_that_is_wrong_is_explained(text: str, complaint: str) -> None:
    with pytest.raises((InvalidInput, Unsupported)) as caught:
        parse_mount(text, "/work")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tmpfs_is_noexec_nosuid_and_nodev_unless_the_opposite_is_said() -> None:
    def options(text: str) -> list[str]:
        found: list[str] = oci_mount(parse_tmpfs(text))["options"]
        return found

    assert options("/run") == ["noexec", "nosuid", "nodev", "rprivate"]
    assert options("/run:rw,exec,size=64m,mode=1777") == [
        "nosuid", "nodev", "rw", "exec", "size=64m", "mode=1777", "rprivate"]
    assert options("/run:ro,suid,dev") == ["noexec", "ro", "suid", "dev", "rprivate"]
    assert options("/run:size=1m,size=2m,rslave") == ["noexec", "nosuid", "nodev", "size=2m", "rslave"]
    with pytest.raises(InvalidInput, match="did you mean size"):
        parse_tmpfs("/run:sise=1m")
    with pytest.raises(InvalidInput, match="no absolute path"):
        parse_tmpfs("run")


def test_binds_are_recursive_and_private_and_read_only_all_the_way_down() -> None:
    made = oci_mount(parse_volume("/host:/data:ro"))
    assert made == {
        "destination": "/data", "type": "bind", "source": "/host", "options": ["rbind", "rprivate", "ro", "rro"]}
    assert oci_mount(parse_volume("name:/data"), "/v/name/_data")["source"] == "/v/name/_data"
    shallow = parse_mount("type=bind,src=/h,dst=/d,bind-nonrecursive,ro")
    assert oci_mount(shallow)["options"] == ["bind", "rprivate", "ro"]
    assert oci_mount(parse_volume("/h:/d:ro"), has_recursive_read_only=False)["options"] == ["rbind", "rprivate", "ro"]


def test_what_is_asked_for_wins_over_other_containers_and_over_the_image() -> None:
    theirs = [parse_volume("theirs:/data"), parse_volume("more:/more"), parse_tmpfs("/tmp")]
    borrowed = borrowed_mounts(theirs, is_read_only=True)
    image = image_mounts(["/data", "/more", "/own/deep", "/own"])
    found = all_mounts([parse_volume("mine:/data")], borrowed=borrowed, image=image)
    assert [(each.target, each.source, each.is_read_only) for each in found] == [
        ("/data", "mine", False), ("/more", "more", True), ("/own", "", False), ("/own/deep", "", False)]
    with pytest.raises(DuplicateMount, match="/data: two mounts at one place"):
        all_mounts([parse_volume("/data"), parse_tmpfs("/data/")])


def test_volumes_from_takes_a_mode() -> None:
    assert parse_borrowed("other") == ("other", None)
    assert parse_borrowed("other:ro") == ("other", True)
    assert parse_borrowed("other:rw,z") == ("other", False)
    for text in ("", ":ro", "other:nocopy", "other:x"):
        with pytest.raises(InvalidInput):
            parse_borrowed(text)
    kept = borrowed_mounts([parse_volume("name:/data:ro")], is_read_only=False)
    assert kept[0].is_read_only, "a container cannot give what it does not have"


def test_an_image_cannot_ask_for_the_whole_filesystem() -> None:
    for path in ("/", "relative", "/a/.."):
        with pytest.raises(LaminaError):
            image_mounts([path])


def test_outer_mounts_come_first() -> None:
    mounts = [parse_volume(f"name:{target}") for target in ("/a/b/c", "/z", "/a", "/a/b")]
    assert [mount.target for mount in in_mounting_order(mounts)] == ["/a", "/z", "/a/b", "/a/b/c"]


@pytest.mark.parametrize("mount", [
    parse_volume("/data"), parse_volume("/host:/data:ro,U"), parse_tmpfs("/run:size=1m"),
    parse_mount("type=volume,src=name,dst=/d,volume-opt=type=tmpfs,volume-label=a=b"),
])
def test_a_mount_goes_through_json_and_back(mount: ContainerMount) -> None:
    assert ContainerMount.from_json(json.loads(json.dumps(mount.to_json()))) == mount
