"""The report as one HTML file that stands alone: no request leaves it, and no text of an image can act in it.

Tables and layers are written here, so that they are there without JavaScript; the script adds the map of
files and the search, from the same document that ``--format json`` prints. It is embedded as JSON, and so
is text to the browser; the script gives it to the page as text and never as markup. The content security
policy allows this one style and this one script, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from string import Template
from typing import Any

from lamina.insight.markup import Child, Html, element, joined, printable
from lamina.insight.report import (
    ImageFacts,
    LayerFacts,
    Remedy,
    ReportData,
    Rows,
    Setting,
    Step,
    WasteFile,
    brief,
)
from lamina.insight.treemap import squarify
from lamina.insight.waste import WasteKind

# So many layers have a colour of their own, the largest ones; "x" is that of all others. See page.css.
TONES = 12
_MAP_WIDTH, _MAP_HEIGHT, _MAP_TILES = 640, 440, 60
_INSTRUCTION_WIDTH = 120
_FEW = 3  # so many files are shown at once
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SECTIONS = (
    ("layers", "Layers"), ("files", "Files"), ("find", "Find a file"), ("obscured", "Obscured"),
    ("waste", "Waste"), ("history", "History"), ("config", "Configuration"),
)
_SCRIPTED = ("find",)


def render(data: ReportData) -> str:
    style, script = _ours("page.css"), _ours("page.js")
    tones = _tones(data.layers)
    return Template(_ours("page.html")).substitute(
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script),
        title=joined(f"{data.image.name} · lamina report"),
        header=_header(data),
        contents=_contents(),
        layers=_layers(data.layers, tones),
        map=_map(data),
        found_note=_found_note(data),
        obscured=_obscured(data),
        waste=_waste(data),
        history=_history(data.history),
        config=_config(data),
        data=_embedded(data.to_json()),
    )


def _ours(name: str) -> str:
    return resources.files("lamina.insight").joinpath("report_page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _embedded(document: dict[str, Any]) -> str:
    """JSON that HTML cannot mistake for markup, with nothing in it that could not be seen.

    What is not ASCII is escaped, line separators among it; then no character is left that ends a script.
    """
    text = json.dumps(_all_printable(document), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _all_printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_all_printable(item) for item in value]
    if isinstance(value, dict):
        return {key: _all_printable(item) for key, item in value.items()}
    return value


# -- sizes and colours


def spelled(size: float) -> str:
    """Decimal, with three digits, as the command writes sizes."""
    value, unit = float(size), 0
    while unit < len(_UNITS) - 1 and float(f"{value:.3g}") >= 1000:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{_UNITS[unit]}"


def _counted(count: int, one: str, several: str = "") -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {several or one + 's'}"


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    return "less than 0.1%" if 0 < percent < 0.1 else f"{percent:.3g}%"


def _tones(layers: Sequence[LayerFacts]) -> list[str]:
    """For each layer the name of its colour: neighbours in the stack get colours that are far apart."""
    with_bytes = [number for number, layer in enumerate(layers) if layer.size]
    largest = sorted(with_bytes, key=lambda number: -layers[number].size)[:TONES]
    tones = {number: str(place) for place, number in enumerate(sorted(largest))}
    return [tones.get(number, "x") for number in range(len(layers))]


# -- the head of the page


def _header(data: ReportData) -> Html:
    image = data.image
    seen = image.size - image.obscured_bytes
    kept = _counted(data.obscured.total, "file")
    cards = (
        ("To pull", spelled(image.compressed), f"compressed, {_counted(len(data.layers), 'layer')}"),
        ("Stored", spelled(image.size), "content of all files in all layers"),
        ("Seen", spelled(seen), f"by a container, {_counted(image.files, 'file')}"),
        ("Obscured", spelled(image.obscured_bytes), f"{kept}, {_share(image.obscured_bytes, image.size)}"),
        ("Waste", spelled(image.wasted_bytes), f"{_share(image.wasted_bytes, image.size)} could be spared"),
    )
    identity = filter(None, (image.platform, _day(image.created), image.id))
    return joined(
        element("h1", image.name),
        element("p", " · ".join(identity), class_="facts"),
        element("div", *(_card(*card) for card in cards), _score(image), class_="cards"),
    )


def _card(title: str, value: str, about: str) -> Html:
    return element(
        "div", element("span", title, class_="title"), element("b", value),
        element("span", about, class_="detail"), class_="card",
    )


def _score(image: ImageFacts) -> Html:
    score = image.score
    grade = "good" if score >= 95 else "fair" if score >= 80 else "poor"
    meter = element(
        "svg", element("rect", width=f"{score:.2f}%", height="100%"),
        class_=f"meter {grade}", aria_hidden="true",
    )
    shown = "over 99.9%" if score >= 99.95 and image.wasted_bytes else f"{score:.3g}%"
    title = element("span", "Efficiency", class_="title")
    return element("div", title, element("b", shown), meter, class_="card")


def _day(moment: str) -> str:
    return f"created {moment[:10]}" if moment[:4].isdigit() and moment[:4] > "0001" else ""


def _contents() -> Html:
    return joined(*(
        element("a", title, href=f"#{name}", class_="scripted" if name in _SCRIPTED else None)
        for name, title in _SECTIONS
    ))


# -- layers


def _layers(layers: Sequence[LayerFacts], tones: Sequence[str]) -> Html:
    if not layers:
        return _nothing("This image has no layers.")
    largest = max(layer.size for layer in layers)
    rows = [_layer(layer, tones[number], largest) for number, layer in enumerate(layers)]
    return element("ol", *reversed(rows), class_="stack", reversed=True)


def _layer(layer: LayerFacts, tone: str, largest: int) -> Html:
    number, instruction = layer.summary.number, brief(layer.summary.instruction)
    head = element(
        "summary",
        element("span", number, class_=f"badge tone-{tone}"),
        element("span", _or_silent(instruction), class_="instruction"),
        element("span", spelled(layer.size), class_="size"),
        _bar(layer, tone, largest),
    )
    details = element("details", head, _layer_details(layer, instruction), name="layer", id=f"layer-{number}",
                      data_layer=number, data_tone=tone)
    return element("li", details)


def _bar(layer: LayerFacts, tone: str, largest: int) -> Html:
    seen, hidden = layer.size - layer.obscured_bytes, layer.obscured_bytes
    unit = 100 / largest if largest else 0.0
    label = f"{spelled(seen)} seen" + (f", {spelled(hidden)} obscured" if hidden else "")
    parts = [element("rect", class_=f"seen tone-{tone}", width=f"{seen * unit:.3f}%", height="100%")]
    if hidden:
        parts.append(element("rect", class_="gone", x=f"{seen * unit:.3f}%", width=f"{hidden * unit:.3f}%",
                             height="100%", fill="url(#hatch)"))
    return element("svg", *parts, class_="bar", role="img", aria_label=label)


def _layer_details(layer: LayerFacts, instruction: str) -> Html:
    summary = layer.summary
    hides = f"{_counted(summary.files_hidden, 'file')} of lower layers, {spelled(summary.bytes_hidden)}"
    facts: list[tuple[str, Child]] = [
        ("Files", f"{summary.files_added:,} added, {summary.files_changed:,} changed"),
        ("Hides", hides),
        ("Obscured", f"{spelled(layer.obscured_bytes)} of its {spelled(layer.size)}"),
        ("Pulled as", f"{spelled(summary.compressed)}, {layer.media_type}"),
        ("Tar", spelled(summary.size)),
        ("Diff ID", _code(summary.diff_id)),
        ("Blob", _code(summary.digest)),
    ]
    if layer.created:
        facts.append(("Created", layer.created))
    if summary.shared_with:
        facts.append(("Shared with", _names(summary.shared_with)))
    return element(
        "div",
        element("pre", instruction, class_="command") if instruction else None,
        _pairs(facts), _biggest(layer), class_="inside",
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10:,} more"


def _biggest(layer: LayerFacts) -> Html | None:
    if not layer.biggest:
        return None
    rows = (
        element("li", _path(file.path), " ", element("span", spelled(file.size), class_="size"),
                element("span", "obscured", class_="tag") if file.is_obscured else None)
        for file in layer.biggest[:10]
    )
    return joined(element("h3", "Its largest files"), element("ol", *rows, class_="biggest"))


# -- the map, before the script takes over


def _map(data: ReportData) -> Html:
    """The first level of the tree as a picture: what is seen without JavaScript, and while it loads."""
    top = sorted((node for node in data.files if node.parent == 0 and node.size), key=lambda node: -node.size)
    if not top:
        return _nothing("No file has any bytes.")
    named = [(node.name or "smaller files", node.size) for node in top[:_MAP_TILES]]
    if len(top) > _MAP_TILES:
        named.append(("the others", sum(node.size for node in top[_MAP_TILES:])))
        named.sort(key=lambda pair: -pair[1])
    places = squarify([size for _name, size in named], _MAP_WIDTH, _MAP_HEIGHT)
    tiles = [
        element(
            "svg", element("rect", width="100%", height="100%"),
            element("text", f"{name} {spelled(size)}", x=6, y=18)
            if place.width > 40 and place.height > 24 else None,
            x=place.x, y=place.y, width=place.width, height=place.height,
        )
        for (name, size), place in zip(named, places, strict=True)
    ]
    return element("svg", *tiles, viewBox=f"0 0 {_MAP_WIDTH} {_MAP_HEIGHT}", class_="still", role="img",
                   aria_label="Directories by size")


def _found_note(data: ReportData) -> str:
    folded = sum(node.files for node in data.files if node.kind is None)
    if not folded:
        return ""
    about = f" {_counted(folded, 'smaller file')} can only be found by "
    return joined(about, _code("lamina blame"), ".")


# -- tables


def _obscured(data: ReportData) -> Html:
    found = data.obscured
    if not found.total:
        return _nothing("Nothing is obscured: a container sees every file that is stored.")
    about = (f"{_counted(found.total, 'file')}, {spelled(found.total_bytes)}: stored and pulled, but seen by "
             "no container. Everybody who has the image can still read them.")
    instructions = [_shortened(layer.summary.instruction) for layer in data.layers]
    rows = (
        (_path(row.path), spelled(row.size), _layer_link(row.layer),
         joined(_layer_link(row.hidden_by), f", {row.reason} ",
                element("code", instructions[row.hidden_by], class_="why")))
        for row in found.rows
    )
    return joined(
        element("p", about, class_="about"),
        _table(("Path", "Size", "In", "Hidden by"), rows, numbers=("Size",)),
        _left_out(found, sum(row.size for row in found.rows)),
    )


def _waste(data: ReportData) -> Html:
    found = data.waste
    if not found.total:
        return _nothing("Nothing is wasted: every stored byte can be seen, and is stored once.")
    size, share = spelled(data.image.wasted_bytes), _share(data.image.wasted_bytes, data.image.size)
    about = f"{size}, {share} of what is stored. The largest come first."
    return joined(
        element("p", about, class_="about"),
        element("ul", *map(_remedy, found.rows), class_="remedies"),
        _left_out(found, sum(remedy.files.total_bytes for remedy in found.rows)),
    )


def _remedy(remedy: Remedy) -> Html:
    files = remedy.files
    shown = [
        element("li", _path(file.path), " ", element("span", spelled(file.size), class_="size"), " ",
                _remark(remedy.kind, file))
        for file in files.rows
    ]
    return element(
        "li",
        element("p", element("b", spelled(files.total_bytes), class_="size"), " ",
                f"{_counted(files.total, 'file')}, {_REASONS[remedy.kind]}, in ", _layer_link(remedy.layer)),
        element("p", element("code", remedy.fix), class_="fix"),
        element("ul", *shown, class_="biggest") if files.total <= _FEW else element(
            "details", element("summary", "The files"), element("ul", *shown, class_="biggest"),
            _left_out(files, sum(file.size for file in files.rows)),
        ),
    )


_REASONS = {
    WasteKind.METADATA: "stored again for another owner, mode or time",
    WasteKind.MOVED: "stored again under another name",
    WasteKind.REPLACED: "replaced later",
    WasteKind.DELETED: "deleted later",
    WasteKind.MARKER: "content of entries that only remove something",
    WasteKind.CACHE: "caches that nobody needs",
    WasteKind.DUPLICATE: "copies of other files",
}


def _remark(kind: WasteKind, file: WasteFile) -> Html | None:
    if file.other is None:
        return None
    by = f"layer {file.other}"
    text = {
        WasteKind.METADATA: f"again in {by}, with another {' and '.join(file.changed) or 'owner or mode'}",
        WasteKind.MOVED: f"again in {by}: /{file.other_path}",
        WasteKind.DUPLICATE: f"the same as /{file.other_path} in {by}",
    }.get(kind, f"hidden by {by}")
    return element("span", brief(text), class_="remark")


def _history(found: Rows[Step]) -> Html:
    if not found.total:
        return _nothing("The image does not say how it was made.")
    return joined(
        _table(("Instruction", "Size", "Layer"), map(_step, found.rows), numbers=("Size",)),
        _left_out(found, sum(step.size for step in found.rows)),
    )


def _step(step: Step) -> Sequence[Child]:
    remark = element("span", step.comment, class_="remark") if step.comment else None
    instruction = joined(element("code", _or_silent(step.instruction)), " " if remark else None, remark)
    if step.layer is None:
        return instruction, None, None
    return instruction, spelled(step.size), _layer_link(step.layer)


def _config(data: ReportData) -> Html:
    image = data.image
    facts: list[tuple[str, Child]] = [
        ("Image ID", _code(image.id)), ("Digest", _code(image.digest)), ("Platform", image.platform),
        ("Created", image.created),
    ]
    facts += [(setting.name, _setting(setting)) for setting in data.settings]
    return _pairs(facts)


def _setting(setting: Setting) -> Html:
    values = [element("li", element("code", value)) for value in setting.values]
    if setting.more:
        values.append(element("li", f"… and {setting.more:,} more"))
    return element("ul", *values, class_="values")


# -- pieces


def _table(headings: Sequence[str], rows: Iterable[Sequence[Child]], numbers: Sequence[str] = ()) -> Html:
    """On a narrow screen each row becomes a block, and each cell says what it is."""
    kinds = ["number" if heading in numbers else None for heading in headings]
    head = (
        element("th", heading, scope="col", class_=kind)
        for heading, kind in zip(headings, kinds, strict=True)
    )
    body = (
        element("tr", *(
            element("td", element("div", cell), class_=kind, data_label=heading) if cell is not None
            else element("td")
            for cell, heading, kind in zip(row, headings, kinds, strict=True)
        ))
        for row in rows
    )
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    label = f"{headings[0]} table"
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _left_out(found: Rows[Any], shown: int) -> Html | None:
    more = found.total - len(found.rows)
    if more <= 0:
        return None
    return element("p", f"… and {more:,} more, {spelled(found.total_bytes - shown)} together.", class_="more")


def _nothing(text: str) -> Html:
    return element("p", text, class_="empty")


def _pairs(facts: Iterable[tuple[str, Child]]) -> Html:
    return element("dl", *_terms(facts))


def _terms(facts: Iterable[tuple[str, Child]]) -> Iterator[Html]:
    for name, value in facts:
        yield element("dt", name)
        yield element("dd", value)


def _layer_link(number: int) -> Html:
    return element("a", f"layer {number}", href=f"#layer-{number}", data_layer=number)


def _path(path: str) -> Html:
    return element("code", f"/{path}", class_="path")


def _code(text: str) -> Html:
    return element("code", text)


def _shortened(instruction: str) -> str:
    """For a table; the whole of it stands with its layer."""
    text = " ".join(instruction.split())
    return text if len(text) <= _INSTRUCTION_WIDTH else text[: _INSTRUCTION_WIDTH - 1] + "…"


def _or_silent(instruction: str) -> str:
    return instruction or "(its history does not say)"
