"""History lines as people wrote them: the Dockerfile instruction behind what a builder recorded."""

from __future__ import annotations

import re

from lamina.oci.config import History
from lamina.oci.descriptor import Descriptor

# What a build of ours writes on each layer's descriptor: the Dockerfile, its lines (``3`` or ``3-5``), the
# instruction, the base's manifest digest, and the names of the arguments that it could see.
BUILD = "io.lamina.build."
DOCKERFILE, LINES, INSTRUCTION, BASE, ARGUMENTS = (
    f"{BUILD}{name}" for name in ("dockerfile", "lines", "instruction", "base", "arguments")
)

# The classic builder put instructions that run nothing behind a shell comment.
_NOP = re.compile(r"^/bin/sh -c #\(nop\)\s*")
# Build arguments that a RUN saw, counted: "|2 A=b C=d /bin/sh -c ...". Values may hold spaces.
_ARGUMENTS = re.compile(r"^\|\d+.*?(?=\s(?:/\S*/)?(?:ba|a|da|k|z)?sh -)", re.DOTALL)
# The default shell, or one that SHELL set: "/bin/bash -o pipefail -c".
_SHELL = re.compile(r"^\s*(?:/\S*/)?(?:ba|a|da|k|z)?sh(?: -[a-z]*o \w+| -[abd-z]+)* -[a-z]*c\s+")
_WINDOWS_SHELL = re.compile(r"^(?:cmd /S /C|powershell -Command)\s+", re.IGNORECASE)
_BUILDKIT = "# buildkit"
_BLANKS = re.compile(r"[ \t]{2,}|\t")


def instruction_of(line: History | None) -> str:
    """``RUN …``, ``COPY …`` and so on; the comment where there is no instruction; ``""`` for silence."""
    if line is None:
        return ""
    return clean(line.created_by) or line.comment.strip()


def place_of(layer: Descriptor) -> str:
    """``Dockerfile:3-5``, where a build of ours says so; else empty."""
    notes = layer.annotations
    return f"{notes[DOCKERFILE]}:{notes[LINES]}" if DOCKERFILE in notes and LINES in notes else ""


def clean(created_by: str) -> str:
    text = created_by.strip().removesuffix(_BUILDKIT).rstrip()
    bare = _NOP.sub("", text)
    if bare != text:
        return _spaced(bare)
    prefix, run = ("", text) if not text.startswith("RUN ") else ("RUN ", text[4:])
    command = _ARGUMENTS.sub("", run)
    for shell in (_SHELL, _WINDOWS_SHELL):
        stripped = shell.sub("", command)
        if stripped != command:
            return _spaced(f"RUN {stripped}")
    return _spaced(prefix + command)


def _spaced(text: str) -> str:
    """Line continuations arrive as long runs of blanks."""
    return _BLANKS.sub(" ", text).strip()
