"""Streams searched piece by piece: how they arrive never changes what is found."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.insight.needles import Needle, pattern_needle, secret_needle
from lamina.insight.scan import BLOCK, MAX_MATCHES, Match, Scanner, scan

NEEDLES = (secret_needle(b"abca", "1"), pattern_needle("a+b"), pattern_needle(r"(?<=c)a{2,9}"), secret_needle(b"\0\0\0\0", "0"))


def fed(needles: Sequence[Needle], pieces: Sequence[bytes], block: int) -> list[tuple[str, str, int, int]]:
    scanner = Scanner(needles, block=block)
    for piece in pieces:
        scanner.feed(piece)
    return told(scanner.finish())


def told(matches: Sequence[Match]) -> list[tuple[str, str, int, int]]:
    return sorted((match.needle.label, match.encoding, match.offset, match.size) for match in matches)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"abca", b"YWJjYQ", b"61626361", b"\0", b"\n"]), max_size=200).map(b"".join),
       st.lists(st.integers(0, 2000)), st.sampled_from([1, 64, 700]))
@settings(max_examples=300)
def test_pieces_and_blocks_change_nothing(data: bytes, places: list[int], block: int) -> None:
    """As long as no match of a pattern is longer than what is looked at ahead, which here it never is."""
    assert fed(NEEDLES, cut(data, places), block) == told(scan(NEEDLES, data))


@given(st.binary(max_size=300), st.integers(0, 300), st.lists(st.integers(0, 9000)))
def test_what_was_put_there_is_found_once_at_its_offset(noise: bytes, at: int, places: list[int]) -> None:
    secret = b"\x01s3cret\x02"
    at = min(at, len(noise))
    noise = noise.replace(b"\x01", b".")
    data = bytes(4000) + noise[:at] + secret + noise[at:]
    assert fed([secret_needle(secret, "s")], cut(data, places), 512) == [("s", "raw", 4000 + at, len(secret))]


def test_across_every_border_of_a_block() -> None:
    secret = b"border-crossing"
    encoded = base64.b64encode(b"x" + secret)
    for text in (secret, encoded, secret.hex().encode()):
        for lead in range(-len(text) - 1, 2):
            data = b"." * (BLOCK + lead) + text + b"." * 40
            assert len(scan([secret_needle(secret, "s")], data)) == 1, lead


def test_a_pattern_across_a_border_is_one_match() -> None:
    needle = pattern_needle("x+")
    assert told(scan([needle], b"." * (BLOCK - 5) + b"x" * 11 + b".")) == [("x+", "raw", BLOCK - 5, 11)]


def test_a_pattern_that_runs_on_is_found_and_ends_somewhere() -> None:
    (match,) = scan([pattern_needle("(?s)k.*")], b"." * 10 + b"k" + b"." * (BLOCK // 2))
    assert match.offset == 10


def test_the_start_of_a_stream_is_one_place() -> None:
    needle = pattern_needle("^x")
    assert [match.offset for match in scan([needle], (b"x" * 64).ljust(2 * BLOCK, b"x"))] == [0]


def test_lookbehind_sees_what_was_before_the_block() -> None:
    data = b"." * (BLOCK - 1) + b"kv" + b"." * 9000
    assert [match.offset for match in scan([pattern_needle("(?<=k)v")], data)] == [BLOCK]
    assert scan([pattern_needle("(?<!k)v")], data) == []


def test_a_flood_of_matches_is_counted_up_to_a_limit() -> None:
    needle = secret_needle(b"aaaa", "a")
    found = [match for match in scan([needle], b"a" * (3 * BLOCK)) if match.encoding == "raw"]
    assert [match.offset for match in found] == [4 * number for number in range(MAX_MATCHES)]


def test_the_beginning_of_a_match_is_kept_if_asked_for() -> None:
    assert [match.begin for match in scan([pattern_needle("s[a-z]+")], b"..secret..", keep=4)] == [b"secr"]
    assert [match.begin for match in scan([pattern_needle("s[a-z]+")], b"..secret..")] == [b""]


def test_memory_is_that_of_a_block() -> None:
    scanner = Scanner([secret_needle(b"never-there", "s")])
    for _ in range(40):
        scanner.feed(bytes(BLOCK))
        assert sum(map(len, scanner._pending)) < 3 * BLOCK
    assert scanner.finish() == []
    assert scanner.position == 40 * BLOCK


def test_nothing() -> None:
    assert scan(NEEDLES, b"") == []
    assert scan([], b"abca") == []
