"""Squashing tars in memory, for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing

from tests.layer.indexed import index_of_tar

from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.squash import merge, write_merged
from lamina.oci.digest import Digest


def squash(tars: Sequence[bytes], first: int, last: int) -> bytes:
    merged = merge([index_of_tar(tar) for tar in tars], first, last)
    out = io.BytesIO()
    write_merged(merged, lambda number: closing(io.BytesIO(tars[number])), out)
    made = out.getvalue()
    assert len(made) == merged.tar_size
    return made


def squashed_index(tars: Sequence[bytes], first: int, last: int) -> tuple[bytes, LayerIndex]:
    """The merged tar, and the index that was made while it was written."""
    merged = merge([index_of_tar(tar) for tar in tars], first, last)
    out, index = io.BytesIO(), io.BytesIO()
    builder = IndexBuilder(index)
    write_merged(merged, lambda number: closing(io.BytesIO(tars[number])), out, builder)
    builder.finish(Digest.of(out.getvalue()), len(out.getvalue()))
    return out.getvalue(), LayerIndex.from_bytes(index.getvalue())


def squashed_stack(tars: Sequence[bytes], first: int, last: int) -> list[bytes]:
    """The stack with layers ``first`` to ``last`` as one."""
    return [*tars[:first], squash(tars, first, last), *tars[last + 1 :]]
