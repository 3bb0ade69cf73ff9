"""What a build knows at each point: layers so far, the config so far, and the history that tells of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.build.failure import Span
from lamina.oci.config import History, chain_ids
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.values import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a layer of this build comes from: annotations say it, and ``blame`` reads them."""

    dockerfile: str
    stage: int
    span: Span
    text: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLayer:
    """``origin`` is ``None`` for a layer of the base."""

    descriptor: Descriptor
    diff_id: Digest
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """``document`` is the config as it stands; empty for ``scratch``. ``digest`` is the manifest's."""

    name: str
    digest: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """``changed`` is when the last step that made something was done, seconds since the epoch.

    ``arguments`` are those declared so far: a stage that begins with this one knows them too.
    """

    base: BaseImage
    platform: Platform
    config: Mapping[str, Any]
    layers: tuple[BuiltLayer, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    author: str = ""
    changed: float = 0.0
    is_command_own: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(layer.diff_id for layer in self.layers)

    @property
    def chain(self) -> str:
        """The name of the stack so far; empty while there is none."""
        chain = list(chain_ids(self.diff_ids))
        return str(chain[-1]) if chain else ""

    def with_config(self, config: Mapping[str, Any], line: History) -> StageState:
        return replace(self, config=config, history=(*self.history, line.to_json()))

    def with_layer(self, layer: BuiltLayer | None, line: History, created: float) -> StageState:
        """Without a layer, the step changed no file."""
        return replace(
            self, layers=self.layers if layer is None else (*self.layers, layer),
            history=(*self.history, line.to_json()), changed=max(self.changed, created),
        )


def history_of(document: Mapping[str, Any], layers: int) -> tuple[Mapping[str, Any], ...]:
    """A base's lines. Layers about which it is silent get one, or the new ones would be taken for theirs."""
    lines: Sequence[Mapping[str, Any]] = document.get("history") or ()
    told = sum(not line.get("empty_layer") for line in lines)
    return (*lines, *([{"comment": "a layer without history"}] * (layers - told)))
