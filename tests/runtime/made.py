"""Containers as records, for tests that need no image, no state file and no kernel."""

from __future__ import annotations

from typing import Any

from lamina.oci.digest import Digest
from lamina.runtime.container import Container
from lamina.runtime.options import ContainerOptions


def container(options: ContainerOptions | None = None, **changes: Any) -> Container:
    fields: dict[str, Any] = {
        "id": "c0ffee" + "0" * 58, "name": "web", "image": Digest.of(b"index"), "image_name": "app:1",
        "config": Digest.of(b"config"), "platform": "linux/amd64", "driver": "vfs",
        "snapshot": "container-c0ffee", "parent": "sha256:parent", "created": 1_720_000_000.5,
        "execution": {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=1"]}, "options": options or ContainerOptions(),
    }
    return Container(**{**fields, **changes})
