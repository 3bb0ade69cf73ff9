"""``python -m lamina``."""

from __future__ import annotations

from lamina.cli.main import run

run()
