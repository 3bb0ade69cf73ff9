"""What a secret looks like in files, what is refused, and what an answer may show."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.insight.needles import (
    MAX_SECRET,
    InvalidPattern,
    InvalidSecret,
    NeedleKind,
    masked,
    pattern_needle,
    secret_needle,
)
from lamina.insight.scan import scan

SECRET = b"p4ss/w+rd?&<x>~Z\xc3\xa9"
NEEDLE = secret_needle(SECRET, "token.txt")


def found(data: bytes, secret: bytes = SECRET) -> list[str]:
    return [match.encoding for match in scan([secret_needle(secret, "s")], data)]


def in_lines(text: bytes, width: int, end: bytes) -> bytes:
    return end.join(text[at : at + width] for at in range(0, len(text), width))


@pytest.mark.parametrize("text", [
    urllib.parse.quote(SECRET, safe=""), urllib.parse.quote(SECRET), urllib.parse.quote(SECRET, safe="!'()*"),
    urllib.parse.quote(SECRET, safe="").lower().replace("z", "Z"), "".join(f"%{byte:02X}" for byte in SECRET),
    "".join(f"%{byte:02x}" for byte in SECRET),
])
def test_url_encodings(text: str) -> None:
    assert found(f"x={text}&y".encode()) == ["URL"]


def test_form_encoding_of_a_space() -> None:
    assert found(b"q=my+%2Fsecret&", b"my /secret") == ["URL"]


@pytest.mark.parametrize("text", [SECRET.hex(), SECRET.hex().upper()])
def test_hex(text: str) -> None:
    assert found(f"0x{text}00".encode()) == ["hex"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("secret", [SECRET, b"only-ascii-9"])
def test_utf16(encoding: str, secret: bytes) -> None:
    assert found(f"<{secret.decode()}>".encode(encoding), secret) == ["UTF-16"]


@pytest.mark.parametrize("text", [
    json.dumps(SECRET.decode()), json.dumps(SECRET.decode()).replace("/", "\\/"),
    json.dumps(SECRET.decode()).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
])
def test_json(text: str) -> None:
    assert found(text.encode()) == ["JSON"]


def test_several_lines() -> None:
    key = b"-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----"
    assert found(b"x " + key, key) == ["raw"]
    assert found(key.replace(b"\n", b"\r\n"), key) == ["raw"]
    assert found(json.dumps(key.decode()).encode(), key) == ["JSON"]


@given(st.binary(min_size=4, max_size=90), st.binary(max_size=130), st.binary(max_size=5), st.booleans(),
       st.sampled_from([0, 60, 64, 76]), st.sampled_from([b"\n", b"\r\n", b"\n    ", b"\\n"]))
def test_base64_of_a_text_that_holds_it(
    secret: bytes, before: bytes, after: bytes, is_url_safe: bool, width: int, end: bytes
) -> None:
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    text = encode(before + secret + after)
    if width:
        text = in_lines(text, width, end)
    if secret.endswith(b"\n"):
        secret += b"\n"  # one line end is not part of a secret
    assert "base64" in found(b": " + text + b" .", secret)


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("changed", [0, len(SECRET) - 1])
def test_base64_of_something_else_at_either_end(shift: int, changed: int) -> None:
    """The characters at the edges are shared with neighbours; one bit of the secret in them is enough."""
    for bit in range(8):
        other = bytearray(SECRET)
        other[changed] ^= 1 << bit
        assert found(base64.b64encode(b"x" * shift + bytes(other) + b"yy")) == []


@given(st.binary(min_size=31, max_size=200), st.sampled_from([60, 64]))
def test_hex_in_lines(secret: bytes, width: int) -> None:
    expected = secret + b"\n" if secret.endswith(b"\n") else secret
    assert "hex" in found(in_lines(secret.hex().encode(), width, b"\n"), expected)


@given(st.binary(min_size=1, max_size=400))
def test_nothing_is_found_where_nothing_is(data: bytes) -> None:
    secret = b"\x00never-\xffin-there\x01"
    assert found(data.replace(secret, b""), secret) == []


# -- what is refused


@pytest.mark.parametrize(("content", "message"), [
    (b"", "t: the secret is empty"), (b"\n", "t: the secret is empty"), (b"\r\n", "t: the secret is empty"),
    (b"abc\n", "t: a secret of 3 bytes would be found everywhere by chance; 4 is the least"),
    (b"x" * (MAX_SECRET + 2), f"t: the secret is larger than {MAX_SECRET} bytes; is this the right file?"),
])
def test_secrets_that_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidSecret) as caught:
        secret_needle(content, "t")
    assert str(caught.value) == message


def test_one_line_end_is_ignored() -> None:
    assert [secret_needle(content, "t").size for content in (b"abcd", b"abcd\n", b"abcd\r\n", b"abcd\n\n")] == [4, 4, 4, 5]
    assert found(b"abcd", b"abcd\n") == ["raw"]


@pytest.mark.parametrize("text", ["(", "*", "a{2,1}", "(?P<x", "\\"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(InvalidPattern, match="not a regular expression"):
        pattern_needle(text)


@pytest.mark.parametrize("text", ["", "a*", "x|", "(?:)", r"\b", "^", "(?=a)", ".?"])
def test_patterns_that_match_nothing(text: str) -> None:
    with pytest.raises(InvalidPattern, match="matches the empty string"):
        pattern_needle(text)


def test_patterns_are_over_bytes() -> None:
    needle = pattern_needle(r"k\w+=(?P<v>[^;]+);")
    assert (needle.kind, needle.label, needle.size) == (NeedleKind.PATTERN, r"k\w+=(?P<v>[^;]+);", 0)
    assert [(match.offset, match.size) for match in scan([needle], b"\xff key=\xfe\x00; kx=1;")] == [(2, 7), (10, 5)]
    assert [match.offset for match in scan([pattern_needle("é+")], "xé".encode())] == [1]


# -- what is shown


def test_a_needle_shows_nothing() -> None:
    assert SECRET.decode() not in repr(NEEDLE)
    assert repr(NEEDLE) == (
        f"Needle(kind=<NeedleKind.SECRET: 'secret-file'>, label='token.txt', size={len(SECRET)})")


@pytest.mark.parametrize("text", [
    SECRET.decode(), base64.b64encode(SECRET).decode(), SECRET.hex(), urllib.parse.quote(SECRET)])
def test_masked(text: str) -> None:
    shown = masked(f"RUN echo {text} > /x", [NEEDLE])
    assert text not in shown
    assert shown.startswith("RUN echo ***")
    assert shown.endswith(" > /x")


def test_masked_leaves_everything_else() -> None:
    assert masked("a\udcff b", [NEEDLE]) == "a\udcff b"
    assert masked(f"\udcff{SECRET.decode()}\udcfe", [NEEDLE]) == "\udcff***\udcfe"
    assert masked("id AKIAAAAA1 x", [pattern_needle("AKIA[A-Z0-9]+")]) == "id *** x"
