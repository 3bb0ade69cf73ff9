"""What every storage driver must do: cases for any :class:`~lamina.snapshot.snapshotter.Snapshotter`.

Made for third parties as much as for us. From a shell, on a scratch directory::

    python -m lamina.testing.conformance overlay2 --root /var/tmp/try        # all cases, one line each
    python -m lamina.testing.conformance mydriver --case commit_is_final     # an installed entry point

An ordinary user's run enters a user namespace first; as root it runs in a mount namespace of its own, so
nothing stays mounted. From Python: :func:`run_case`, or each of :data:`CASES` with a fresh
:class:`~lamina.testing.bench.Bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from lamina.oci.digest import Digest
from lamina.snapshot import syscalls
from lamina.snapshot.layers import Wanted
from lamina.snapshot.namespace import enter_user_namespace
from lamina.snapshot.probing import settled_identity
from lamina.snapshot.receive import receive_layer
from lamina.snapshot.trees import remove_tree
from lamina.testing.bench import CASES, Bench
from lamina.testing.cases import arrivals, layers, snapshots

# Importing a module of cases puts them into CASES.
MODULES = (snapshots, layers, arrivals)


def run_case(
    name: str, driver: str, parent: Path, *, may_mount: bool = True, options: Sequence[str] = ()
) -> str:
    """On a fresh directory below ``parent``; the empty text, or what went wrong."""
    root = Path(tempfile.mkdtemp(prefix=f"{name[:40]}-", dir=parent)) / "state"
    bench = None
    try:
        bench = Bench(driver, root, may_mount=may_mount, options=options)
        CASES[name](bench)
    except BaseException:
        return traceback.format_exc()
    finally:
        if bench is not None:
            bench.close()
        remove_tree(root.parent)
    return ""


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lamina.testing.conformance", description=__doc__)
    parser.add_argument("driver")
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--case", action="append", choices=sorted(CASES), metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one object a case")
    parser.add_argument("--no-mounts", action="store_true", help="as if nothing could be mounted")
    parser.add_argument("--storage-opt", action="append", default=[], metavar="DRIVER.NAME=VALUE")
    parser.add_argument("--receive", type=Digest.parse, help=argparse.SUPPRESS)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.receive is not None:
        return _receive(chosen.driver, chosen.root, chosen.receive)
    if not chosen.no_mounts:
        _go_inside()
    failed = 0
    for name in chosen.case or CASES:
        started = time.monotonic()
        problem = run_case(
            name, chosen.driver, chosen.root, may_mount=not chosen.no_mounts, options=chosen.storage_opt
        )
        failed += bool(problem)
        _show(name, problem, time.monotonic() - started, as_json=chosen.json)
    return 1 if failed else 0


def _receive(driver: str, root: Path, diff_id: Digest) -> int:
    bench = Bench(driver, root)
    wanted = Wanted(diff_id=diff_id, reception=bench.driver.reception)
    receive_layer(bench.layers, sys.stdin.buffer, wanted)
    bench.close()
    return 0


def _go_inside() -> None:
    """Where mounts go away with us."""
    identity = settled_identity()
    if not identity.is_entered:
        if identity.may_mount:
            enter_user_namespace(identity)
    elif identity.may_mount:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def _show(name: str, problem: str, seconds: float, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"case": name, "problem": problem, "seconds": round(seconds, 3)})
    else:
        line = f"{'FAILED' if problem else 'ok':6}  {name}  ({seconds:.2f} s)\n{problem}".rstrip()
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
