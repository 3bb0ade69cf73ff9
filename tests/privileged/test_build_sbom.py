"""``build --sbom`` with a real scanner and with hostile ones, as each user."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.privileged.builds import Yard
from tests.privileged.hostile import Grounds, Item, grounds, link  # noqa: F401 - fixtures

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("sbom")]

EPOCH = 1_700_000_000
STATUS = "Package: {}\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\nMaintainer: M <m@x>\nDescription: d\n\n"
FILES = {"status": STATUS.format("good"), "package.json": '{"name": "noded", "version": "4.5.6"}'}
TEXT = (
    "FROM plain\nCOPY status /var/lib/dpkg/status\nCOPY package.json /usr/lib/node_modules/noded/package.json\n"
)
BILL = '{"spdxVersion": "SPDX-2.3", "documentNamespace": "n", "creationInfo": {"created": "now"}, "packages": []}'


@pytest.fixture(params=["root-runc", "root-embedded", "mapped-runc", "single-embedded"])
def yard(request: pytest.FixtureRequest, grounds: Grounds) -> Yard:  # noqa: F811 - the fixture
    return Yard(grounds.of(request.param))


@pytest.fixture
def roots(grounds: Grounds) -> Yard:  # noqa: F811 - the fixture
    return Yard(grounds.of("root-runc"))


def bill(yard: Yard, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(yard.ground.lamina("builder", "sbom", name, **yard.environment).stdout)
    return found


def packages(document: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("versionInfo", "") for one in document["packages"]}


def test_a_bill_says_what_is_in_the_image(yard: Yard) -> None:
    built = yard.build(TEXT, FILES, sbom="syft", tags=("billed:1",), epoch=EPOCH)
    found = bill(yard, "billed:1")
    assert {"good": "1.2-3", "noded": "4.5.6"}.items() <= packages(found).items()
    assert found["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    again = yard.build(TEXT, FILES, sbom="", tags=("billed:1",), epoch=EPOCH)
    assert again.image["digest"] == built.image["digest"]
    assert again.cached[-1] == "[sbom] generating with syft"
    assert list((yard.root / "containers").iterdir()) == []
    assert yard.run("billed:1", "cat", "/marker") == "container"


def test_links_of_an_image_lead_nowhere(yard: Yard) -> None:
    """A link to the machine's packages, and to its processes."""
    text = "FROM plain\nCOPY d /var/lib/\n"
    files = {
        "d/dpkg/status": link("/var/lib/dpkg/status"), "d/rpm": link("/proc/1/root/var/lib/rpm"),
        "d/apk": link("../../../../../../lib/apk"), "d/n/package.json": link("/proc/self/environ"),
    }
    yard.build(text, files, sbom="", tags=("linked:1",))
    assert not {"bash", "dpkg", "python3"} & packages(bill(yard, "linked:1")).keys()


def scanner(yard: Yard, script: str) -> str:
    name = f"scan-{abs(hash(script))}"
    return yard.ground.image(name, {"scan": Item(f"#!/bin/sh\n{script}\n")}, 'ENTRYPOINT ["/scan"]')


def test_images_that_keep_to_the_protocol_are_scanners(yard: Yard) -> None:
    script = (
        f": {yard.ground.runtime}; cat $BUILDKIT_SCAN_SOURCE/marker; id -u; ls /sys/class/net\n"
        f"echo '{BILL}' >$BUILDKIT_SCAN_DESTINATION/a.spdx.json; echo x >$BUILDKIT_SCAN_DESTINATION/b.txt\n"
        f"(echo over >$BUILDKIT_SCAN_SOURCE/marker) 2>/dev/null || echo read-only"
    )
    built = yard.build(TEXT, FILES, sbom=scanner(yard, script), tags=("ours:1",))
    assert built.output.split() == ["container0", "lo", "read-only"]
    assert bill(yard, "ours:1")["packages"] == []


@pytest.mark.parametrize(("script", "word"), [
    ("echo broken >&2; exit 7", "it ended with exit code 7"),
    ("sh -c 'kill -9 $$'; exit $?", "exit code 137"),
    ("true", "wrote no file that ends in .spdx.json"),
    ("echo '[]' >/run/out/a.spdx.json", "no document of SPDX 2"),
    ("echo '{' >/run/out/a.spdx.json", "no JSON"),
    ("ln -s /etc/shadow /run/out/a.spdx.json", "wrote no file"),
    ("mkfifo /run/out/a.spdx.json || mknod /run/out/a.spdx.json p", "wrote no file"),
    ("mkdir /run/out/a.spdx.json", "wrote no file"),
    ("head -c 300000000 /dev/zero >/run/out/a.spdx.json", "more than 256 MiB"),
])
def test_scanners_that_fail_are_one_sentence(roots: Yard, script: str, word: str) -> None:
    outcome = roots.build(TEXT, FILES, sbom=scanner(roots, script), tags=("unbilled:1",), code=1)
    assert word in outcome.error
    assert outcome.error.count("\n") == 1
    assert "unbilled" not in roots.ground.lamina("images").stdout
    assert list((roots.root / "containers").iterdir()) == []
    assert not [name for name in os.listdir("/tmp") if name.startswith("lamina-fetch-")]


def test_a_scanner_that_never_ends_is_ended(roots: Yard) -> None:
    program = (
        "import sys, lamina.engine.building.scanning as scanning\n"
        "scanning.SECONDS = 1.0\nfrom lamina.cli.main import run\nsys.exit(run())"
    )
    context = roots.context(TEXT, FILES)
    name = scanner(roots, "while true; do sleep 1000; done")
    words = roots.ground.command("build", "-t", "never:1", f"--sbom=generator={name}", context)
    words = [*words[: words.index("-m")], "-c", program, *words[words.index("-m") + 2 :]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(": not done within 1 s\n")
    assert list((roots.root / "containers").iterdir()) == []


def test_a_directory_gets_the_bill_beside_the_files(roots: Yard, tmp_path: Path) -> None:
    """Whatever the image has under that name."""
    files = {"d/sbom.spdx.json": link(str(tmp_path / "elsewhere"))}
    context = roots.context("FROM plain\nCOPY d /\n", files)
    roots.ground.lamina("build", "-q", "--sbom", "-o", tmp_path / "out", context)
    assert json.loads((tmp_path / "out/sbom.spdx.json").read_text())["predicateType"] == "https://spdx.dev/Document"
    assert (tmp_path / "out/marker").read_text() == "container"
    assert not (tmp_path / "elsewhere").exists()


def test_squashed_images_have_bills(roots: Yard) -> None:
    roots.ground.lamina(
        "build", "-q", "-t", "one:1", "--squash-all", "--attest", "type=sbom", roots.context(TEXT, FILES),
        LAMINA_EXPERIMENTAL="true",
    )
    assert packages(bill(roots, "one:1"))["good"] == "1.2-3"
