"""Modes in letters: chmod(1) of this machine says what they mean."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.build.mode import parse_mode
from lamina.errors import InvalidInput

ACTIONS = st.tuples(
    st.text("ugoa", max_size=3), st.sampled_from("+-="), st.text("rwxX", max_size=3) | st.sampled_from("ugo")
).map("".join)


def chmod(place: Path, mode: int, text: str) -> int:
    place.chmod(mode)
    subprocess.run(["chmod", "--", text, place], check=True, umask=0o022, capture_output=True)
    return place.stat().st_mode & 0o7777


@pytest.mark.parametrize("text", [
    "755", "0", "04755", "+x", "+w", "-w", "u=rwX,go=rX", "a-w", "u+s", "g+s", "ug-s", "+t", "-t", "o+t", "u=g", "go=u-w",
    "u+x,g=u,o=", "a=rx", "ugo+rwx", "=rw", "+X", "u=,+X", "a+rX,u+w", "o=t", "u=s",
])
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o4711, 0o2070, 0o1777, 0o000])
def test_letters_mean_what_chmod_says(tmp_path: Path, text: str, mode: int) -> None:
    file, directory = tmp_path / "f", tmp_path / "d"
    file.touch()
    directory.mkdir()
    assert f"{parse_mode(text)(mode, False):04o}" == f"{chmod(file, mode, text):04o}"
    if text.strip("01234567"):  # chmod(1) spares set-id bits of directories from numbers: a layer says them itself
        assert f"{parse_mode(text)(mode, True):04o}" == f"{chmod(directory, mode, text):04o}"


@settings(max_examples=60)
@given(actions=st.lists(ACTIONS, min_size=1, max_size=3), mode=st.integers(0, 0o777), is_directory=st.booleans())
def test_any_letters_mean_what_chmod_says(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str], mode: int, is_directory: bool
) -> None:
    place = tmp_path_factory.mktemp("m") / "x"
    place.mkdir() if is_directory else place.touch()
    text = ",".join(actions)
    assert parse_mode(text)(mode, is_directory) == chmod(place, mode, text)


@pytest.mark.parametrize("text", ["", "8", "10000", "0000755555", "rubbish", "x", "u", "u+rwz", "u+x,", ",", "u+gr", "+x "])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--chmod: expected a mode"):
        parse_mode(text)
