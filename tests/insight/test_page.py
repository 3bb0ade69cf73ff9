"""The page: whole without JavaScript, closed against what images say, readable in both schemes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.insight.test_report import item, report_of

from lamina.insight import page
from lamina.insight.markup import Html, element, joined, printable
from lamina.insight.waste import Waste, WasteKind
from lamina.layer.entry import Entry
from lamina.testing.images import file, whiteout

SCRIPT = "</script><script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
COMMENT = "<!--<script>"
BIDI = "gpj\u202eexe.\u2066x"
CONTROL = "a\x1b[2Jb\x07c\rd\u2028e\x7f"
NOT_UTF8 = "caf\udce9"
HOSTILE = (SCRIPT.replace("/", "|"), IMAGE, COMMENT, BIDI, CONTROL, NOT_UTF8, "{{constructor}}", "$title ${data}", "&lt;b&gt;")


class Page(HTMLParser):
    """What a browser would make of the page, as far as that can be told without one."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self._raw = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self._raw == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> Any:
        (data,) = (text for attributes, text in self.scripts if attributes.get("type") == "application/json")
        return json.loads(data)

    def attributes(self) -> Iterator[tuple[str, str, str]]:
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                yield tag, name, value or ""


def story() -> tuple[tuple[str, list[Entry]], ...]:
    return (
        ("ADD base.tar /", [file("etc/passwd", b"root"), file("usr/big", b"x" * 3000), file("secret", b"y" * 1000)]),
        ("RUN rm /secret", [whiteout("secret"), file("etc/passwd", b"root me"), file("usr/new", b"z" * 1993)]),
    )


@pytest.fixture(scope="module")
def plain() -> Page:
    waste = Waste(total_bytes=6004, wasted_bytes=1004, items=(
        item("secret", 1000, fix="rm it in the same RUN"), item("etc/passwd", 4, kind=WasteKind.REPLACED, fix="once"),
        item("copy", 3, kind=WasteKind.DUPLICATE, fix="link it", other_path="usr/first", other=0),
        item("mode", 2, kind=WasteKind.METADATA, fix="chmod", changed=("mode", "owner")),
        item("cache", 1, kind=WasteKind.CACHE, fix="clean", other=None),
    ))
    return Page(page.render(report_of(*story(), waste=waste, Env=["PATH=/bin"])))


@pytest.fixture(scope="module")
def hostile() -> str:
    names = [name[:200] for name in HOSTILE]
    waste = Waste(total_bytes=10, wasted_bytes=9, items=tuple(
        item(name, 1, fix=name, kind=kind, other_path=name, changed=(name,))
        for name, kind in zip(names, [*WasteKind, WasteKind.MOVED, WasteKind.MOVED], strict=True)
    ))
    return page.render(report_of(
        (SCRIPT + IMAGE + BIDI, [file(name, b"x") for name in names]),
        ("RUN " + "<b>" * 33_000, [*(whiteout(name) for name in names[:4]), file(f"{SCRIPT}", b"y")]),
        waste=waste, name=f"{IMAGE}{SCRIPT}{CONTROL}", Env=[*list(HOSTILE[:5]), SCRIPT], Labels={SCRIPT: IMAGE, "é": "漢字"},
        **{SCRIPT: COMMENT},
    ))


# -- what is there without JavaScript


def test_layers_are_drawn_to_scale_base_last(plain: Page) -> None:
    rows = [attributes for tag, attributes in plain.tags if tag == "details" and "data-layer" in attributes]
    assert [row["data-layer"] for row in rows] == ["1", "0"]
    bars = [(attributes["class"], attributes["width"]) for tag, attributes in plain.tags
            if tag == "rect" and attributes.get("class", "") in ("seen tone-0", "seen tone-1", "gone")]
    assert bars == [("seen tone-1", "49.950%"), ("seen tone-0", "74.925%"), ("gone", "25.075%")]
    labels = [value for tag, name, value in plain.attributes() if tag == "svg" and name == "aria-label"]
    assert labels[:2] == ["2kB seen", "3kB seen, 1kB obscured"]


def test_tables_are_there(plain: Page) -> None:
    for text in (
        "app:1", "linux/amd64 · created 2024-05-01", "by a container, 3 files", "2 files, 16.7%",
        "/secret 1kB layer 0 layer 1 , deleted RUN rm /secret", "rm it in the same RUN", "PATH=/bin", "ADD base.tar /",
        "copies of other files, in layer 0", "the same as /usr/first in layer 0",
        "again in layer 1, with another mode and owner", "1kB 1 file, deleted later, in layer 0",
    ):
        assert text in plain.text


def test_the_first_level_of_the_map_is_a_picture(plain: Page) -> None:
    assert "usr 4.99kB" in plain.text
    assert ("svg", "class", "still") in set(plain.attributes())


def test_an_image_in_which_all_is_well() -> None:
    text = Page(page.render(report_of(("ADD base /", [file("a", b"x")])))).text
    for sentence in ("Nothing is obscured:", "Nothing is wasted:", "Efficiency 100%"):
        assert sentence in text


def test_an_image_without_anything() -> None:
    text = Page(page.render(report_of())).text
    for sentence in ("This image has no layers.", "No file has any bytes.", "The image does not say how it was made."):
        assert sentence in text


def test_what_is_left_out_is_said() -> None:
    names = [f"f{number:05}" for number in range(10_100)]
    waste = Waste(total_bytes=1, wasted_bytes=1, items=tuple(item(name, 1, fix=f"fix {name}") for name in names))
    text = Page(page.render(report_of(
        ("ADD", [file(name, b"x") for name in names]), ("RUN rm", [whiteout(name) for name in names[:600]]),
        waste=waste,
    ))).text
    assert "… and 100 more, 100B together." in text, "obscured"
    assert "… and 9,600 more, 9.6kB together." in text, "waste"


def test_an_almost_perfect_score_is_not_rounded_to_a_perfect_one() -> None:
    waste = Waste(total_bytes=10**6, wasted_bytes=1, items=(item("a", 1),))
    assert "Efficiency over 99.9%" in Page(page.render(report_of(waste=waste))).text


def test_the_largest_layers_have_colours_of_their_own() -> None:
    sizes = [5, 0, *range(100, 120)]
    text = page.render(report_of(*((f"RUN {size}", [file(f"f{size}", b"x" * size)]) for size in sizes)))
    tones = re.findall(r'data-layer="(\d+)" data-tone="(\w+)"', text)
    assert dict(tones)["0"] == dict(tones)["1"] == "x"
    assert [tone for _number, tone in reversed(tones)][-page.TONES :] == [str(number) for number in range(page.TONES)]


# -- what images say stays text


def test_nothing_hostile_becomes_markup(plain: Page, hostile: str) -> None:
    found = Page(hostile)
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags}
    assert "img" not in {tag for tag, _ in found.tags}
    assert [attributes for attributes, _ in found.scripts] == [attributes for attributes, _ in plain.scripts]
    known = {name for _tag, name, _value in plain.attributes()}
    assert {name for _tag, name, _value in found.attributes()} <= known
    assert not any(name.startswith("on") or name == "style" for name in known)


def test_hostile_text_is_shown_as_it_is(hostile: str) -> None:
    text = Page(hostile).text
    for shown in (SCRIPT, IMAGE, COMMENT, "{{constructor}}", "$title ${data}", "&lt;b&gt;", "漢字"):
        assert shown in text


def test_what_cannot_be_seen_is_shown_as_an_escape(hostile: str) -> None:
    assert "gpj\\u202eexe.\\u2066x" in Page(hostile).text
    assert "a\\x1b[2Jb\\x07c\\rd\\u2028e\\x7f" in Page(hostile).text
    assert "caf\\xe9" in Page(hostile).text
    assert all(character.isprintable() or character == "\n" for character in hostile)
    hostile.encode("utf-8")


def test_the_embedded_document_cannot_end_its_script(hostile: str) -> None:
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', hostile, re.DOTALL)
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert embedded.isascii()
    names = {node["Name"] for node in json.loads(embedded)["Files"]}
    assert {"$title ${data}", "script>", "caf\\xe9"} <= names


def test_long_instructions_are_cut(hostile: str) -> None:
    assert hostile.count("&lt;b&gt;") < 5_000
    assert "more characters)" in Page(hostile).text


def test_markup_escapes_all_but_html() -> None:
    made = element("p", "<b>", Html("<i></i>"), None, 3, class_='a"b', data_x=1.0, hidden=True, title=None, open=False)
    assert made == '<p class="a&quot;b" data-x="1.00" hidden>&lt;b&gt;<i></i>3</p>'
    assert element("br") == "<br>"
    assert joined("a", element("rect", fill="url(#hatch)")) == 'a<rect fill="url(#hatch)"></rect>'
    assert printable("plain é 漢") == "plain é 漢"


# -- what the browser is told


def test_the_policy_allows_this_style_and_this_script_only(plain: Page) -> None:
    (policy,) = (attributes["content"] for tag, attributes in plain.tags
                 if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy")
    (script,) = (text for attributes, text in plain.scripts if not attributes)
    (style,) = plain.styles

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy == (f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; "
                      "base-uri 'none'; form-action 'none'")


def test_nothing_is_fetched(plain: Page) -> None:
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in plain.tags}
    targets = {value for _tag, name, value in plain.attributes() if name in ("href", "src", "action", "srcset")}
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"@import|https?:|url\((?!#)", "".join(plain.styles))
    scripts = "".join(text for attributes, text in plain.scripts if not attributes)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\(|https?:", scripts)


def test_links_within_the_page_lead_somewhere(plain: Page) -> None:
    names = {value for _tag, name, value in plain.attributes() if name == "id"}
    assert {value[1:] for _tag, name, value in plain.attributes() if name == "href"} <= names


# -- colours


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


PAIRS = [
    *((ink, ground) for ink in ("text", "soft", "accent") for ground in ("ground", "surface", "raised")),
    ("surface", "accent"), ("text", "gone-ground"), *(("text", f"tone-{tone}") for tone in [*range(page.TONES), "x"]),
]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_text_can_be_read(plain: Page, ink: str, ground: str, scheme: int) -> None:
    """WCAG AA: 4.5 to 1."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", plain.styles[0])
    colours = {name: schemes for name, *schemes in found}
    assert contrast(colours[ink][scheme], colours[ground][scheme]) >= 4.5
