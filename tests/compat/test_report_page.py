"""The report in a real browser: it draws, answers keys and fingers, fits a phone, and lets nothing in or out."""

from __future__ import annotations

import statistics
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.compat.browser import Browser, browser
from tests.insight.test_page import COMMENT, CONTROL, HOSTILE, IMAGE, SCRIPT
from tests.insight.test_report import item, report_of

from lamina.insight.page import render
from lamina.insight.waste import Waste
from lamina.layer.entry import Entry
from lamina.testing.images import directory, file, whiteout

# One browser for all of them.
pytestmark = [pytest.mark.compat, pytest.mark.xdist_group("browser")]
Open = Callable[..., Browser]
DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (360, 640)
TYPES = (".so", ".py", ".txt", ".png", "", ".pyc", ".gz")


def tree(random: Random, top: str, count: int) -> list[Entry]:
    places = [f"{top}/{name}" for name in ("bin", "lib", "lib/python3", "share", "share/doc/a-long-name-" + "x" * 180)]
    return [
        *(directory(place) for place in places),
        *(file(f"{random.choice(places)}/f{number}{random.choice(TYPES)}", b"x" * random.randrange(20, 20_000))
          for number in range(count)),
    ]


@pytest.fixture(scope="module")
def pages(workshop: Path) -> dict[str, str]:
    random = Random(7)
    secret = file("srv/app/secret.key", b"s" * 300_000)
    shop = report_of(
        ("ADD base.tar /", [*tree(random, "usr", 300), file("etc/passwd", b"root")]),
        ("COPY . /srv/app", [*tree(random, "srv/app", 100), secret]),
        ("RUN " + "make --with-a-very-long-option=x " * 60, [whiteout("srv/app/secret.key"), file("etc/passwd", b"me")]),
        name="registry.example.com/team/shop:2.4",
        waste=Waste(total_bytes=10**7, wasted_bytes=300_000, items=(
            item("srv/app/secret.key", 300_000, fix="RUN --mount=type=secret,id=key make", layer=1, other=2),
        )),
        Env=["PATH=" + "/a/long/path:" * 40], Labels={"x" * 120: "y" * 120},
    )
    hostile = report_of(
        (SCRIPT + IMAGE, [file(name, b"x" * 50) for name in HOSTILE]), ("RUN " + "<b>" * 33_000, [whiteout(HOSTILE[0])]),
        name=IMAGE + SCRIPT + CONTROL, Env=[SCRIPT, COMMENT], Labels={SCRIPT: IMAGE},
        waste=Waste(total_bytes=9, wasted_bytes=3, items=tuple(item(name, 1, fix=name) for name in (SCRIPT, IMAGE, CONTROL))),
    )
    empty = report_of(name="scratch:1")
    directory = workshop / "report"
    directory.mkdir(exist_ok=True)
    for name, report in (("shop", shop), ("hostile", hostile), ("empty", empty)):
        (directory / f"{name}.html").write_text(render(report), encoding="utf-8")
    return {name: (directory / f"{name}.html").as_uri() for name in ("shop", "hostile", "empty")}


@pytest.fixture(scope="module")
def chromium(workshop: Path) -> Iterator[Browser]:
    home = workshop / "chromium"
    home.mkdir()
    with browser(home) as opened:
        yield opened


@pytest.fixture
def show(chromium: Browser, pages: dict[str, str]) -> Open:
    """``show(name, size)`` opens a page; a phone has fingers."""

    def open_page(name: str = "shop", size: tuple[int, int] = DESKTOP, *, fragment: str = "", is_dark: bool = False) -> Browser:
        chromium.open(pages[name] + fragment, *size, is_dark=is_dark, is_phone=size != DESKTOP)
        return chromium

    return open_page


def texts(page: Browser, selector: str) -> list[str]:
    found = page.evaluate(f"[...document.querySelectorAll({selector!r})].map(each => each.textContent)")
    assert isinstance(found, list)
    return found


def labels(page: Browser) -> list[str]:
    found = page.evaluate("[...document.querySelectorAll('.tile')].map(each => each.getAttribute('aria-label'))")
    assert isinstance(found, list)
    return found


def pixels(png: bytes) -> list[tuple[int, int, int]]:
    """Of an 8-bit RGB or RGBA image without interlacing (PNG specification, sections 9 and 11)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack_from(">IIBB", png, 16)
    assert depth == 8
    step = {2: 3, 6: 4}[kind]
    data, position = b"", 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        if png[position + 4 : position + 8] == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += length + 12
    raw = zlib.decompress(data)
    above, found = bytearray(width * step), []
    for row in range(height):
        start = row * (width * step + 1)
        above = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width * step]), above, step)
        found += [(above[at], above[at + 1], above[at + 2]) for at in range(0, width * step, step * 7)]
    return found


def unfiltered(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    for at in range(len(line)) if kind else ():
        left, up, corner = line[at - step] if at >= step else 0, above[at], above[at - step] if at >= step else 0
        if kind == 4:
            near = [(abs(left + up - corner - each), order, each) for order, each in enumerate((left, up, corner))]
            guess = min(near)[2]
        else:
            guess = {1: left, 2: up, 3: (left + up) // 2}[kind]
        line[at] = (line[at] + guess) & 255
    return line


# -- it draws


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
@pytest.mark.parametrize("name", ["shop", "hostile", "empty"])
def test_it_opens_offline_and_fits(show: Open, name: str, size: tuple[int, int], is_dark: bool) -> None:
    page = show(name, size, is_dark=is_dark)
    assert page.evaluate("innerWidth") == size[0]
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("file:///") or not url.endswith(f"/{name}.html")] == []
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    wide = "[...document.querySelectorAll('main *')].filter(each => each.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{wide}.map(each => each.outerHTML.slice(0, 200))") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_map_is_drawn_by_the_script(show: Open) -> None:
    page = show()
    assert page.evaluate("document.querySelectorAll('.still').length") == 0
    assert len(labels(page)) > 100
    assert any(label.startswith("/usr/lib, ") and label.endswith(", directory") for label in labels(page))
    outside = """[...document.querySelectorAll('.tile')].filter(each => {
        const tile = each.getBoundingClientRect(), map = document.getElementById('map').getBoundingClientRect();
        return tile.left < map.left - 1 || tile.right > map.right + 1 || tile.bottom > map.bottom + 1;
    }).length"""
    assert page.evaluate(outside) == 0


def test_the_map_follows_the_window(show: Open) -> None:
    page = show()
    reach = """(() => { const tiles = [...document.querySelectorAll('.tile')].map(each => each.getBoundingClientRect());
        const map = document.getElementById('map').getBoundingClientRect();
        return [Math.max(...tiles.map(each => each.right)) - map.right, Math.max(...tiles.map(each => each.bottom)) - map.bottom];
    })()"""
    for width, height in (DESKTOP, (1280, 600), PHONE):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate(reach) == [pytest.approx(0, abs=3), pytest.approx(0, abs=3)]


def test_layers_are_to_scale(show: Open) -> None:
    page = show()
    widths = page.evaluate("[...document.querySelectorAll('.bar')].map(bar => [...bar.children].map("
                           "part => part.getBoundingClientRect().width))")
    sizes = page.evaluate("JSON.parse(document.getElementById('data').textContent).Layers.map("
                          "layer => [layer.Size, layer.ObscuredBytes])")
    unit = max(sum(bar) for bar in widths) / max(size for size, _ in sizes)
    for bar, (size, obscured) in zip(reversed(widths), sizes, strict=True):
        assert sum(bar) == pytest.approx(size * unit, abs=1)
        assert sum(bar[1:]) == pytest.approx(obscured * unit, abs=1)


def test_it_is_not_blank_and_dark_is_dark(show: Open) -> None:
    light, dark = (pixels(show("shop", PHONE, is_dark=is_dark).screenshot()) for is_dark in (False, True))
    for seen in (light, dark):
        assert len(set(seen)) > 50
    brightness = [statistics.mean(map(sum, seen)) / 3 for seen in (light, dark)]
    assert brightness[0] > 200
    assert brightness[1] < 70


def test_the_theme_can_be_chosen(show: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = show().evaluate(ground)
    page = show(fragment="#dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.evaluate("document.getElementById('theme').click()")
    assert (page.evaluate(ground), page.evaluate("location.hash")) == (light, "#light")
    assert show(is_dark=True).evaluate(ground) == dark
    assert texts(show(is_dark=True), "#theme") == ["Light"]


def test_without_javascript_all_but_the_map_is_there(show: Open, chromium: Browser) -> None:
    with chromium.without_scripts():
        page = show()
        seen = page.evaluate("document.body.innerText")
        assert page.evaluate("document.querySelectorAll('.tile').length") == 0
        assert page.evaluate("document.querySelector('.still').getBoundingClientRect().height") > 100
    for text in ("ADD base.tar /", "/srv/app/secret.key", "RUN --mount=type=secret,id=key make", "need JavaScript"):
        assert text in seen
    assert "Who put it there?" not in seen


# -- it answers


def test_by_keyboard(show: Open) -> None:
    page = show()
    page.evaluate("document.querySelector('.tile[tabindex=\"0\"]').focus()")
    here = "document.activeElement.getAttribute('aria-label')"
    first = page.evaluate(here)
    page.press("ArrowDown")
    assert page.evaluate(here) != first
    page.press("ArrowUp")
    page.evaluate("[...document.querySelectorAll('.tile')].find(each => each.ariaLabel.startsWith('/usr/lib,')).focus()")
    page.press("Enter")
    assert texts(page, "#crumbs button") == ["image", "usr", "lib"]
    assert all(label.startswith("/usr/lib/") for label in labels(page))
    assert page.evaluate("document.activeElement.className").startswith("tile"), "the keyboard stays in the map"
    page.press("Escape")
    page.press("Backspace")
    assert texts(page, "#crumbs button") == ["image"]


def test_by_finger(show: Open) -> None:
    page = show("shop", PHONE)
    place = page.evaluate("""(() => {
        const tile = [...document.querySelectorAll('.tile')].find(each => each.ariaLabel.startsWith('/usr,'));
        tile.scrollIntoView({ behavior: 'instant', block: 'start' });
        const box = tile.getBoundingClientRect();
        return [box.left + 20, box.top + 8];
    })()""")
    page.tap(*place)
    assert texts(page, "#crumbs button") == ["image", "usr"]
    assert texts(page, "#selected .path") == ["/usr"]


def test_a_layer_shows_its_files(show: Open) -> None:
    page = show()
    page.evaluate("document.querySelector('#layer-1 > summary').click()")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # toggle comes a little later
    assert texts(page, "#only") == ["Only layer 1 ×"]
    dimmed, others = (set(page.evaluate(f"[...document.querySelectorAll('.tile{kind}')].map(each => each.ariaLabel.slice(0, 4))"))
                      for kind in (".dim", ":not(.dim):not(.frame)"))
    assert "/usr" in dimmed
    assert others == {"/srv"}
    page.evaluate("document.getElementById('only').click()")
    assert page.evaluate("document.querySelectorAll('.tile.dim').length") == 0


def test_links_open_layers(show: Open) -> None:
    """Those within the page, and one that somebody sent."""
    opened = "[...document.querySelectorAll('details[open]')].map(each => each.id)"
    page = show()
    page.evaluate("document.querySelector('#obscured a').click()")
    assert page.evaluate(opened) == ["layer-1"]
    ask(page, "passwd")
    page.evaluate("document.querySelector('#found a').click()")
    assert page.evaluate(opened) == ["layer-2"]
    assert show(fragment="#layer-0").evaluate(opened) == ["layer-0"]


def test_by_type(show: Open) -> None:
    page = show()
    page.evaluate("document.querySelector('[data-colour=type]').click()")
    shown = {text.rstrip("0123456789.kMB") for text in texts(page, "#legend button")}
    assert {".so", ".pyc", "no extension"} <= shown


def ask(page: Browser, query: str) -> list[str]:
    page.evaluate(f"(() => {{ const field = document.getElementById('query'); field.value = {query!r}; "
                  "field.dispatchEvent(new Event('input')); })()")
    return texts(page, "#found li")


def test_who_put_it_there(show: Open) -> None:
    page = show()
    assert len(ask(page, "f1")) == 50
    (found,) = ask(page, "/etc/PASS")
    assert found.startswith("/etc/passwd 2Bfrom layer 2 by RUN make")
    assert found.endswith("hides layer 0's file, 4B, since layer 2")
    (gone,) = ask(page, "secret.key")
    assert gone.startswith("/srv/app/secret.key 300kB obscuredfrom layer 1 by COPY . /srv/app")
    assert "deleted by layer 2" in gone
    assert ask(page, "nowhere") == []
    assert texts(page, "#found .more") == ["Nothing in this page has that in its path."]


def test_an_answer_leads_into_the_map(show: Open) -> None:
    page = show()
    ask(page, "python3")
    page.evaluate("document.querySelector('#found button').click()")
    assert texts(page, "#crumbs button") == ["image", "usr", "lib", "python3"]


def test_a_fix_can_be_copied(show: Open) -> None:
    page = show()
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.evaluate("document.addEventListener('copy', event => { window.copied = String(getSelection()) || event.target.value; });"
                  "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); };"
                  "document.querySelector('.fix button').click()")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("window.copied") == "RUN --mount=type=secret,id=key make"
    assert texts(page, ".fix button") == ["Copied"]


# -- it is closed


def test_nothing_of_a_hostile_image_is_run(show: Open) -> None:
    page = show("hostile")
    for query in ("script", "img", "a\\x1b"):
        ask(page, query)
    page.evaluate("document.querySelectorAll('.tile').forEach(each => { each.focus(); each.click(); })")
    page.evaluate("document.querySelectorAll('[data-colour], summary').forEach(each => each.click())")
    assert page.evaluate("document.querySelectorAll('img, iframe, b b, script:not([id]):not(:last-of-type)').length") == 0
    assert page.evaluate("document.scripts.length") == 2
    assert [event for event in page.events if event.get("method") == "Page.javascriptDialogOpening"] == []
    assert page.problems == []


@pytest.mark.parametrize("attempt", [
    "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.harm = 1' }))",
    "document.body.append(Object.assign(document.createElement('img'), { src: 'file:///etc/hostname', onload: () => { window.harm = 1 } }))",
    "fetch('file:///etc/hostname').then(() => { window.harm = 1 }, () => 0)",
    "document.body.setAttribute('style', 'color: rgb(1, 2, 3)'), window.harm = getComputedStyle(document.body).color === 'rgb(1, 2, 3)' || undefined",
], ids=["script", "image", "request", "style"])
def test_the_policy_would_stop_it(show: Open, attempt: str) -> None:
    page = show()
    page.evaluate(f"(() => {{ {attempt} }})()")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("window.harm") is None
    assert any("Content Security Policy" in problem for problem in page.problems)
