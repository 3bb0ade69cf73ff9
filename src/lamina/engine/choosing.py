"""Opening the storage driver that is to be used."""

from __future__ import annotations

from pathlib import Path

from lamina.content.state import State
from lamina.engine.settings import Settings
from lamina.events import Action, Event, Report
from lamina.snapshot.choice import read_choice
from lamina.snapshot.drivers import read_options
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.probing import choose
from lamina.snapshot.snapshotter import Snapshotter, TellsProblems


def open_chosen(
    root: Path, state: State, layers: LayerStore, settings: Settings, report: Report
) -> Snapshotter:
    """The driver that the settings ask for, or that is in use, or the best; the caller closes it."""
    is_new = read_choice(root) is None
    driver = choose(
        root, state, layers, wanted=settings.storage_driver or None,
        options=read_options(settings.storage_opts),
    )
    if is_new and isinstance(driver, TellsProblems) and driver.caution:
        report(Event(action=Action.NOTE, subject=driver.name, detail=driver.caution))
    return driver
