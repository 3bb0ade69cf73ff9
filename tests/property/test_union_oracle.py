"""The union read from indexes is what the oracle says, whatever the layers say."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests import oracle
from tests.layer.indexed import index_of_tar
from tests.property.layers import Act, layers, tar_of

from lamina.layer.entry import InvalidLayer, Kind
from lamina.layer.tree import Tree

Seen = tuple[dict[str, tuple[object, ...]], set[frozenset[str]]]


def wanted(tars: list[bytes]) -> Seen | None:
    try:
        tree = oracle.union(tars)
    except oracle.Refused:
        return None
    seen = {
        path: (node.type, None if node.type == "symlink" else node.mode, node.uid, node.gid, node.mtime or 0,
               node.target, node.device, node.size, node.sha256, node.xattrs)
        for path, node in tree.items()
    }
    return seen, oracle.linked(tree)


def found(tars: list[bytes]) -> Seen | None:
    try:
        tree = Tree(map(index_of_tar, tars))
    except InvalidLayer:
        return None
    seen, groups = {}, defaultdict(set)
    for node in tree.walk():
        entry, start = node.entry, node.content.data_offset
        data = tars[node.content_layer][start : start + entry.size]
        seen[node.path] = (
            entry.kind.name.lower(), None if entry.kind is Kind.SYMLINK else entry.mode, entry.uid, entry.gid,
            entry.mtime, entry.linkname, (entry.major, entry.minor), entry.size,
            hashlib.sha256(data).hexdigest() if entry.kind is Kind.FILE else "", dict(entry.xattrs),
        )
        if entry.kind is not Kind.DIRECTORY:
            groups[node.inode].add(node.path)
    return seen, {frozenset(names) for names in groups.values() if len(names) > 1}


def leads_through_what_it_replaces(stack: list[list[Act]]) -> bool:
    """A mark below a path that is a symlink in a lower layer, and that the mark's own layer lists too.

    The layer says what stands there, so its mark is about that. The oracle asks the lower layers alone.
    """
    symlinks: set[str] = set()
    for layer in stack:
        listed = {act.path for act in layer} & symlinks
        for act in layer:
            if act.kind in ("whiteout", "opaque") and any(act.path.startswith(f"{path}/") for path in listed):
                return True
        symlinks |= {act.path for act in layer if act.kind in ("symlink", "hardlink")}
    return False


@given(st.lists(layers(), min_size=1, max_size=4))
@settings(max_examples=300)
def test_the_union_is_what_the_oracle_says(stack: list[list[Act]]) -> None:
    assume(not leads_through_what_it_replaces(stack))
    tars = [tar_of(layer) for layer in stack]
    assert found(tars) == wanted(tars)
