"""What workers report while they work, so that doors can draw it. Workers never print."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from lamina.values import dataclass


class Action(StrEnum):
    """What is happening to a subject. The values are the words that a pull or push line shows."""

    PULLING = "Pulling from"
    PULLING_LAYER = "Pulling fs layer"
    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    VERIFYING = "Verifying Checksum"
    DOWNLOADED = "Download complete"
    EXTRACTING = "Extracting"
    PULLED = "Pull complete"
    EXISTS = "Already exists"
    RETRYING = "Retrying"
    PUSHING_TO = "Pushing to"
    PREPARING = "Preparing"
    PUSHING = "Pushing"
    PUSHED = "Pushed"
    MOUNTED = "Mounted from"
    PUSH_EXISTS = "Layer already exists"
    SQUASHING = "Squashing"
    SQUASHED = "Squash complete"
    SEARCHING = "Searching"
    SEARCHED = "Search complete"
    LOADING = "Loading layer"
    LOADED = "Loaded layer"
    MOVING = "Moving"
    MOVED = "Moved"
    MEASURING = "Measuring"
    MEASURED = "Measured"
    NOTE = "Note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of state. ``subject`` is a digest or a name; ``current`` and ``total`` are bytes."""

    action: Action
    subject: str
    current: int | None = None
    total: int | None = None
    detail: str = ""


Report = Callable[[Event], None]


def silent(_event: Event) -> None:
    """The report function for callers that do not listen."""
