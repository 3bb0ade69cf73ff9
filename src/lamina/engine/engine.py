"""The façade: one object, opened on a state directory, whose verbs are straight lines."""

from __future__ import annotations

from lamina.engine.verbs.containers import ContainerVerbs
from lamina.engine.verbs.images import ImageVerbs
from lamina.engine.verbs.questions import QuestionVerbs
from lamina.engine.verbs.storage import StorageVerbs


class Engine(ImageVerbs, ContainerVerbs, QuestionVerbs, StorageVerbs):
    """Use as a context manager, or close it. Safe for many threads; many engines may share a root."""
