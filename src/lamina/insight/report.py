"""Everything that the report about an image says, as values of a bounded size.

``page.render`` makes the page of them. An image can be hostile and huge: lists are cut to the rows that
matter most, with totals of what was left out, and so are texts, so that a page stays one that opens.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lamina.image import Image
from lamina.insight.instruction import instruction_of
from lamina.insight.provenance import LayerSummary, Obscured, obscured, summarise
from lamina.insight.treemap import FileNode, Leaf, fold
from lamina.insight.waste import Waste, WasteItem, WasteKind
from lamina.layer.entry import Kind
from lamina.layer.tree import Reason, Tree
from lamina.oci.digest import Digest
from lamina.values import dataclass

MAX_ROWS = 500
MAX_FILES = 20  # of one layer, or of one piece of advice
MAX_TEXT = 2_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[T]):
    """The first of ``total`` things, which together have ``total_bytes``."""

    rows: tuple[T, ...]
    total: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """``compressed`` is what travels, ``size`` the content of all files of all layers.

    Of ``size`` a container sees ``size - obscured_bytes``, in ``files`` names. ``score`` is ``Waste.score``.
    """

    name: str
    digest: Digest
    id: Digest
    platform: str
    created: str
    compressed: int
    size: int
    files: int
    obscured_bytes: int
    wasted_bytes: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BigFile:
    path: str
    size: int
    is_obscured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """``size`` is the content of the layer's files; of that, layers above obscure ``obscured_bytes``."""

    summary: LayerSummary
    media_type: str
    created: str
    size: int
    obscured_bytes: int
    biggest: tuple[BigFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObscuredFile:
    path: str
    kind: Kind
    size: int
    layer: int
    hidden_by: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class WasteFile:
    """As in ``WasteItem``."""

    path: str
    size: int
    other: int | None
    other_path: str
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One line for the Dockerfile, and the files of one layer that it would spare."""

    kind: WasteKind
    layer: int
    fix: str
    files: Rows[WasteFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the history. ``layer`` is ``None``, and ``size`` 0, where it made no layer."""

    instruction: str
    created: str
    comment: str
    layer: int | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A field of the config's ``config``; ``more`` values were left out."""

    name: str
    values: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """``files`` is the union as nodes, the root first: see ``FileNode``."""

    image: ImageFacts
    layers: tuple[LayerFacts, ...]
    files: tuple[FileNode, ...]
    obscured: Rows[ObscuredFile]
    waste: Rows[Remedy]
    history: Rows[Step]
    settings: tuple[Setting, ...]

    def to_json(self) -> dict[str, Any]:
        """Field names are described in docs/json.md, and stay."""
        return _document(self)


def make_report(
    image: Image,
    tree: Tree,
    waste: Waste,
    *,
    name: str,
    shared_with: Mapping[Digest, Sequence[str]] | None = None,
) -> ReportData:
    """``name`` is what the image was asked for by; ``shared_with`` is as for ``summarise``."""
    hidden = obscured(image, tree)
    leaves, directories = _union(tree)
    layers = _layers(image, tree, hidden, summarise(image, tree, shared_with=shared_with))
    facts = ImageFacts(
        name=brief(name),
        digest=image.descriptor.digest,
        id=image.id,
        platform=brief(str(image.config.platform)),
        created=brief(image.config.created),
        compressed=sum(layer.descriptor.size for layer in image.layers),
        size=sum(layer.size for layer in layers),
        files=len(leaves),
        obscured_bytes=sum(row.size for row in hidden),
        wasted_bytes=waste.wasted_bytes,
        score=round(waste.score, 2),
    )
    return ReportData(
        image=facts,
        layers=layers,
        files=fold(leaves, directories, wanted={row.path for row in hidden}),
        obscured=_obscured(hidden),
        waste=_remedies(waste.items),
        history=_history(image, layers),
        settings=_settings(image.config.execution),
    )


def brief(text: str) -> str:
    """Instructions with a whole script in them, and labels with a novel, are cut."""
    left = len(text) - MAX_TEXT
    return text if left <= 0 else f"{text[:MAX_TEXT]}… ({left:,} more characters)"


# -- files


def _union(tree: Tree) -> tuple[list[Leaf], dict[str, int]]:
    """What can be seen: files and the like, each byte once, and directories with their layers."""
    leaves: list[Leaf] = []
    directories: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    for node in tree.walk():
        if node.entry.kind is Kind.DIRECTORY:
            directories[node.path] = node.layer
            continue
        is_first = node.inode not in seen
        seen.add(node.inode)
        kind = node.entry.kind if is_first else Kind.HARDLINK
        size = node.entry.size if is_first else 0
        leaves.append(Leaf(path=node.path, kind=kind, layer=node.layer, size=size))
    return leaves, directories


def _layers(
    image: Image, tree: Tree, hidden: Sequence[Obscured], summaries: Sequence[LayerSummary]
) -> tuple[LayerFacts, ...]:
    lost: defaultdict[int, int] = defaultdict(int)
    for row in hidden:
        lost[row.layer] += row.size
    gone = {(row.layer, row.path) for row in hidden}
    found = []
    for layer, index, summary in zip(image.layers, tree.indexes, summaries, strict=True):
        largest = heapq.nlargest(MAX_FILES, range(len(index)), key=index.sizes.__getitem__)
        found.append(LayerFacts(
            summary=summary,
            media_type=brief(layer.descriptor.media_type),
            created=brief(layer.history.created) if layer.history else "",
            size=sum(index.sizes),
            obscured_bytes=lost[layer.number],
            biggest=tuple(
                BigFile(path=index.paths[number], size=index.sizes[number],
                        is_obscured=(layer.number, index.paths[number]) in gone)
                for number in largest if index.sizes[number]
            ),
        ))
    return tuple(found)


def _obscured(hidden: Iterable[Obscured]) -> Rows[ObscuredFile]:
    rows = [
        ObscuredFile(path=row.path, kind=row.kind, size=row.size, layer=row.layer,
                     hidden_by=row.hidden_by, reason=row.reason)
        for row in hidden
    ]
    return _largest(rows, lambda row: row.size, MAX_ROWS)


# -- waste


def _remedies(items: Iterable[WasteItem]) -> Rows[Remedy]:
    groups: defaultdict[tuple[WasteKind, int, str], list[WasteItem]] = defaultdict(list)
    for item in items:
        groups[item.kind, item.layer, item.fix].append(item)
    found = [
        Remedy(kind=kind, layer=layer, fix=brief(fix), files=_wasted(group))
        for (kind, layer, fix), group in groups.items()
    ]
    return _largest(found, lambda remedy: remedy.files.total_bytes, MAX_ROWS)


def _wasted(items: Iterable[WasteItem]) -> Rows[WasteFile]:
    files = [
        WasteFile(path=item.path, size=item.bytes, other=item.other, other_path=item.other_path,
                  changed=item.changed)
        for item in items
    ]
    return _largest(files, lambda file: file.size, MAX_FILES)


def _largest(rows: Sequence[T], size: Callable[[T], int], limit: int) -> Rows[T]:
    chosen = sorted(rows, key=size, reverse=True)[:limit]
    return Rows(rows=tuple(chosen), total=len(rows), total_bytes=sum(map(size, rows)))


# -- history and settings


def _history(image: Image, layers: Sequence[LayerFacts]) -> Rows[Step]:
    """In the order of the Dockerfile. A history that is too long keeps its end, as layers do their top."""
    steps: list[Step] = []
    number = 0
    for line in image.config.history:
        layer = None
        if not line.empty_layer and number < len(layers):
            layer, number = number, number + 1
        comment = line.comment if line.created_by else ""
        steps.append(Step(
            instruction=brief(instruction_of(line)), created=brief(line.created), comment=brief(comment),
            layer=layer, size=0 if layer is None else layers[layer].size,
        ))
    total_bytes = sum(step.size for step in steps)
    return Rows(rows=tuple(steps[-MAX_ROWS:]), total=len(steps), total_bytes=total_bytes)


def _settings(execution: Mapping[str, Any]) -> tuple[Setting, ...]:
    found = []
    for name, value in list(execution.items())[:MAX_ROWS]:
        values = _values(value)
        if values:
            found.append(Setting(
                name=brief(name), values=tuple(map(brief, values[:MAX_ROWS])),
                more=max(0, len(values) - MAX_ROWS),
            ))
    return tuple(found)


def _values(value: Any) -> list[str]:
    """One text a value: of lists, of sets as Go writes them (``{"80/tcp": {}}``), and of maps."""
    if value in (None, "", False, 0):
        return []
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return [key if item in ({}, None, "") else f"{key}={_text(item)}" for key, item in value.items()]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # the scanner that read it goes a little deeper
        return "(nested too deeply to show)"


# -- as JSON


def _document(data: ReportData) -> dict[str, Any]:
    image = data.image
    return {
        "Image": {
            "Name": image.name, "Digest": image.digest, "ID": image.id, "Platform": image.platform,
            "Created": image.created, "Compressed": image.compressed, "Size": image.size,
            "Files": image.files, "ObscuredBytes": image.obscured_bytes, "WastedBytes": image.wasted_bytes,
            "Score": image.score,
        },
        "Layers": [_layer_document(layer) for layer in data.layers],
        "Files": [
            {"Name": node.name, "Parent": node.parent, "Kind": node.kind.name.lower() if node.kind is not None
             else "rest", "Layer": node.layer, "Size": node.size, "Files": node.files}
            for node in data.files
        ],
        "Obscured": _rows_document(data.obscured, lambda row: {
            "Path": f"/{row.path}", "Kind": row.kind.name.lower(), "Size": row.size, "Layer": row.layer,
            "HiddenBy": row.hidden_by, "Reason": str(row.reason),
        }),
        "Waste": _rows_document(data.waste, lambda remedy: {
            "Kind": str(remedy.kind), "Layer": remedy.layer, "Fix": remedy.fix,
            "Files": _rows_document(remedy.files, lambda file: {
                "Path": f"/{file.path}", "Size": file.size, "Other": file.other,
                "OtherPath": f"/{file.other_path}" if file.other_path else "", "Changed": list(file.changed),
            }),
        }),
        "History": _rows_document(data.history, lambda step: {
            "Instruction": step.instruction, "Created": step.created, "Comment": step.comment,
            "Layer": step.layer, "Size": step.size,
        }),
        "Settings": [
            {"Name": setting.name, "Values": list(setting.values), "More": setting.more}
            for setting in data.settings
        ],
    }


def _layer_document(layer: LayerFacts) -> dict[str, Any]:
    summary = layer.summary
    return {
        "Layer": summary.number, "DiffID": summary.diff_id, "Digest": summary.digest,
        "MediaType": layer.media_type, "Instruction": brief(summary.instruction), "Created": layer.created,
        "Compressed": summary.compressed, "TarSize": summary.size, "Size": layer.size,
        "ObscuredBytes": layer.obscured_bytes, "Added": summary.files_added, "Changed": summary.files_changed,
        "Hidden": summary.files_hidden, "HiddenBytes": summary.bytes_hidden,
        "SharedWith": list(summary.shared_with[:MAX_FILES]), "SharedWithTotal": len(summary.shared_with),
        "Biggest": [
            {"Path": f"/{file.path}", "Size": file.size, "IsObscured": file.is_obscured}
            for file in layer.biggest
        ],
    }


def _rows_document(found: Rows[T], spell: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    return {"Rows": list(map(spell, found.rows)), "Total": found.total, "TotalBytes": found.total_bytes}
