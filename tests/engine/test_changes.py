"""``import --change``: what each instruction does to a config, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.engine.changes import apply_changes
from lamina.engine.durations import parse_duration
from lamina.errors import InvalidInput


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        (['CMD ["a", "b"]'], {"Cmd": ["a", "b"]}),
        (["CMD a b"], {"Cmd": ["/bin/sh", "-c", "a b"]}),
        (['CMD ["a", 1]'], {"Cmd": ["/bin/sh", "-c", '["a", 1]']}),
        (["entrypoint ['x'"], {"Entrypoint": ["/bin/sh", "-c", "['x'"]}),
        (["ENV A=1 B='two words'", "ENV A=3"], {"Env": ["A=3", "B=two words"]}),
        (["ENV A one two"], {"Env": ["A=one two"]}),
        (['LABEL a="b c" d=e'], {"Labels": {"a": "b c", "d": "e"}}),
        (["EXPOSE 80 53/udp"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["VOLUME /data /more"], {"Volumes": {"/data": {}, "/more": {}}}),
        (['VOLUME ["/a b"]'], {"Volumes": {"/a b": {}}}),
        (["USER 1000", "WORKDIR /w", "STOPSIGNAL SIGINT"],
         {"User": "1000", "WorkingDir": "/w", "StopSignal": "SIGINT"}),
        (["ONBUILD RUN x", "ONBUILD RUN y"], {"OnBuild": ["RUN x", "RUN y"]}),
    ],
)
def test_instructions(changes: list[str], config: dict[str, Any]) -> None:
    assert apply_changes({}, changes) == config


@pytest.mark.parametrize(
    ("change", "why"),
    [("RUN x", "cannot be changed here"), ("", "an empty line"), ("CMD", "needs a value"),
     ("EXPOSE http", "not a port"), ("ENV A='x", "No closing quotation"), ("LABEL a=b c", "expected NAME=value"),
     ("LABEL =x", "expected NAME=value")],
)
def test_refusals_name_the_line(change: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        apply_changes({}, [change])


def test_the_given_config_is_not_changed() -> None:
    given: dict[str, Any] = {"Env": ["A=1"]}
    assert apply_changes(given, ["ENV B=2"]) == {"Env": ["A=1", "B=2"]}
    assert given == {"Env": ["A=1"]}


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400.0), ("1h30m", 5400.0), ("10s", 10.0), ("2d", 172800.0), ("500ms", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "10", "1y", "1h 2m", "-1h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a duration"):
        parse_duration(text)
