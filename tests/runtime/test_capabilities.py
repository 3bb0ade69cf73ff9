"""Which capabilities a container gets."""

from __future__ import annotations

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.capabilities import ALL, DEFAULT, LAST, NUMBERS, chosen, last_known, mask, named


def test_numbers_are_the_kernels() -> None:
    assert [NUMBERS[f"CAP_{name}"] for name in ("CHOWN", "KILL", "SYS_ADMIN", "SETFCAP", "SYSLOG", "BPF")] == [
        0, 5, 21, 31, 34, 39,
    ]
    assert NUMBERS["CAP_CHECKPOINT_RESTORE"] == LAST == 40


def test_default_is_dockers_fourteen() -> None:
    assert len(DEFAULT) == 14
    assert f"{mask(DEFAULT):x}" == "a80425fb"  # what CapBnd says in any docker container


@pytest.mark.parametrize("spelling", ["sys_admin", "SYS_ADMIN", "CAP_SYS_ADMIN", "cap_Sys_Admin"])
def test_names_are_taken_in_any_spelling(spelling: str) -> None:
    assert set(chosen([spelling], [])) == {*DEFAULT, "CAP_SYS_ADMIN"}
    assert chosen(["ALL"], [spelling]) == tuple(name for name in ALL if name != "CAP_SYS_ADMIN")


def test_order_is_that_of_the_numbers() -> None:
    assert chosen(["WAKE_ALARM", "SYS_NICE", "CHOWN"], ["all"]) == ("CAP_CHOWN", "CAP_SYS_NICE", "CAP_WAKE_ALARM")


def test_dropping_all_leaves_what_is_added() -> None:
    assert chosen([], ["ALL"]) == ()
    assert chosen(["KILL"], ["ALL", "KILL"]) == ("CAP_KILL",)


def test_adding_all_leaves_out_what_is_dropped_by_name() -> None:
    assert "CAP_MKNOD" not in chosen(["ALL"], ["MKNOD"])
    assert chosen(["ALL"], ["ALL"]) == ALL


def test_added_beats_dropped() -> None:
    assert "CAP_CHOWN" in chosen(["CHOWN"], ["CHOWN"])


def test_privileged_has_everything_the_kernel_knows() -> None:
    assert chosen([], ["ALL"], privileged=True) == ALL
    assert chosen([], [], privileged=True, last=37)[-1] == "CAP_AUDIT_READ"


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(InvalidInput, match=r"--cap-add NET_ADMN: .*did you mean CAP_NET_ADMIN\?"):
        chosen(["NET_ADMN"], [])
    with pytest.raises(InvalidInput, match="--cap-drop banana"):
        chosen([], ["banana"], privileged=True)
    with pytest.raises(InvalidInput, match="this kernel does not know it"):
        chosen(["BPF"], [], last=37)


def test_masks_are_read_back() -> None:
    assert named(mask(DEFAULT)) == DEFAULT
    assert named(1 << 63) == ()
    with pytest.raises(InvalidInput, match="CAP_NONE"):
        mask(["CAP_NONE"])


def test_this_kernel_is_asked() -> None:
    assert 37 <= last_known() <= LAST
    assert last_known("/nonexistent") == LAST
