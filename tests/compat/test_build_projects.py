"""Projects as people have them: built, run, pushed, and run by docker and podman."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.compat.debian import write_root, write_system
from tests.compat.peers import Docker, Lamina, Podman, unmount_below
from tests.conftest import OrdinaryUser, remove_when_idle

pytestmark = pytest.mark.compat

_SECONDS = 900  # an installation of a gigabyte, on a machine that is busy

C = {
    "src/main.c": """
#include <stdio.h>
#include "greeting.h"
int main(int count, char **words) {
    for (int i = 1; i < count; i++) printf("%s, %s\\n", greeting(), words[i]);
    return count == 1 ? 3 : 0;
}
""",
    "src/greeting.h": "const char *greeting(void);\n",
    "src/greeting.c": '#include "greeting.h"\nconst char *greeting(void) { return GREETING; }\n',
    "src/broken.c": "this is not for the compiler\n",
    ".dockerignore": "**/broken.c\n",
    "Dockerfile": """
ARG GREETING=Hello
FROM cc:1 AS build
ARG GREETING
WORKDIR /src
COPY src/ ./
RUN mkdir /out && tcc -DGREETING="\\"$GREETING\\"" -o /out/greet *.c

FROM libc:1
COPY --from=build /out/greet /usr/local/bin/
ENTRYPOINT ["greet"]
CMD ["nobody"]
""",
}
FLASK = {
    "app.py": """
import threading, urllib.request
from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)

@app.get("/hello/<name>")
def hello(name):
    return {"hello": name, "loud": request.args.get("loud")}

server = make_server("127.0.0.1", 8000, app)
threading.Thread(target=server.serve_forever, daemon=True).start()
with urllib.request.urlopen("http://127.0.0.1:8000/hello/you?loud=yes") as answer:
    print(answer.status, answer.read().decode().strip())
""",
    "requirements.txt": "flask\n",
    "Dockerfile": """
FROM python:deb
WORKDIR /app
RUN --mount=type=bind,source=wheels,target=/wheels --mount=type=bind,source=requirements.txt,target=/r.txt \\
    python3 $(echo /wheels/pip-*.whl)/pip install --no-index --find-links /wheels --target lib -r /r.txt
ENV PYTHONPATH=/app/lib PYTHONDONTWRITEBYTECODE=1
COPY app.py ./
USER 1000:1000
EXPOSE 8000
CMD ["python3", "app.py"]
""",
}
NPM = {
    "package.json": '{"name": "greeter", "version": "1.0.0", "private": true, "dependencies": {"express": "^4.19.0"}}',
    "server.js": """
const express = require("express");
const app = express();
app.get("/hello/:name", (request, response) => response.json({hello: request.params.name, loud: request.query.loud}));
const server = app.listen(8000, "127.0.0.1", async () => {
  const answer = await fetch("http://127.0.0.1:8000/hello/you?loud=yes");
  console.log(answer.status, await answer.text());
  server.close(() => process.exit(0));
  server.closeAllConnections();
});
""",
    ".dockerignore": "node_modules\n*.tgz\n",
    "Dockerfile": """
FROM node:deb AS modules
WORKDIR /app
COPY package.json package-lock.json ./
RUN --network=none --mount=type=bind,source=npm,target=/npm --mount=type=bind,source=cache,target=/cache,rw \\
    node /npm/bin/npm-cli.js ci --offline --cache /cache --no-audit --no-fund

FROM node:deb
WORKDIR /app
COPY --from=modules /app/node_modules node_modules
COPY --chmod=644 server.js package.json ./
ENV NODE_ENV=production
USER 1000:1000
CMD ["node", "server.js"]
""",
}
APT = {
    "hello.cc": '#include <iostream>\nint main() { std::cout << "c++ " << __cplusplus / 100 << std::endl; }\n',
    "Hello.java": 'class Hello { public static void main(String[] a) { System.out.println("java " + Runtime.version().feature()); } }\n',
    "Dockerfile": """
FROM debian:local
ARG PACKAGES="g++ openjdk-17-jdk-headless python3-scipy"
RUN --network=host --mount=type=tmpfs,target=/var/lib/apt/lists \\
    --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-unsafe-io \\
    install --no-install-recommends $PACKAGES
WORKDIR /src
COPY hello.cc Hello.java ./
RUN g++ -o /usr/local/bin/hello hello.cc
RUN ! command -v javac || javac -d /usr/local/lib Hello.java
RUN useradd --create-home --uid 1500 worker && stat -c %U:%G /home/worker >/owner
USER worker
CMD hello && cat /owner && test -d /usr/share/doc/python3-scipy && java -cp /usr/local/lib Hello \
    && python3 -c 'import scipy; print("python", scipy.__name__)' || true
""",
}


def written(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


class Elsewhere:
    """Docker and podman, as those who pull what was pushed."""

    def __init__(self, dockerd: Docker, podman: Podman) -> None:
        self._dockerd, self._podman = dockerd, podman

    def run(self, name: str, *words: str) -> set[str]:
        """What it says there: the same, one hopes."""
        self._dockerd("pull", "-q", name)
        self._podman("pull", "-q", "--tls-verify=false", name)
        found = {
            self._dockerd("run", "--rm", "--network", "none", name, *words),
            self._podman(
                "--runtime", "runc", "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024",
                "--ulimit", "nproc=1000:1000", name, *words,
            ),
        }
        self._dockerd.forget(name)
        self._podman.forget(name)
        return found


@dataclass(frozen=True)
class OrdinaryLamina(Lamina):
    user: OrdinaryUser

    def command(self, *arguments: str | Path) -> list[str]:
        return self.user.python("-m", "lamina", "--root", self.root, *arguments)


@dataclass(frozen=True)
class Somebody:
    """Who builds, and a directory of theirs."""

    name: str
    lamina: Lamina
    home: Path

    def project(self, name: str, files: dict[str, str]) -> Path:
        return written(self.home / name, files)

    def build(self, *words: str | Path) -> None:
        if isinstance(self.lamina, OrdinaryLamina):
            user = self.lamina.user
            subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", self.home], check=True)
        done = subprocess.run(
            self.lamina.command("build", *words), env=self.lamina.environment, capture_output=True, timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]


@pytest.fixture(params=["root", "ordinary"])
def somebody(request: pytest.FixtureRequest, ordinary_user: OrdinaryUser) -> Iterator[Somebody]:
    home = Path(tempfile.mkdtemp(prefix="lamina-", dir="/tmp"))
    home.chmod(0o755)
    if request.param == "root":
        lamina = Lamina(home / "state")
    else:
        os.chown(home, ordinary_user.uid, ordinary_user.gid)
        lamina = OrdinaryLamina(home / "state", user=ordinary_user)
    yield Somebody(request.param, lamina, home)
    unmount_below(home)
    remove_when_idle(home)


@pytest.fixture
def elsewhere(dockerd: Docker, podman: Podman) -> Elsewhere:
    return Elsewhere(dockerd, podman)


def test_a_program_in_c(lamina: Lamina, elsewhere: Elsewhere, docker_registry: str, tmp_path: Path) -> None:
    lamina("import", write_root(tmp_path / "cc.tar", "tcc", "libc6-dev"), "cc:1")
    lamina("import", write_root(tmp_path / "libc.tar", "libc6"), "libc:1")
    project, name = written(tmp_path / "c", C), f"{docker_registry}/projects/greet:1"
    lamina("build", "-t", name, "--build-arg", "GREETING=Good day", project)
    assert lamina("run", "--rm", "--network", "none", name, "you", "they") == "Good day, you\nGood day, they"
    assert lamina.inspect(name)["Config"]["Entrypoint"] == ["greet"]
    files = lamina("run", "--rm", "--network", "none", "--entrypoint", "sh", name, "-c", "echo /src* /out* /usr/bin/tcc*")
    assert files == "/src* /out* /usr/bin/tcc*"
    lamina("push", name)
    assert elsewhere.run(name, "all") == {"Good day, all"}


def test_what_changes_in_a_program_is_what_is_done_again(lamina: Lamina, tmp_path: Path) -> None:
    lamina("import", write_root(tmp_path / "cc.tar", "tcc", "libc6-dev"), "cc:1")
    lamina("tag", "cc:1", "libc:1")
    project = written(tmp_path / "c", C)
    lamina("build", "-t", "greet:1", project)
    first = lamina.inspect("greet:1")["Id"]
    (project / "src/broken.c").write_text("nor is this\n")
    lamina("build", "-t", "greet:1", project)
    assert lamina.inspect("greet:1")["Id"] == first
    (project / "src/greeting.c").write_text('const char *greeting(void) { return "Changed"; }\n')
    lamina("build", "-t", "greet:1", project)
    assert lamina("run", "--rm", "--network", "none", "greet:1") == "Changed, nobody"


def test_a_service_in_python(lamina: Lamina, elsewhere: Elsewhere, docker_registry: str, tmp_path: Path) -> None:
    lamina("import", write_root(tmp_path / "python.tar", "python3"), "python:deb")
    project, name = written(tmp_path / "flask", FLASK), f"{docker_registry}/projects/flask:1"
    _download(project / "wheels", "flask", "pip")
    lamina("build", "-t", name, project)
    said = lamina("run", "--rm", "--network", "none", name)
    assert said.startswith("200 ")
    assert json.loads(said[4:]) == {"hello": "you", "loud": "yes"}
    lamina("push", name)
    assert elsewhere.run(name) == {said}


def test_a_service_in_node(somebody: Somebody, elsewhere: Elsewhere, docker_registry: str) -> None:
    lamina, name = somebody.lamina, f"{docker_registry}/projects/npm-{somebody.name}:1"
    lamina("import", write_root(somebody.home / "node.tar", "nodejs"), "node:deb")
    project = somebody.project("npm", NPM)
    _lock(project)
    somebody.build("-t", name, project)
    said = lamina("run", "--rm", "--network", "none", name)
    assert said.startswith("200 ")
    assert json.loads(said[4:]) == {"hello": "you", "loud": "yes"}
    assert lamina("run", "--rm", "--network", "none", "--entrypoint", "sh", name, "-c", "echo /npm* /cache*") == "/npm* /cache*"
    lamina("push", name)
    assert elsewhere.run(name) == {said}


@pytest.fixture(scope="module")
def system(workshop: Path) -> Path:
    return write_system(workshop / "debian.tar")


def test_a_debian_with_apt(
    somebody: Somebody, elsewhere: Elsewhere, docker_registry: str, system: Path
) -> None:
    """A gigabyte as root. As an ordinary user less, since it takes minutes to unpack, and shows the same."""
    lamina, name = somebody.lamina, f"{docker_registry}/projects/apt-{somebody.name}:1"
    with system.open("rb") as tar:
        lamina("import", "-", "debian:local", stdin=tar)
    is_large = somebody.name == "root"
    words = ("-t", name, "--allow", "network.host", *(() if is_large else ("--build-arg", "PACKAGES=g++")))
    somebody.build(*words, somebody.project("apt", APT))
    assert lamina.inspect(name)["Size"] > (1_000_000_000 if is_large else 300_000_000)
    said = lamina("run", "--rm", "--network", "none", name)
    assert said.splitlines() == ["c++ 2017", "worker:worker", *(["java 17", "python scipy"] if is_large else [])]
    somebody.build(*words, somebody.home / "apt")  # from the cache, in no time
    lamina("push", name)
    assert elsewhere.run(name) == {said}


def _lock(project: Path) -> None:
    """npm, a lock file, and all packages in a cache, from wherever this machine's npm finds them."""
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed: tests/run installs what the tests need"

    def run(*words: str) -> None:
        done = subprocess.run([npm, *words], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit-lockfile-registry-resolved=false", "--cache", "cache")
    run("pack", "--silent", "npm@10")
    (archive,) = project.glob("npm-*.tgz")
    subprocess.run(["tar", "-xzf", archive, "--transform", "s,^package,npm,"], cwd=project, check=True)


def _download(into: Path, *names: str) -> None:
    """Wheels for Debian's Python, from wherever this machine's pip finds them."""
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--dest", str(into), "--only-binary=:all:",
         "--python-version", version, *names],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
