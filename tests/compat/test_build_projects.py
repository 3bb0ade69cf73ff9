"""Projects as people have them: built, run, pushed, and run by docker and podman."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compat.debian import write_root
from tests.compat.peers import Docker, Lamina, Podman

pytestmark = pytest.mark.compat

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
