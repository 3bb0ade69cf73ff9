"""What ``lamina demo`` builds from: two contexts, with the files of the small images once more."""

from __future__ import annotations

import os

BASE_DOCKERFILE = """\
FROM scratch
COPY files /
"""
DOCKERFILE = """\
FROM base
COPY java /
COPY source /
CMD ["java", "Hello"]
"""
COMPILING = 'RUN ["/bin/javac", "/app/Hello.java", "/app/Hello.class"]\n'
_COMPILER = "hello/java/bin/javac"
_DOCKERFILE = "hello/Dockerfile"
_SOURCE = "hello/source/app/Hello.java"
_HELLO = """\
class Hello {{
    public static void main(String[] arguments) {{
        System.out.println("{greeting}");
    }}
}}
"""
# as(1)'s output for: from = open(argv[1], O_RDONLY); to = creat(argv[2], 0644);
# exit_group(sendfile(to, from, NULL, 1 << 20) < 0);
_CODE = {
    "x86_64": (
        62,  # EM_X86_64
        ("488b7c241031f6b8020000000f0589c3488b7c2418bea4010000b8550000000f05"
         "89c789de31d241ba00001000b8280000000f0548c1e83f89c7b8e70000000f05"),
    ),
    "aarch64": (
        183,  # EM_AARCH64
        ("600c8092e10b40f9020080d2080780d2010000d4f30300aa600c8092e10f40f9224880d2833480d2010000d4"
         "e10313aa020080d20302a0d2e80880d2010000d400fc7fd3c80b80d2010000d4"),
    ),
}


def has_compiler() -> bool:
    """Whether there is a program for this machine that ``RUN`` can run."""
    return os.uname().machine in _CODE


def compiler(machine: str) -> bytes:
    """A static program that copies the file of its first argument to that of its second."""
    from lamina.runtime.trampoline import executable

    number, text = _CODE[machine]
    return executable(number, bytes.fromhex(text))


def write_contexts(place: str) -> None:
    """The directories ``base`` and ``hello``, each with a Dockerfile."""
    from lamina.cli.samples import APP, BASE, JAVA

    trees = {"base/files": BASE.files, "hello/java": JAVA.files,
             "hello/source": {"files/file-6": APP.files["files/file-6"]}}
    for tree, files in trees.items():
        for path, content in files.items():
            _write(os.path.join(place, tree, path), content or b"")
    if has_compiler():
        _write(os.path.join(place, _COMPILER), compiler(os.uname().machine), mode=0o755)
    write_source(place, "Hello")
    _write(os.path.join(place, "base/Dockerfile"), BASE_DOCKERFILE.encode())
    _write(os.path.join(place, _DOCKERFILE), DOCKERFILE.encode())


def write_source(place: str, greeting: str) -> None:
    _write(os.path.join(place, _SOURCE), _HELLO.format(greeting=greeting).encode())


def add_compiling(place: str) -> None:
    """One more line for the Dockerfile: a command."""
    text = DOCKERFILE.replace("CMD", f"{COMPILING}CMD")
    _write(os.path.join(place, _DOCKERFILE), text.encode())


def _write(path: str, content: bytes, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
