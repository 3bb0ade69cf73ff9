"""Tables with docker's widths."""

from __future__ import annotations

from lamina.cli.table import render


def test_cells_are_as_wide_as_the_longest_and_three_spaces() -> None:
    assert render([
        ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"),
        ("redis", "latest", "dad9b1a4b5f4", "2 weeks ago", "117MB"),
        ("registry.example.com/team/app", "7", "0123456789ab", "About an hour ago", "1.2GB"),
    ]) == [
        "REPOSITORY                      TAG       IMAGE ID       CREATED             SIZE",
        "redis                           latest    dad9b1a4b5f4   2 weeks ago         117MB",
        "registry.example.com/team/app   7         0123456789ab   About an hour ago   1.2GB",
    ]


def test_a_short_column_is_ten_wide() -> None:
    assert render([("A", "B"), ("1", "2")]) == ["A         B", "1         2"]


def test_an_empty_last_cell_leaves_no_spaces() -> None:
    assert render([("A", "B"), ("1", "")]) == ["A         B", "1"]


def test_columns_may_stand_to_the_right() -> None:
    assert render([("NAME", "SIZE", "X"), ("a", "12345678", "x"), ("b", "1", "y")], right=(1,)) == [
        "NAME          SIZE   X",
        "a         12345678   x",
        "b                1   y",
    ]


def test_no_rows() -> None:
    assert render([]) == []
