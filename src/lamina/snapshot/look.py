"""What a directory is besides what is in it: mode, owner, time and attributes, as data and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.layer.entry import Entry, Kind
from lamina.layer.root import DirectoryRoot, Ownership, WhiteoutStyle
from lamina.snapshot.snapshotter import Reception


def look_of(entry: Entry) -> dict[str, Any]:
    """A directory's attributes as data: what a job or a row carries."""
    look: dict[str, Any] = {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "mtime": entry.mtime}
    if entry.xattrs:
        look["xattrs"] = {name: value.hex() for name, value in entry.xattrs.items()}
    return look


def dress(path: Path, look: Mapping[str, Any], *, keeps_owners: bool) -> None:
    """Gives an empty directory the attributes of a look."""
    entry = Entry(
        "", Kind.DIRECTORY, look["mode"], look["uid"], look["gid"], look["mtime"],
        xattrs={name: bytes.fromhex(value) for name, value in look.get("xattrs", {}).items()},
    )
    with DirectoryRoot(path, owner=ownership(keeps_owners)) as root:
        root.describe("", entry)


def ownership(keeps_owners: bool) -> Ownership:
    return Ownership.KEEP if keeps_owners else Ownership.IGNORE


def whiteout_style(reception: Reception) -> WhiteoutStyle:
    return WhiteoutStyle.OVERLAY_TRUSTED if reception.xattrs == "trusted" else WhiteoutStyle.OVERLAY_USER
