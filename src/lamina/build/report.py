"""What a build reports while it works, so that doors can draw it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from lamina.values import dataclass


class Stage(StrEnum):
    """Of a step's life."""

    BEGUN = "begun"
    OUTPUT = "output"
    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """``number`` is the step's, in the order of their beginnings; 0 for what concerns the whole build.

    ``title`` comes with every event. ``reason`` says why a step was not in the cache. ``seconds`` is how long
    it took, or with output how long after its beginning that came.
    """

    number: int
    stage: Stage
    title: str
    text: str = ""
    data: bytes = b""
    is_error: bool = False
    reason: str = ""
    seconds: float = 0.0


StepReport = Callable[[StepEvent], None]


def unheard(_event: StepEvent) -> None:
    """For callers that do not listen."""
