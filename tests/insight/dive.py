"""dive's rule for wasted bytes, written from its description for the tests alone.

A path that occurs in two layers or more is inefficient. A whiteout is an occurrence too, with the size of
what it removes. What is counted here is only what lower layers hold: dive adds the last copy as well.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from io import BytesIO

Listed = list[tuple[str, int, bool]]


def wasted(tars: Iterable[bytes]) -> dict[str, int]:
    """Path to bytes of lower layers; paths of whiteouts are those that they remove."""
    seen: dict[str, int] = {}
    visible: dict[str, int] = {}
    waste: dict[str, int] = {}
    for tar in tars:
        for path, size, is_whiteout in _leaves(tar):
            if is_whiteout:
                removed = [each for each in visible if each == path or each.startswith(path + "/")]
                gone = sum(visible.pop(each) for each in removed)
                waste[path] = waste.get(path, 0) + gone
                seen.pop(path, None)
                continue
            if path in seen:
                waste[path] = waste.get(path, 0) + seen[path]
            seen[path] = visible[path] = size
    return {path: size for path, size in waste.items() if size}


def _leaves(tar: bytes) -> Listed:
    """Files and empty directories, whiteouts first."""
    with tarfile.open(fileobj=BytesIO(tar), mode="r:*", encoding="utf-8", errors="surrogateescape") as archive:
        members = {"/".join(part for part in member.name.split("/") if part not in ("", ".")): member for member in archive}
    parents = {path.rpartition("/")[0] for path in members}
    leaves: Listed = []
    for path, member in members.items():
        parent, slash, name = path.rpartition("/")
        if name.startswith(".wh..wh."):
            continue
        if name.startswith(".wh."):
            leaves.append((f"{parent}{slash}{name.removeprefix('.wh.')}", 0, True))
        elif path and path not in parents:
            leaves.append((path, member.size if member.isreg() else 0, False))
    return sorted(leaves, key=lambda leaf: not leaf[2])
