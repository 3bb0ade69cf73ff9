"""Instructions that touch no file: what each makes of an image's ``config`` object, and what history says.

Field names and shapes are docker's (image-spec config.md, "Properties"). Everything is already expanded.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from lamina.build.instruction import (
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.errors import InvalidInput

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def configured(
    config: Mapping[str, Any], instruction: Instruction, *, is_command_own: bool = False
) -> dict[str, Any]:
    """``is_command_own``: this stage set the command, so an ENTRYPOINT leaves it."""
    found = dict(config)
    match instruction:
        case Env(pairs=pairs):
            found["Env"] = listed({**environment(config), **dict(pairs)})
        case Label(pairs=pairs):
            found["Labels"] = {**(config.get("Labels") or {}), **dict(pairs)}
        case Cmd(command=command):
            found["Cmd"] = argv(command, config)
        case Entrypoint(command=command):
            found["Entrypoint"] = argv(command, config)
            if not is_command_own:
                found.pop("Cmd", None)
        case Shell(argv=words):
            found["Shell"] = list(words)
        case User(value=value):
            found["User"] = value
        case Workdir(value=value):
            found["WorkingDir"] = directory(config, value)
        case StopSignal(value=value):
            found["StopSignal"] = _signal(value)
        case Expose(ports=ports):
            found["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **_ports(ports)}
        case Volume(paths=paths):
            found["Volumes"] = {**(config.get("Volumes") or {}), **_volumes(paths)}
        case Healthcheck():
            found["Healthcheck"] = _health(instruction)
        case OnBuild(trigger=trigger):
            found["OnBuild"] = [*(config.get("OnBuild") or []), trigger]
        case Maintainer():
            pass  # the config's author, which is not of this object
        case _:
            raise AssertionError(f"{type(instruction).__name__} touches files")
    return found


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in config.get("Env") or [])


def with_path(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage begins with: a base that says nothing of PATH has docker's, for commands and for good."""
    if "PATH" in environment(config):
        return dict(config)
    return {**config, "Env": [*(config.get("Env") or []), f"PATH={DEFAULT_PATH}"]}


def listed(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def shell(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(config.get("Shell") or DEFAULT_SHELL)


def argv(command: Command, config: Mapping[str, Any]) -> list[str]:
    return [*shell(config), *command.argv] if command.is_shell else list(command.argv)


def directory(config: Mapping[str, Any], path: str) -> str:
    """Absolute: relative ones begin at the WORKDIR so far."""
    return posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path)).replace("//", "/")


def _signal(text: str) -> str:
    from lamina.runtime.signals import parse_signal  # noqa: PLC0415 - few images have any

    parse_signal(text)
    return text


def _ports(texts: Sequence[str]) -> dict[str, Any]:
    from lamina.runtime.network.ports import parse_exposed  # noqa: PLC0415 - as above

    return {port: {} for text in texts for port in parse_exposed(text)}


def _volumes(paths: Sequence[str]) -> dict[str, Any]:
    if not all(path.strip() for path in paths):
        raise InvalidInput("VOLUME: an empty path")
    return {path: {} for path in paths}


def _health(check: Healthcheck) -> dict[str, Any]:
    if check.is_disabled or check.command is None:
        return {"Test": ["NONE"]}
    kind = "CMD-SHELL" if check.command.is_shell else "CMD"
    times = {
        "Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period,
        "StartInterval": check.start_interval, "Retries": check.retries,
    }
    given = {name: value for name, value in times.items() if value}
    return {"Test": [kind, *check.command.argv], **given}


# -- history


def told(instruction: Instruction, config: Mapping[str, Any]) -> str:
    """The line of history: the instruction with what it was given, as a Dockerfile would have it."""
    match instruction:
        case Env(pairs=pairs) | Label(pairs=pairs):
            return f"{_word(instruction)} " + " ".join(f"{name}={_quoted(value)}" for name, value in pairs)
        case Cmd(command=command) | Entrypoint(command=command):
            return f"{_word(instruction)} {_array(argv(command, config))}"
        case Shell(argv=words):
            return f"SHELL {_array(words)}"
        case Expose(ports=ports):
            return f"EXPOSE {' '.join(ports)}"
        case Volume(paths=paths):
            return f"VOLUME {_array(paths)}"
        case Workdir():
            return f"WORKDIR {directory(config, instruction.value)}"
        case User(value=value) | StopSignal(value=value) | Maintainer(value=value):
            return f"{_word(instruction)} {value}"
        case OnBuild(trigger=trigger):
            return f"ONBUILD {trigger}"
    return instruction.original


def told_run(words: Sequence[str], arguments: Mapping[str, str]) -> str:
    """``RUN |1 A=b /bin/sh -c …``: docker's way to say which arguments a command saw."""
    seen = [f"{name}={value}" for name, value in arguments.items()]
    counted = [f"|{len(seen)}", *seen] if seen else []
    return " ".join(("RUN", *counted, *words))


def _word(instruction: Instruction) -> str:
    return type(instruction).__name__.upper()


def _array(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)


def _quoted(value: str) -> str:
    """Quotes where the value would not be one word without."""
    if value and not any(one.isspace() or one in "\"'$\\" for one in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
