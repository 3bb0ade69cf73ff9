"""What to change in a Dockerfile so that bytes are not stored for nothing, one line for each kind."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.layer.entry import Entry

_COPIES = ("COPY", "ADD")


def for_replaced(layer: int, instruction: str, other: int, other_instruction: str) -> str:
    verb = _verb(instruction)
    if layer == other:
        return f"pack layer {layer} again: it lists this path twice"
    if verb in _COPIES:
        return f"leave it out of layer {layer}'s {verb} (.dockerignore), or {verb} its last version at once"
    if verb == "RUN" and _verb(other_instruction) == "RUN":
        return f"write its last version at once: join the RUN of layers {layer} and {other} with &&"
    return f"write its last version in layer {layer}"


def for_deleted(layer: int, instruction: str, other: int) -> str:
    verb = _verb(instruction)
    if layer == other:
        return f"pack layer {layer} again: it lists this path twice"
    if verb in _COPIES:
        return f"leave it out of layer {layer}'s {verb} (.dockerignore), or use RUN --mount=type=bind"
    if verb == "RUN":
        return f"remove it in the RUN that made it (layer {layer})"
    return f"remove it where it is made, in layer {layer}"


def for_metadata(
    layer: int, instruction: str, other: int, other_instruction: str, changed: Sequence[str], now: Entry
) -> str:
    """``now`` is the entry with the attributes that the file ended up with."""
    verb, again = _verb(instruction), _verb(other_instruction)
    if again in _COPIES:
        return f"leave it out of layer {other}'s {again} (.dockerignore, --exclude): layer {layer} has it"
    owner, mode = f"{now.uid}:{now.gid}", f"{now.mode:o}"
    if verb in _COPIES and {"mode", "owner"} & set(changed):
        flags = [f"--chown={owner}"] if "owner" in changed else []
        flags += [f"--chmod={mode}"] if "mode" in changed else []
        return f"{verb} {' '.join(flags)} in layer {layer}"
    commands = [f"chown {owner}"] if "owner" in changed else []
    commands += [f"chmod {mode}"] if "mode" in changed else []
    commands += ["set its xattrs (setcap)"] if "xattrs" in changed else []
    if commands:
        return f"{' and '.join(commands)} in the instruction of layer {layer}"
    return f"do not touch it again in layer {other}"


def for_moved(layer: int, instruction: str) -> str:
    verb = _verb(instruction)
    if verb in _COPIES:
        return f"{verb} it to its last place at once (layer {layer})"
    return f"move it in the instruction that made it (layer {layer})"


def for_duplicate(first: int) -> str:
    return f"make it a link to the copy of layer {first} (ln -s)"


def for_marker(layer: int) -> str:
    return f"pack layer {layer} again: what removes files needs no content"


def _verb(instruction: str) -> str:
    """``RUN``, ``COPY``, ``ADD``, or whatever word the history line begins with."""
    return instruction.partition(" ")[0].upper()
