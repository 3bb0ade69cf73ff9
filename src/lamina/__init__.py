"""Container images, layer by layer.

The names here are imported when they are first used (PEP 562), so that ``import lamina`` costs nothing::

    from lamina import Engine

    with Engine.open() as engine:
        engine.pull("redis:latest")
        for layer in engine.layers("redis:latest"):
            print(layer.diff_id, layer.instruction)
"""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker takes it for true; importing typing would cost every command 5 ms
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.building.options import BuildOptions
    from lamina.engine.engine import Engine
    from lamina.engine.settings import Settings
    from lamina.errors import (
        Conflict,
        Denied,
        IntegrityError,
        InvalidInput,
        LaminaError,
        NotFound,
        Unavailable,
        Unsupported,
    )
    from lamina.events import Action, Event
    from lamina.image import Image
    from lamina.oci.descriptor import Descriptor, Platform
    from lamina.oci.digest import Digest
    from lamina.oci.reference import Reference
    from lamina.runtime.options import ContainerOptions

__version__ = "0.1.0"

_HOMES = {
    "Action": "lamina.events",
    "BuildOptions": "lamina.engine.building.options",
    "Conflict": "lamina.errors",
    "ContainerOptions": "lamina.runtime.options",
    "Denied": "lamina.errors",
    "Descriptor": "lamina.oci.descriptor",
    "Digest": "lamina.oci.digest",
    "Engine": "lamina.engine.engine",
    "Event": "lamina.events",
    "Image": "lamina.image",
    "IntegrityError": "lamina.errors",
    "InvalidInput": "lamina.errors",
    "LaminaError": "lamina.errors",
    "NotFound": "lamina.errors",
    "Platform": "lamina.oci.descriptor",
    "Reference": "lamina.oci.reference",
    "Settings": "lamina.engine.settings",
    "Unavailable": "lamina.errors",
    "Unsupported": "lamina.errors",
}

__all__ = [
    "Action",
    "BuildOptions",
    "Conflict",
    "ContainerOptions",
    "Denied",
    "Descriptor",
    "Digest",
    "Engine",
    "Event",
    "Image",
    "IntegrityError",
    "InvalidInput",
    "LaminaError",
    "NotFound",
    "Platform",
    "Reference",
    "Settings",
    "Unavailable",
    "Unsupported",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - only for those who use a name

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
