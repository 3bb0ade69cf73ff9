"""How the time of a squash grows with the number of entries: linear is the aim.

    python -m bench.growth --into docs/performance.md

Two layers of small files, the upper of which replaces half of the lower one's and removes a tenth of them.
Indexes are ready, as they are after a pull; what is timed is deciding and writing, in CPU seconds of this
process, the least of several rounds. Nothing is written to a disk.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from bench.table import give_out
from lamina.layer.entry import WHITEOUT_PREFIX, Entry, Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.squash import merge, write_merged
from lamina.layer.tarstream import TarReader, write_entries
from lamina.oci.digest import Digest

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
_IN_A_DIRECTORY = 100


def _path(number: int) -> str:
    return f"d{number // _IN_A_DIRECTORY}/file-{number}"


def _layer(numbers: Sequence[int], gone: Sequence[int], data: bytes) -> Iterator[Entry]:
    listed = set()
    for number in sorted({*numbers, *gone}):
        directory = f"d{number // _IN_A_DIRECTORY}"
        if directory not in listed:
            listed.add(directory)
            yield Entry(path=directory, kind=Kind.DIRECTORY, mode=0o755)
    for number in numbers:
        yield Entry(path=_path(number), size=len(data), open=lambda: io.BytesIO(data))
    for number in gone:
        parent, _, name = _path(number).rpartition("/")
        yield Entry(path=f"{parent}/{WHITEOUT_PREFIX}{name}", mode=0o600)


def _tar_of(entries: Iterator[Entry]) -> bytes:
    out = io.BytesIO()
    write_entries(entries, out)
    return out.getvalue()


def _index_of(tar: bytes) -> bytes:
    out = io.BytesIO()
    builder = IndexBuilder(out)
    reader = TarReader(io.BytesIO(tar), skeleton=builder.skeleton)
    for entry in reader:
        builder.add(entry)
    builder.finish(Digest.of(tar), reader.position)
    return out.getvalue()


class _Nowhere:
    def write(self, _chunk: bytes | memoryview) -> None:
        pass


def measure(entries: int, rounds: int) -> tuple[int, float]:
    """How many entries the two layers have, and CPU seconds to make one of them."""
    lower = entries * 2 // 3
    numbers = range(lower)
    tars = [_tar_of(_layer(numbers, (), b"a" * 64)),
            _tar_of(_layer(numbers[::2], numbers[1::10], b"b" * 64))]
    indexes = [_index_of(tar) for tar in tars]
    best, count = float("inf"), 0
    for _ in range(rounds):
        fresh = [LayerIndex.from_bytes(index) for index in indexes]  # which remember nothing yet
        count = sum(map(len, fresh))
        start = time.process_time()
        write_merged(merge(fresh, 0, 1), lambda number: closing(io.BytesIO(tars[number])), _Nowhere())
        best = min(best, time.process_time() - start)
    return count, best


def markdown(rows: Sequence[tuple[int, float]]) -> str:
    lines = ["| entries | CPU | an entry |", "| --- | --- | --- |"]
    lines += [f"| {count:,} | {seconds:.3f} s | {seconds / count * 1e6:.1f} µs |" for count, seconds in rows]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    options = parser.parse_args()
    rows = []
    for size in SIZES:
        rows.append(measure(size, options.rounds))
        print(f"{size:,}: {rows[-1][1]:.3f} s", file=sys.stderr, flush=True)
    give_out(options, "growth", markdown(rows))


if __name__ == "__main__":
    main()
