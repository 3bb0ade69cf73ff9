"""History lines as people wrote them."""

from __future__ import annotations

import pytest

from lamina.insight.instruction import clean, instruction_of
from lamina.oci.config import History


@pytest.mark.parametrize(("created_by", "expected"), [
    ('/bin/sh -c #(nop)  CMD ["sh"]', 'CMD ["sh"]'),
    ("/bin/sh -c #(nop) ADD file:0fba39b3 in / ", "ADD file:0fba39b3 in /"),
    ("/bin/sh -c #(nop) COPY multi:1a2b in /etc/", "COPY multi:1a2b in /etc/"),
    ("/bin/sh -c apt-get update", "RUN apt-get update"),
    ("/bin/sh -c set -ex; \t\tapk add   curl", "RUN set -ex; apk add curl"),
    ("|1 A=b /bin/sh -c make", "RUN make"),
    ("|2 A=b c D=/bin/e /bin/sh -c make all", "RUN make all"),
    ("RUN /bin/sh -c make # buildkit", "RUN make"),
    ("RUN |1 A=b /bin/sh -c make # buildkit", "RUN make"),
    ("RUN |0 /bin/sh -c make # buildkit", "RUN make"),
    ("COPY a b # buildkit", "COPY a b"),
    ("ENV A=/bin/sh -c x", "ENV A=/bin/sh -c x"),
    ("/bin/bash -c make", "RUN make"),
    ("/bin/bash -o pipefail -c curl | sh -c x", "RUN curl | sh -c x"),
    ("/bin/bash -eo pipefail -c x", "RUN x"),
    ("/bin/bash -o errexit -o pipefail -c x", "RUN x"),
    ("/bin/ash -euxc x", "RUN x"),
    ("cmd /S /C dir", "RUN dir"),
    ("powershell -Command Get-Item", "RUN Get-Item"),
    ("RUN npm ci", "RUN npm ci"),
    ('RUN ["/bin/prog", "-c"]', 'RUN ["/bin/prog", "-c"]'),
    ("bazel build //image", "bazel build //image"),
    ("/kaniko/executor --dest x", "/kaniko/executor --dest x"),
    ("/bin/sh", "/bin/sh"),
    ("", ""),
    ("  \n ", ""),
    ("/bin/sh -c apt # buildkit or not", "RUN apt # buildkit or not"),
    ("RUN /bin/sh -c <<EOF\nmake\nEOF # buildkit", "RUN <<EOF\nmake\nEOF"),
])
def test_clean(created_by: str, expected: str) -> None:
    assert clean(created_by) == expected


def test_a_line_without_an_instruction_shows_its_comment() -> None:
    assert instruction_of(History(comment="Imported from -")) == "Imported from -"
    assert instruction_of(History(created_by="CMD x", comment="no")) == "CMD x"
    assert instruction_of(None) == ""


@pytest.mark.parametrize("attack", [
    "|1 " + "/bin/" * 100_000, "|1 " + " /" * 200_000, "/bin/sh" + " -o x" * 100_000, "x" + " " * 400_000 + "# buildkit",
    "/bin/sh -" + "a" * 400_000, "/" + "a/" * 200_000,
])
def test_long_lines_take_no_longer_than_they_are_long(attack: str) -> None:
    """Histories come from strangers. Quadratic time would be minutes here, and stop the suite."""
    assert clean(attack)
