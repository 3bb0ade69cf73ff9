"""The option --platform, which many verbs have."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.descriptor import Platform

PLATFORM_HELP = "os/architecture[/variant] instead of this machine's (also DOCKER_DEFAULT_PLATFORM)"


def platform_of(text: str) -> Platform | None:
    if not text:
        return None
    from lamina.oci.descriptor import Platform

    return Platform.parse(text)
