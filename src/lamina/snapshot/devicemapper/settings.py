"""The options of the driver, as docker has them (``dm.basesize=20G``)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from lamina.errors import InvalidInput
from lamina.snapshot.size import parse_size
from lamina.values import dataclass

OPTIONS = (
    "thinpooldev", "datadev", "metadatadev", "allow_loop", "loopdatasize", "loopmetadatasize", "blocksize",
    "basesize", "fs", "mkfsarg", "mountopt", "min_free_space",
)
FILESYSTEMS = ("ext4", "xfs")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")
# A thin pool's blocks (device-mapper's thin-provisioning document): 64 KiB to 1 GiB, in steps of 64 KiB.
_BLOCK, _MAX_BLOCK = 64 << 10, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes in bytes, ``min_free_space`` in per cent; a pool is given in one way of three, or not at all."""

    pool: str
    data: str
    metadata: str
    has_loop: bool
    loop_data_size: int
    loop_metadata_size: int
    block_size: int
    base_size: int
    filesystem: str
    make_arguments: tuple[str, ...]
    mount_options: tuple[str, ...]
    min_free_space: int


def read_settings(options: Mapping[str, str]) -> Settings:
    """Raises ``InvalidInput``."""
    settings = Settings(
        pool=options.get("thinpooldev", ""), data=options.get("datadev", ""),
        metadata=options.get("metadatadev", ""), has_loop=_truth("allow_loop", options),
        loop_data_size=_size("loopdatasize", options, "100G"),
        loop_metadata_size=_size("loopmetadatasize", options, "2G"),
        block_size=_size("blocksize", options, "64K"), base_size=_size("basesize", options, "10G"),
        filesystem=options.get("fs", "ext4"), make_arguments=_words("mkfsarg", options),
        # Deleted files give their blocks back to the pool; docker leaves that to the user.
        mount_options=tuple(filter(None, options.get("mountopt", "discard").split(","))),
        min_free_space=_percentage("min_free_space", options, "10%"),
    )
    if settings.filesystem not in FILESYSTEMS:
        raise InvalidInput(f"dm.fs={settings.filesystem}: expected one of {', '.join(FILESYSTEMS)}")
    if settings.block_size % _BLOCK or not _BLOCK <= settings.block_size <= _MAX_BLOCK:
        raise InvalidInput("dm.blocksize: expected a multiple of 64K, up to 1G")
    if bool(settings.data) != bool(settings.metadata):
        raise InvalidInput("dm.datadev and dm.metadatadev belong together: one was given without the other")
    if settings.pool and settings.data:
        raise InvalidInput("dm.thinpooldev is a pool, dm.datadev is to become one: give one of them")
    return settings


def _size(name: str, options: Mapping[str, str], default: str) -> int:
    return parse_size(options.get(name, default), f"dm.{name}")


def _words(name: str, options: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(options.get(name, "")))
    except ValueError as error:
        raise InvalidInput(f"dm.{name}: {error}") from None


def _percentage(name: str, options: Mapping[str, str], default: str) -> int:
    text = options.get(name, default)
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdigit() and int(number) < 100):
        raise InvalidInput(f"dm.{name}: expected a percentage below 100 such as 10%, got {text!r}")
    return int(number)


def _truth(name: str, options: Mapping[str, str]) -> bool:
    text = options.get(name, "").lower()
    if text not in (*_TRUE, *_FALSE):
        raise InvalidInput(f"dm.{name}: expected true or false, got {text!r}")
    return text in _TRUE
