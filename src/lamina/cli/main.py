"""The console script: as little as possible between the shell and the answer.

Python itself takes 10 ms to start and argparse, typing and dataclasses as much again each, so what is
not needed for every command is imported behind a function. ``docs/performance.md`` has the figures.
"""

from __future__ import annotations

import gc
import os
import sys

from lamina.cli import failures, quick


def run() -> None:
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _open_closed_streams()
    code = answer(sys.argv[1:])
    _settle_output()
    # All that is to be cleaned up has been by now, and taking the interpreter apart costs 10 ms. Besides,
    # CPython ends itself by SIGINT, whatever it was told, if an interrupt came while a class was being made
    # (run_eval_code_obj in pythonrun.c).
    os._exit(code)


def answer(words: list[str]) -> int:
    """Carries out one command line; gives the exit code."""
    # Looked for every 700 objects, cycles that are none cost 5 % of a short command.
    gc.set_threshold(20_000)
    text = quick.answer(words, os.environ)
    return _run(words) if text is None else _print(text)


def _run(words: list[str]) -> int:
    try:
        from lamina.cli.dispatch import main
        from lamina.cli.session import Session
    except KeyboardInterrupt:
        sys.stderr.write("\nlamina: interrupted\n")
        return failures.INTERRUPTED
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
    """What could not be written has been complained of, or was the complaint."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue
