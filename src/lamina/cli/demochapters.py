"""The chapters of ``lamina demo``: what is said, and the command lines that show it."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import indent

from lamina.cli.demofiles import BASE_DOCKERFILE, COMPILING, DOCKERFILE, add_compiling, write_source
from lamina.values import dataclass

_DRIVERS = (
    """info --format '{{range .DriverCandidates}}{{printf "%-10s" .Name}}{{.Reason}}\\n{{end}}"""
    """chosen: {{.Driver}}'"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """What is said before and after some command lines; {app} and {worker} stand for the images' names.

    Where nothing may be mounted, one that needs it says why instead; so does one that needs a program for
    this machine. ``edit`` is given the directory that the commands are run in.
    """

    title: str
    before: str = ""
    commands: tuple[str, ...]
    after: str
    needs_mounts: bool = False
    needs_compiler: bool = False
    edit: Callable[[str], None] | None = None


def _indented(text: str) -> str:
    return indent(text, "    ").rstrip()


CHAPTERS = (
    Chapter(
        title="Pulling an image",
        before="""\
An image is a stack of read-only layers. Each line that ends with "Pull complete" is one layer.""",
        commands=("pull {app}",),
        after="""\
Three layers arrived, each checked against its digest. No daemon was involved, and no root.""",
    ),
    Chapter(
        title="The same layers in inspect",
        commands=("inspect --format '{{json .RootFS.Layers}}' {app}",),
        after="""\
Three layers again, under other names. Pull showed the digests of the compressed blobs that travelled;
inspect lists diff ids, the digests of the same layers uncompressed. Next, both side by side.""",
    ),
    Chapter(
        title="A stack of layers",
        before="Base first: Ubuntu (nearly), then Java, then the application.",
        commands=("layers {app}", "history {app}"),
        after="Each instruction that changed files made one layer; CMD changed none and made none.",
    ),
    Chapter(
        title="One layer obscures another",
        before="""\
Seven files were put into /files: three by the base, three with Java, and File 7 by the application's
layer, as the updated version of File 6. A container sees six:""",
        commands=(
            "ls -l {app}:/files", "cat {app} /files/file-6", "blame {app} /files/file-6", "obscured {app}",
        ),
        after="""\
File 7 obscures File 6. The old version is still in its layer: whoever pulls the image pulls it too.""",
    ),
    Chapter(
        title="A storage driver stacks the layers",
        before="The first of these that works here is chosen, unless `--storage-driver` says otherwise.",
        commands=(_DRIVERS,),
        after="""\
Whichever it is, every command answers the same. `lamina mount` shows the stack as a directory.""",
    ),
    Chapter(
        title="Layers are shared",
        before="A second image has the same base and the same Java layer, and one of its own on top.",
        commands=("pull {worker}",),
        after="""\
"Already exists": two of its layers were here, and were neither fetched nor stored again.""",
    ),
    Chapter(
        title="Pulling again",
        commands=("pull {app}",),
        after="Nothing was new, so not one byte of a layer moved.",
    ),
    Chapter(
        title="What it takes on disk",
        commands=("images", "system df -v"),
        after="""\
Sizes in `images` are those of the files. `system df` counts what is on disk: shared bytes once, however
many images use them; only the unique ones go when an image is removed.""",
    ),
    Chapter(
        title="Removing is not erasing",
        before="The second image removed File 5 in its top layer. No container sees it any more, and yet:",
        commands=("blame {worker} /files/file-5", "cat --layer 1 {worker} /files/file-5"),
        after="""\
A layer can hide what is below it, never take it away. Secrets do not belong in any layer.""",
    ),
    Chapter(
        title="Squashing",
        before="""\
Several layers become one, and what one of them removed is gone. The base stays as it is, and shared.""",
        commands=("squash --from 1 {worker} -t {worker}-squashed", "layers {worker}-squashed"),
        after="""\
That is the gain, and the price stands beside it: layers that could be shared, pulled and looked into alone.
The image itself has not changed, and its history is told on in the new one.""",
    ),
    Chapter(
        title="Is it really gone?",
        before="Every byte that an image reaches is searched: hidden files, padding, settings, history.",
        commands=(
            "verify-erased --image-only --path /files/file-5 {worker}",
            "verify-erased --image-only --path /files/file-5 {worker}-squashed",
        ),
        after="""\
Clean, with a certificate for those who ask (`-o`). But whoever pulled the image before has it still.""",
    ),
    Chapter(
        title="Containers: a layer of their own",
        before="""\
A container is an image's layers with a writable one on top. Here are two of one image; a file is copied
into each, over File 7 in the first, and beside it in the second.""",
        commands=(
            "create --name one {app}", "create --name two {app}",
            "cp note one:/files/file-6", "cp note two:/files/note", "diff one", "diff two",
        ),
        after="""\
Each has its own change, and sees nothing of the other's. What neither of them touched, they share.""",
        needs_mounts=True,
    ),
    Chapter(
        title="The image stays as it was",
        commands=("cat {app} /files/file-6", "system df", "rm one two"),
        after="""\
`rm` took the two layers away; `commit` would have made images of them. These images hold no program, so
nothing ran here. With one that does:  lamina run --rm -it alpine:3 sh""",
        needs_mounts=True,
    ),
    Chapter(
        title="Building an image",
        before=f"""\
The same stack again, from instructions. base/Dockerfile begins with nothing at all:

{_indented(BASE_DOCKERFILE)}

hello/Dockerfile puts Java and the application on top of that:

{_indented(DOCKERFILE)}""",
        commands=("build -t base base", "build -t hello hello", "layers hello"),
        after="""\
FROM brought a layer that is stored once, whoever uses it. Each COPY made one; CMD changes no file and made
none. Copying takes no mount and no container, so that anybody can do it anywhere.""",
    ),
    Chapter(
        title="Which line put that file there?",
        before="source/ brings File 7 along, over File 6 in java/. Each layer knows the line that made it.",
        commands=("blame hello /files/file-6", "obscured hello"),
        after="Seven files were put into /files again, six are seen, and the seventh is pulled with them.",
    ),
    Chapter(
        title="Building again",
        before="Now somebody edits one file, source/app/Hello.java, and builds again.",
        edit=lambda place: write_source(place, "Hello, layers"),
        commands=("build -t hello hello",),
        after="""\
Java came from the cache. For what was done anew a phrase says why: contents count, times do not.""",
    ),
    Chapter(
        title="Running a command in a build",
        before=f"""\
One more line before CMD. The compiler was in java/ all the time: not 200 bytes, for it only copies.

{_indented(COMPILING)}""",
        edit=add_compiling,
        commands=("build --network none -t hello hello", "layers hello"),
        after="""\
RUN is a container on the layers so far. What it changed, and nothing else, is the layer on top.""",
        needs_mounts=True,
        needs_compiler=True,
    ),
    Chapter(
        title="Squashing while building",
        before="The layers that the Dockerfile makes become one. The base is not among them.",
        commands=(
            "build --squash --network none -t hello:small hello", "layers hello:small", "history hello:small",
            "build --network none -t hello hello",
        ),
        after="""\
File 6 is gone, the base is still shared, the history names every step, and the cache has kept them all: the
last build found each one.""",
    ),
)
CLOSING = """\
That is all there is to it: layers named by their digests, stored once, stacked into images and containers.
Now with a real one:  lamina pull redis:latest && lamina layers redis"""
