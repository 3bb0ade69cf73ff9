"""What ``--mount`` says, as the same value that ``-v`` makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lamina.errors import Unsupported, nearest
from lamina.runtime.volume import (
    DEFAULT_PROPAGATION,
    PROPAGATIONS,
    ContainerMount,
    InvalidMount,
    MountKind,
    check_name,
    cleaned,
    host_source,
    mount_target,
)
from lamina.values import dataclass

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_SWITCH = {"1": True, "true": True, "t": True, "": True, "0": False, "false": False, "f": False}


@dataclass(slots=True)
class _Asked:
    """A --mount while its fields are read."""

    text: str
    directory: str
    kind: MountKind = MountKind.VOLUME
    source: str = ""
    target: str = ""
    is_read_only: bool = False
    is_recursive: bool = True
    propagation: str = ""
    subpath: str = ""
    copies_up: bool = True
    creates_source: bool = False
    size: str = ""
    mode: str = ""
    volume_options: tuple[tuple[str, str], ...] = ()
    volume_labels: tuple[tuple[str, str], ...] = ()


def parse_mount(text: str, directory: str = "") -> ContainerMount:
    """``type=bind,source=/host,target=/inside,readonly``: comma-separated, quoted as CSV is."""
    asked, given = _Asked(text, directory), set()
    for field in _csv(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        act = _FIELDS.get(key)
        if act is None:
            raise InvalidMount(f"{text!r}: unknown key {key!r}{nearest(key, _FIELDS)}")
        if not equals and key not in _BARE:
            raise InvalidMount(f"{text!r}: expected {key}=VALUE")
        act(asked, value)
        given.add(key)
    _check_asked(asked, given)
    is_bind, is_tmpfs = asked.kind is MountKind.BIND, asked.kind is MountKind.TMPFS
    return ContainerMount(
        kind=asked.kind, source=asked.source, target=mount_target(asked.target, text),
        is_read_only=asked.is_read_only, is_recursive=asked.is_recursive,
        propagation=asked.propagation or DEFAULT_PROPAGATION, subpath=asked.subpath,
        copies_up=not is_bind and not is_tmpfs and asked.copies_up,
        creates_source=asked.creates_source,
        options=tuple(option for option in (asked.size, asked.mode) if option),
        volume_options=asked.volume_options, volume_labels=asked.volume_labels,
    )


def settle_mount(text: str, directory: str) -> str:
    """As :func:`settle_volume`, for ``--mount``."""
    fields = []
    for field in _csv(text):
        key, equals, value = field.partition("=")
        if equals and key.strip().lower() in ("source", "src") and value.startswith("."):
            field = f"{key}={host_source(value, directory, text)}"  # noqa: PLW2901 - the same field, settled
        fields.append('"' + field.replace('"', '""') + '"' if set(field) & {'"', ","} else field)
    return ",".join(fields)


def _check_asked(asked: _Asked, given: set[str]) -> None:
    """What docker refuses before it looks at the host."""
    text = asked.text
    for key in given:
        kind = key.partition("-")[0]
        if "-" in key and kind != asked.kind:
            raise InvalidMount(f"{text!r}: {key} is for type={kind}, and this is a {asked.kind}")
    if not asked.target:
        raise InvalidMount(f"{text!r}: needs target=PATH")
    if asked.kind is MountKind.BIND:
        if not asked.source:
            raise InvalidMount(f"{text!r}: a bind mount needs source=PATH")
        if not asked.source.startswith("/"):
            raise InvalidMount(f"{text!r}: source={asked.source}: a bind mount needs an absolute path")
        asked.source = cleaned(asked.source)
    elif asked.kind is MountKind.TMPFS:
        if asked.source:
            raise InvalidMount(f"{text!r}: a tmpfs has no source")
    elif asked.source:
        check_name(asked.source)
    elif asked.is_read_only:
        raise InvalidMount(f"{text!r}: a new volume that cannot be written to would stay empty")


def _csv(text: str) -> list[str]:
    import csv  # noqa: PLC0415 - containers with a --mount only

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidMount(f"{text!r}: not comma-separated values ({error})") from None
    if not rows or not rows[0]:
        raise InvalidMount("--mount: expected KEY=VALUE,..., got nothing")
    return rows[0]


def _kind(asked: _Asked, value: str) -> None:
    name = value.lower()
    if name in ("npipe", "cluster", "image", "devpts", "glob"):
        raise Unsupported(f"{asked.text!r}: type={name} is not supported (one of bind, volume, tmpfs)")
    if name not in set(MountKind):
        raise InvalidMount(f"{asked.text!r}: unknown type {value!r}{nearest(name, [*MountKind])} "
                           "(one of bind, volume, tmpfs)")
    asked.kind = MountKind(name)


def _read_only(asked: _Asked, value: str) -> None:
    asked.is_read_only = _switch(asked, value)


def _set_source(asked: _Asked, value: str) -> None:
    asked.source = host_source(value, asked.directory, asked.text)


def _set_target(asked: _Asked, value: str) -> None:
    asked.target = value


def _set_propagation(asked: _Asked, value: str) -> None:
    if value not in PROPAGATIONS:
        raise InvalidMount(f"{asked.text!r}: unknown propagation {value!r}{nearest(value, PROPAGATIONS)}")
    asked.propagation = value


def _recursive(asked: _Asked, value: str) -> None:
    words = {"enabled": True, "writable": True, "readonly": True, "disabled": False}
    if value not in words:
        raise InvalidMount(f"{asked.text!r}: bind-recursive is one of {', '.join(words)}, not {value!r}")
    asked.is_recursive = words[value]


def _not_recursive(asked: _Asked, value: str) -> None:
    asked.is_recursive = not _switch(asked, value)


def _creates(asked: _Asked, value: str) -> None:
    asked.creates_source = _switch(asked, value)


def _no_copy(asked: _Asked, value: str) -> None:
    asked.copies_up = not _switch(asked, value)


def _set_subpath(asked: _Asked, value: str) -> None:
    parts = value.split("/")
    if not value or value.startswith("/") or ".." in parts:
        raise InvalidMount(f"{asked.text!r}: volume-subpath is a path inside the volume, without ..")
    asked.subpath = "/".join(part for part in parts if part not in ("", "."))


def _option(asked: _Asked, value: str) -> None:
    asked.volume_options = (*asked.volume_options, _pair(value))


def _label(asked: _Asked, value: str) -> None:
    asked.volume_labels = (*asked.volume_labels, _pair(value))


def _driver(asked: _Asked, value: str) -> None:
    if value not in ("", "local"):
        raise Unsupported(f"{asked.text!r}: volume driver {value!r}: there is only 'local'")


def _tmpfs_size(asked: _Asked, value: str) -> None:
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise InvalidMount(f"{asked.text!r}: tmpfs-size is a size such as 64m, not {value!r}")
    size = int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))
    asked.size = f"size={size}"


def _tmpfs_mode(asked: _Asked, value: str) -> None:
    if re.fullmatch("[0-7]{1,5}", value) is None or int(value, 8) > 0o7777:
        raise InvalidMount(f"{asked.text!r}: tmpfs-mode is an octal mode such as 1770, not {value!r}")
    asked.mode = f"mode={int(value, 8):o}"


def _nothing(_asked: _Asked, _value: str) -> None:
    """Docker Desktop's hint about caching, which Linux never had a use for."""


_FIELDS: Mapping[str, Callable[[_Asked, str], None]] = {
    "type": _kind, "source": _set_source, "src": _set_source, "target": _set_target, "dst": _set_target,
    "destination": _set_target, "readonly": _read_only, "ro": _read_only, "consistency": _nothing,
    "bind-propagation": _set_propagation, "bind-recursive": _recursive, "bind-nonrecursive": _not_recursive,
    "bind-create-src": _creates, "volume-nocopy": _no_copy, "volume-subpath": _set_subpath,
    "volume-opt": _option, "volume-label": _label, "volume-driver": _driver, "tmpfs-size": _tmpfs_size,
    "tmpfs-mode": _tmpfs_mode,
}
_BARE = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")


def _switch(asked: _Asked, value: str) -> bool:
    if value.lower() not in _SWITCH:
        raise InvalidMount(f"{asked.text!r}: expected true or false, got {value!r}")
    return _SWITCH[value.lower()]


def _pair(text: str) -> tuple[str, str]:
    key, _equals, value = text.partition("=")
    return key, value
