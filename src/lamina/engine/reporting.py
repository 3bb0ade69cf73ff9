"""The report about an image: its layers, files and waste gathered, and the page that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine import explain, images
from lamina.engine.borrowing import borrowed
from lamina.engine.contents import Contents
from lamina.insight import page
from lamina.insight.report import ReportData, make_report
from lamina.insight.waste import find_waste
from lamina.oci.descriptor import Platform

if TYPE_CHECKING:
    from lamina.engine.core import Core


def report_data(engine: Core, name: str, *, platform: Platform | None = None) -> ReportData:
    with borrowed(engine, name, platform) as record:
        image = images.load_record(engine, record)
        tree = explain.open_tree(engine, image)
        with Contents(engine, image) as contents:
            waste = find_waste(image, tree, contents.open)
        shared_with = explain.sharing(engine, image)
        return make_report(image, tree, waste, name=name, shared_with=shared_with)


def report_page(engine: Core, name: str, *, platform: Platform | None = None) -> str:
    return page.render(report_data(engine, name, platform=platform))
