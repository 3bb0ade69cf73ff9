"""Squashing tars in memory, for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing

from tests.layer.indexed import index_of_tar

from lamina.layer.squash import merge, write_merged


def squash(tars: Sequence[bytes], first: int, last: int) -> bytes:
    merged = merge([index_of_tar(tar) for tar in tars], first, last)
    out = io.BytesIO()
    write_merged(merged, lambda number: closing(io.BytesIO(tars[number])), out)
    made = out.getvalue()
    assert len(made) == merged.tar_size
    return made


def squashed_stack(tars: Sequence[bytes], first: int, last: int) -> list[bytes]:
    """The stack with layers ``first`` to ``last`` as one."""
    return [*tars[:first], squash(tars, first, last), *tars[last + 1 :]]
