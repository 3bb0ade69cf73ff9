"""What --device means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.runtime.device import (
    DeviceRequest,
    device_mount,
    device_rule,
    find_devices,
    oci_device,
    parse_device,
)


@pytest.mark.parametrize(("text", "source", "target", "access"), [
    ("/dev/x", "/dev/x", "/dev/x", "rwm"),
    ("/dev/x:r", "/dev/x", "/dev/x", "r"),
    ("/dev/x:/dev/y", "/dev/x", "/dev/y", "rwm"),
    ("/dev/x:/dev/y:mr", "/dev/x", "/dev/y", "mr"),
    ("/dev/../dev/x:/dev//y/.:rw", "/dev/x", "/dev/y", "rw"),
])
def test_a_device_flag_reads_as_docker_does(text: str, source: str, target: str, access: str) -> None:
    assert parse_device(text) == DeviceRequest(source=source, target=target, access=access)


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "expected HOST"),
    ("dev/x", "'dev/x' is no absolute path"),
    ("/dev/x:y", "'y' is no absolute path"),
    ("/dev/x:rr", "'rr' is no absolute path"),
    ("/dev/x:/dev/y:rwx", "access is some of r, w and m"),
    ("/dev/x:/dev/y:rr", "access is some of r, w and m"),
    ("/dev/x:/dev/y:r:m", "expected HOST"),
    ("/dev/x:/", "whole filesystem"),
])
def test_a_device_flag_that_is_wrong_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_device(text)
    assert complaint in str(caught.value)


def test_names_of_the_container_device_interface_are_refused() -> None:
    with pytest.raises(Unsupported, match="CDI"):
        parse_device("vendor.example/gpu=all")


def test_a_device_becomes_a_node_and_a_rule() -> None:
    ((request, status),) = find_devices(parse_device("/dev/null:/dev/nothing:rw"))
    made = oci_device(request, status)
    assert (made["path"], made["type"], made["major"], made["minor"]) == ("/dev/nothing", "c", 1, 3)
    assert made["fileMode"] == os.stat("/dev/null").st_mode & 0o7777
    assert device_rule(request, status) == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}


def test_a_directory_of_devices_stands_for_all_of_them() -> None:
    found = {request.target for request, _status in find_devices(parse_device("/dev:/devices"))}
    assert {"/devices/null", "/devices/zero"} <= found


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="neither a device nor a directory"):
        list(find_devices(parse_device(str(tmp_path / "file"))))
    with pytest.raises(NotFound, match="no device in this directory"):
        list(find_devices(parse_device(str(tmp_path))))
    with pytest.raises(NotFound, match="no such file"):
        list(find_devices(parse_device("/dev/surely-not")))


def test_in_a_user_namespace_the_host_device_is_bound() -> None:
    made = device_mount(parse_device("/dev/fuse:/dev/f:r"))
    assert made == {"destination": "/dev/f", "type": "bind", "source": "/dev/fuse",
                    "options": ["bind", "rprivate", "nosuid", "noexec", "ro"]}
