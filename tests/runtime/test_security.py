"""--security-opt, with docker's two spellings."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.security import Security, parse_security


@pytest.mark.parametrize(("texts", "expected"), [
    ([], {}),
    (["no-new-privileges"], {"has_no_new_privileges": True}),
    (["no-new-privileges=true"], {"has_no_new_privileges": True}),
    (["no-new-privileges:true"], {"has_no_new_privileges": True}),
    (["no-new-privileges", "no-new-privileges=false"], {}),
    (["seccomp=unconfined"], {"seccomp": "unconfined"}),
    (["seccomp:unconfined"], {"seccomp": "unconfined"}),
    (["seccomp=/a=b:c.json"], {"seccomp": "/a=b:c.json"}),
    (["seccomp=unconfined", "seccomp=default"], {}),
    (["seccomp=builtin"], {}),
    (["systempaths=unconfined"], {"shows_system_paths": True}),
    (["apparmor=unconfined", "label=disable"], {}),
])
def test_options(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_security(texts) == Security(**expected)


def test_what_makes_no_difference_here_is_said() -> None:
    found = parse_security(["apparmor=docker-default", "label=type:svirt_t"])
    assert [note.partition(": ")[0] for note in found.notes] == [
        "--security-opt apparmor=docker-default", "--security-opt label=type:svirt_t",
    ]


def test_privileged_is_unconfined_unless_a_profile_is_named() -> None:
    assert parse_security([], is_privileged=True) == Security(seccomp="unconfined", shows_system_paths=True)
    assert parse_security(["seccomp=/p.json"], is_privileged=True).seccomp == "/p.json"


@pytest.mark.parametrize("text", [
    "", "seccomp", "seccomp=", "no-new-privileges=maybe", "systempaths=all", "systempaths", "label", "apparmor=", "proc-opts=x",
])
def test_options_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--security-opt: "):
        parse_security([text])
