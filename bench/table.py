"""Turns the results of bench.pull into Markdown: ratios to the best peer, and the targets beside them.

    python -m bench.table pull.json
    python -m bench.table pull.json --into docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Trial = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    values: Callable[[Trial], list[float]]
    show: Callable[[float], str]


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"


COLD = Column("cold pull", lambda trial: [trial["cold"]["wall"]], _seconds)
ON_DISK = Column("until on disk", lambda trial: [trial["cold"]["wall"] + trial["settle"]], _seconds)
CPU = Column("CPU", lambda trial: [trial["cold"]["cpu"]], _seconds)
MEMORY = Column("peak memory", lambda trial: [trial["cold"]["peak_private"]], _megabytes)
DISK = Column("disk", lambda trial: [trial["disk"]], _megabytes)
AGAIN = Column("second pull", lambda trial: [one["wall"] for one in trial["again"]], _seconds)
SIBLING = Column("sibling", lambda trial: [trial["sibling"]["wall"]], _seconds)
COLUMNS = (COLD, ON_DISK, CPU, MEMORY, DISK, AGAIN, SIBLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`subject` divided by `peer` in `column` is to be at most `limit`; without a peer, by the best one."""

    images: tuple[str, ...]
    subject: str
    column: Column
    limit: float
    peer: str | None = None


TARGETS = (
    Target(images=("big", "zstd"), subject="lamina erofs", column=COLD, limit=0.5),
    Target(images=("small",), subject="lamina erofs", column=COLD, limit=0.35),
    Target(images=("big",), subject="lamina overlay2", column=COLD, limit=0.6, peer="containerd"),
    Target(images=("big",), subject="lamina erofs", column=AGAIN, limit=1.0, peer="podman"),
    Target(images=("big",), subject="lamina erofs", column=SIBLING, limit=0.5, peer="podman"),
)
_MEMORY_LIMIT = 150e6


class _Figures:
    """The medians of one image's run."""

    def __init__(self, engines: Mapping[str, Mapping[str, Any]]) -> None:
        self.done = {name: rows["trials"] for name, rows in engines.items() if rows["trials"]}
        self.failed = {name: rows["error"] for name, rows in engines.items() if "error" in rows}

    def value(self, engine: str, column: Column) -> float:
        return median(value for trial in self.done[engine] for value in column.values(trial))

    def best_peer(self, column: Column) -> str | None:
        peers = [name for name in self.done if not name.startswith("lamina")]
        return min(peers, key=lambda name: self.value(name, column), default=None)

    def ratio(self, engine: str, column: Column, peer: str | None = None) -> float | None:
        """None where one of both was not measured."""
        peer = peer or self.best_peer(column)
        if engine not in self.done or peer is None or peer not in self.done:
            return None
        return self.value(engine, column) / self.value(peer, column)

    def cell(self, engine: str, column: Column) -> str:
        shown, ratio = column.show(self.value(engine, column)), self.ratio(engine, column)
        return shown if ratio is None else f"{ratio:.2f} ({shown})"


def markdown(document: Mapping[str, Any]) -> str:
    """Every image's table; ratios to the best peer of each column, medians in parentheses."""
    parts = [_conditions(document)]
    for name, results in document["images"].items():
        figures = _Figures(results["engines"])
        parts += [_caption(name, results["image"]), "\n".join(_table(figures))]
        targets = list(_targets(name, figures))
        if targets:
            parts.append("\n".join(["| target | at most | measured |", "| --- | --- | --- |", *targets]))
        parts += [f"{engine} failed: {_reason(error)}" for engine, error in figures.failed.items()]
    return "\n\n".join(parts) + "\n"


def _conditions(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    versions = [f"{name}: {version}" for name, version in document["engines"].items()]
    place = f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    python = f"lamina under Python {machine['python']}"
    rounds = "one round" if document["rounds"] == 1 else f"medians of {document['rounds']} rounds"
    how = f"each pull onto a new ext4 in a file on {machine['below']}, {rounds}"
    return f"{place}, {python}; {how}.\n\n{'; '.join(versions)}."


def give_out(
    options: argparse.Namespace, name: str, block: str, document: Mapping[str, Any] | None = None
) -> None:
    """Prints a table, and writes it and all figures to where ``--into`` and ``--output`` say."""
    if document is not None and options.output:
        options.output.write_text(json.dumps(document, indent=1))
    if options.into:
        options.into.write_text(put_between(options.into.read_text(), name, block))
    print(block)


def put_between(text: str, name: str, block: str) -> str:
    """`text` with `block` in the place of what stands between its two comments called `name`."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"no place for the results: {begin} ... {end} is missing")
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}"


def _reason(error: str) -> str:
    """The last line of the output that begins one, for what is indented is a trace or a note."""
    lines = [line for line in error.splitlines()[1:] if line.strip()] or error.splitlines()
    begun = [line for line in lines if not line[0].isspace()] or lines
    return begun[-1].strip()


def _caption(name: str, image: Mapping[str, Any]) -> str:
    sizes = f"{_megabytes(image['compressed'])} compressed, {_megabytes(image['uncompressed'])} as tars"
    return f"**{name}**: {image['layers']} layers, {sizes}, {image['entries']:,} entries"


def _table(figures: _Figures) -> Iterator[str]:
    yield "| engine | " + " | ".join(column.title for column in COLUMNS) + " |"
    yield "| --- " * (len(COLUMNS) + 1) + "|"
    for engine in figures.done:
        yield f"| {engine} | " + " | ".join(figures.cell(engine, column) for column in COLUMNS) + " |"


def _targets(name: str, figures: _Figures) -> Iterator[str]:
    for target in TARGETS:
        ratio = figures.ratio(target.subject, target.column, target.peer)
        if name in target.images and ratio is not None:
            peer = target.peer or f"the best peer ({figures.best_peer(target.column)})"
            verdict = "met" if ratio <= target.limit else "missed"
            what = f"{target.subject}, {target.column.title} / {peer}"
            yield f"| {what} | {target.limit:.2f} | {ratio:.2f}, {verdict} |"
    for engine in figures.done:
        if engine.startswith("lamina"):
            peak = figures.value(engine, MEMORY)
            verdict = "met" if peak <= _MEMORY_LIMIT else "missed"
            shown = f"{_megabytes(_MEMORY_LIMIT)} | {_megabytes(peak)}"
            yield f"| {engine}, peak memory | {shown}, {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    options = parser.parse_args()
    block = markdown(json.loads(options.results.read_text()))
    if options.into:
        options.into.write_text(put_between(options.into.read_text(), "pull", block))
    else:
        print(block)


if __name__ == "__main__":
    main()
