"""Image configs: what to run, what made each layer, and the diff ids that prove the layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from lamina.errors import InvalidInput
from lamina.oci.descriptor import Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_LAYERS, dump_document, parse_document
from lamina.values import dataclass, field

MAX_HISTORY = 10_000


class InvalidConfig(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One line of an image's history. Times stay text: they are shown, compared, never computed with."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("created", "created_by", "author", "comment")
            if getattr(self, name)
        }
        if self.empty_layer:
            document["empty_layer"] = True
        return document


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """``document`` is the whole parsed JSON, read-only by agreement; the rest are readings of it."""

    raw: bytes = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)
    platform: Platform
    created: str
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...]

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        document = parse_document(raw, "config")
        rootfs = document.get("rootfs")
        if not isinstance(rootfs, dict):
            raise InvalidConfig("config.rootfs: expected an object with diff_ids")
        kind = rootfs.get("type", "layers")
        if kind != "layers":
            raise InvalidConfig(f"config.rootfs.type: expected 'layers', got {kind!r}")
        diff_ids = rootfs.get("diff_ids")
        if diff_ids is None:
            diff_ids = []  # an image without layers, as Go writes it
        if not isinstance(diff_ids, list) or len(diff_ids) > MAX_LAYERS:
            raise InvalidConfig(f"config.rootfs.diff_ids: expected a list of at most {MAX_LAYERS} digests")
        if not isinstance(document.get("config", {}), dict | None):
            raise InvalidConfig("config.config: expected an object")
        return cls(
            raw=raw,
            document=document,
            platform=Platform.from_json(
                {name: document.get(name) for name in ("os", "architecture", "variant", "os.version")}
            ),
            created=_text(document, "created", "config"),
            diff_ids=tuple(Digest.parse(item) for item in diff_ids),
            history=_history(document.get("history")),
        )

    @classmethod
    def build(cls, document: Mapping[str, Any]) -> ImageConfig:
        """A new config from a document in the order that it is to be written."""
        return cls.parse(dump_document(document))

    @property
    def digest(self) -> Digest:
        """The image ID."""
        return Digest.of(self.raw)

    @property
    def execution(self) -> Mapping[str, Any]:
        """The ``config`` object: Env, Cmd, Entrypoint and friends; empty where there is none."""
        return self.document.get("config") or {}

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        return tuple(chain_ids(self.diff_ids))

    def layer_history(self) -> tuple[History | None, ...]:
        """For each layer, base first, the history line that made it; ``None`` where history is silent.

        History may be missing, or short, or long: nothing binds it to the layers but the count of
        lines that are not ``empty_layer`` (image-spec config.md, "history").
        """
        lines: list[History | None] = [line for line in self.history if not line.empty_layer]
        missing = len(self.diff_ids) - len(lines)
        return tuple(lines[: len(self.diff_ids)] + [None] * missing)


def chain_ids(diff_ids: Iterable[Digest]) -> Iterable[Digest]:
    """image-spec config.md, "Layer ChainID": the name of a stack, for each prefix of it."""
    chain: Digest | None = None
    for diff_id in diff_ids:
        if chain is None:
            chain = diff_id
        else:
            chain = Digest("sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest())
        yield chain


def _history(value: Any) -> tuple[History, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_HISTORY:
        raise InvalidConfig(f"config.history: expected a list of at most {MAX_HISTORY} objects")
    lines = []
    for number, item in enumerate(value):
        where = f"config.history[{number}]"
        if not isinstance(item, dict):
            raise InvalidConfig(f"{where}: expected an object, got {type(item).__name__}")
        empty = item.get("empty_layer")
        if empty is not None and not isinstance(empty, bool):
            raise InvalidConfig(f"{where}.empty_layer: expected true or false, got {empty!r}")
        lines.append(History(
            created=_text(item, "created", where),
            created_by=_text(item, "created_by", where),
            author=_text(item, "author", where),
            comment=_text(item, "comment", where),
            empty_layer=bool(empty),
        ))
    return tuple(lines)


def _text(document: Mapping[str, Any], name: str, where: str) -> str:
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidConfig(f"{where}.{name}: expected a string, got {type(value).__name__}")
    return value
