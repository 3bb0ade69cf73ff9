"""The console script: as little as possible between the shell and the answer.

Python itself takes 10 ms to start and argparse, typing and dataclasses as much again each, so what is
not needed for every command is imported behind a function. ``docs/performance.md`` has the figures.
"""

from __future__ import annotations

import os
import sys

from lamina.cli import failures, quick


def run() -> None:
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_closed_streams()
    words = sys.argv[1:]
    text = quick.answer(words, os.environ)
    code = _run(words) if text is None else _print(text)
    _settle_output()
    if code == failures.INTERRUPTED:
        # CPython ends itself by SIGINT, whatever it was told, if the interrupt came while a dataclass was
        # being made (run_eval_code_obj in pythonrun.c). All that is to be cleaned up has been by now.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(words: list[str]) -> int:
    from lamina.cli.dispatch import main
    from lamina.cli.session import Session

    return main(words, Session.of_process())


def _print(text: str) -> int:
    """Answers for standard output as the long way does."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return failures.CLOSED_OUTPUT
    except OSError as error:
        error.filename = "standard output"
        sys.stderr.write(f"lamina: {failures.explain(error)[0]}\n")
        return 1
    return 0


def _open_closed_streams() -> None:
    """After ``>&-`` the next file to be opened would be standard output. Lowest first, so that each gets
    its number; what nobody can read is answered with an error, as a full disk is."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


def _settle_output() -> None:
    """Python flushes standard output once more at the end, and would complain again of what failed before."""
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
