"""Dockerfiles with their contexts, one question each."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.compat.build_contexts import TREE, File, Made, archive, gzipped, tar_of
from tests.compat.build_differences import BUILDAH, DIFFERENCES, DOCKER, PEERS


@dataclass(frozen=True)
class Case:
    """``older`` says the same in words that 2023's builders know; without it they are given ``text``.

    ``without`` are peers that lack what is asked for. ``after`` is the case whose image this one is built on.
    ``fails`` is of our message.
    """

    name: str
    text: str
    files: Mapping[str, Made]
    older: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    after: str = ""
    fails: str = ""
    without: tuple[str, ...] = ()

    @property
    def unlike(self) -> dict[str, list[str]]:
        """Reasons, by the peers that come to something else."""
        found: dict[str, list[str]] = {}
        for reason, peers in DIFFERENCES.items():
            for peer, names in peers.items():
                if self.name in names.split():
                    found.setdefault(peer, []).append(reason)
        return found

    def has(self, peer: str) -> bool:
        """Whether it is given this case, in words that it knows."""
        text = self.older or self.text
        if peer in self.without or (peer == DOCKER and ("--mount=" in text or "--chmod=" in text)):
            return False
        return peer in self.unlike or not self.name.startswith(_SPARED.get(peer, ()))


# Buildah takes a second for each, so it is spared those that touch no file; the client of docker's two builders
# reads ignore files in one way. All are given to whom they differ from.
_SPARED = {
    DOCKER: ("ignore-",),
    BUILDAH: ("env-", "arg-", "label", "cmd-", "entrypoint", "healthcheck", "stopsignal", "text-", "ignore-", "expose"),
}


CASES: list[Case] = []


def case(
    name: str, text: str, *, files: Mapping[str, Made] | None = None, base: str = "base:1", older: str = "",
    **more: object,
) -> None:
    """On ``base``, unless the text has a FROM itself."""
    def whole(body: str) -> str:
        return body if "FROM" in body else f"FROM {base}\n{body}"

    CASES.append(Case(
        name, whole(text) + "\n", TREE if files is None else files, older=whole(older) + "\n" if older else "",
        **more,  # type: ignore[arg-type]
    ))


# -- FROM

case("from-alone", "FROM base:1")
case("from-full", "FROM full:1")
case("from-mute", "FROM mute:1\nLABEL a=b")
case("from-as", "FROM base:1 AS Name\nCOPY f /\nFROM base:1\nCOPY --from=name /f /copied")
case("from-stage", 'FROM base:1 AS a\nENV X=1\nCOPY f /\nCMD ["a"]\nFROM a\nCOPY g /\nENV Y=$X')
case("from-number", "FROM base:1\nCOPY f /\nFROM base:1\nCOPY --from=0 /f /copied")
case("from-arg", "ARG BASE=base\nARG TAG=1\nFROM ${BASE}:$TAG\nCOPY f /")
case("from-arg-given", "ARG BASE=nosuch:1\nFROM $BASE\nLABEL a=b", arguments={"BASE": "full:1"})
case("from-arg-default", "ARG BASE\nFROM ${BASE:-base:1}\nLABEL a=b")
case("from-arg-inside", "ARG X=outer\nFROM base:1\nARG X\nENV A=$X")
case("from-arg-not-inside", "ARG X=outer\nFROM base:1\nENV A=$X-")
case("from-arg-inner-default", "ARG X=outer\nFROM base:1\nARG X=inner\nENV A=$X")
case("from-arg-chain", "ARG A=base\nARG B=${A}:1\nFROM $B\nLABEL b=$B")
case("from-scratch", "FROM scratch\nCOPY f /")
case("from-scratch-config", 'FROM scratch\nENV A=b\nCMD ["/x"]\nCOPY f /d/')
case("from-platform", "FROM --platform=linux/amd64 base:1\nCOPY f /")
case("from-missing", "FROM nosuch:1\n", fails="nosuch")
case("from-unreachable", "FROM base:1 AS bad\nRUN false\nFROM base:1\nCOPY f /")
case("from-unreachable-source", "FROM base:1 AS bad\nCOPY nosuch /\nFROM base:1\nCOPY f /")
case("from-later-stage", "FROM base:1\nCOPY --from=later /f /\nFROM base:1 AS later\nCOPY g /")
case("from-three", "FROM base:1 AS a\nRUN echo a >/a\nFROM base:1 AS b\nCOPY --from=a /a /b\nFROM scratch\nCOPY --from=b /b /c\nCOPY --from=a /a /a")
case("from-same-name", "FROM base:1 AS base\nCOPY f /\nFROM base\nCOPY g /")
case("target", "FROM base:1 AS one\nCOPY f /\nFROM base:1 AS two\nRUN false\nFROM one AS three\nCOPY g /", target="one")
case("target-number", "FROM base:1\nCOPY f /\nFROM base:1\nRUN false", target="0")
case("target-case", "FROM base:1 AS One\nCOPY f /\nFROM base:1\nRUN false", target="oNE")
case("target-missing", "FROM base:1 AS one\nCOPY f /", target="nosuch", fails="nosuch")
case("target-middle", "FROM base:1 AS a\nCOPY f /\nFROM a AS b\nCOPY g /\nENV B=1\nFROM b AS c\nRUN false", target="b")

# -- the text itself

case("text-comments", "# comment\n\n  # indented\nRUN echo a >/a && \\\n# inside\n   # indented inside\n  echo b >/b")
case("text-continuation", "ENV A=1 \\\n    B=2 \\\n\n    C=3\nRUN echo \\\n one\\\ntwo >/x")
case("text-escape", "# escape=`\nFROM base:1\nENV A=a` \n    B=b`\n    C=c\\d\nRUN echo x `\n y >/x")
case("text-escape-dollar", "# escape=`\nFROM base:1\nENV X=x A=`$X B=\\$X C=a`b")
case("text-case", "from base:1\nrUn echo a >/a\ncopy f /f\nEnv A=b")
case("text-crlf", "FROM base:1\r\nENV A=b\r\nRUN echo a >/a\r\nCOPY f /\r\n")
case("text-tabs", "FROM\tbase:1\n\tENV\tA=b\n  COPY   f    /")
case("text-bom", "\ufeffFROM base:1\nENV A=b")
case("text-no-newline", "FROM base:1\nCOPY f /")
case("text-trailing-space", "ENV A=b   \nCMD echo a   \nLABEL x=y   ")
case("text-unknown", "NOSUCH a b\n", fails="NOSUCH")
case("text-empty", "# nothing: not FROM\n", fails="FROM")
case("text-syntax-ignored", "# syntax=docker/dockerfile:1\nFROM base:1\nCOPY f /", older="FROM base:1\nCOPY f /")

# -- ENV and ARG

case("env-forms", "ENV A=1 B=\"two words\" C='single $A' D=a\\ b E=\nENV F old form with  spaces\nENV G \"quoted\"")
case("env-modifiers", "ENV A=a\nENV B=${A:-x} C=${N:-x} D=${A:+y} E=${N:+y} F=${N} G=$A$A H=${A}b I=$Ab")
case("env-nested-default", 'ENV A=a\nENV B=${N:-${A}x} C=${N:-$A/y} D="${N:-two words}"')
case("env-no-colon", "ENV E=\nENV B=${E:-x} C=${E:+y} D=[${E}]")
case("env-unset-forms", "ENV E=\nENV A=${E-x} B=${N-x} C=${E+y} D=${N+y}",
     older="ENV E=\nENV A= B=x C=y D=")
case("env-required", 'ENV A="${N:?say it}"\n', fails="say it")
case("env-trim", "ENV A=/x/y/z.tar.gz\nENV B=${A#*/} C=${A##*/} D=${A%.*} E=${A%%.*} F=${A/y/Y} G=${A//\\//-}",
     older="ENV A=/x/y/z.tar.gz\nENV B=x/y/z.tar.gz C=z.tar.gz D=/x/y/z.tar E=/x/y/z F=/x/Y/z.tar.gz G=-x-y-z.tar.gz")
case("env-quotes", "ENV A=\"a\\\"b\" B='a\"b' C=\"it's\" D=a\"b\"c'd' E=\"\\$A\" F='\\$A' G=\\$A H=\"a\\\\b\" I='a\\b' J=\"a\\b\"")
case("env-same-line", "ENV A=1\nENV A=2 B=$A\nENV C=$A$B")
case("env-override", "ENV COLOUR=blue NEW=1\nENV SHAPE=", base="full:1")
case("env-path", "ENV PATH=/opt:$PATH")
case("env-path-unset", "ENV PATH=/opt:$PATH", base="mute:1")
case("env-in-run", "ENV A=1 B='two  words'\nRUN echo \"$A $B $C\" >/x; echo ${A:-no} ${N:-none} >>/x; env | sort | grep -v -e HOME -e HOSTNAME -e PWD -e SHLVL >>/x")
case("env-everywhere", 'ENV F=f D=/dest U=app P=80 V=/vol S=SIGUSR1 W=work\nCOPY $F $D/\nWORKDIR /$W\nUSER $U\nEXPOSE $P\nVOLUME $V\nSTOPSIGNAL $S\nLABEL l=$F "k$F"=v\nADD ${F} ${D}/added')
case("env-not-in-commands", 'ENV A=1\nCMD echo $A\nENTRYPOINT ["echo", "$A"]\nSHELL ["/bin/sh", "$A"]\nHEALTHCHECK CMD echo $A')
case("env-equals", "ENV A=b=c D==e")
case("env-unicode", "ENV A=é B=日本 Ü=x")
case("env-legacy-variable", "ENV X x\nENV A one $X 'two'  $X")
case("env-key-variable", "ENV K=NAME\nENV $K=v")
case("env-missing-value", "ENV A\n", fails="ENV")
case("env-mixed", "ENV A=1 B\n", fails="B")
case("arg-default", "ARG A=a\nENV E=$A\nRUN echo $A >/x")
case("arg-given", "ARG A=a\nENV E=$A\nRUN echo $A >/x", arguments={"A": "given"})
case("arg-empty", "ARG A=a\nENV E=[$A]\nRUN echo [$A] >/x", arguments={"A": ""})
case("arg-none", "ARG A\nENV E=[$A]\nRUN echo [${A-unset}] >/x")
case("arg-before", "ENV E=[$A]\nARG A=a\nENV F=[$A]")
case("arg-and-env", "ARG A=arg\nENV A=env\nRUN echo $A >/x\nENV B=$A", arguments={"A": "given"})
case("env-then-arg", "ENV A=env\nARG A=arg\nRUN echo $A >/x\nENV B=$A", arguments={"A": "given"})
case("arg-of-base-env", "ARG COLOUR=green\nENV B=$COLOUR", base="full:1")
case("arg-twice", "ARG A=1\nENV X=$A\nARG A=2\nENV Y=$A")
case("arg-many", "ARG A=1 B=2 C\nENV X=$A$B$C", arguments={"C": "3"}, without=(DOCKER,))
case("arg-quoted", 'ARG A="two words"\nENV X=$A')
case("arg-of-arg", "ARG A=1\nARG B=${A}2\nENV X=$B", arguments={"A": "9"})
case("arg-other-stage", "FROM base:1\nARG A=1\nFROM base:1\nENV X=[$A]")
case("arg-inherited", "FROM base:1 AS a\nARG A=1\nFROM a\nENV X=[$A]")
case("arg-unused", "COPY f /", arguments={"NOSUCH": "1"})
case("arg-predefined", "RUN echo $HTTP_PROXY $no_proxy >/x", arguments={"HTTP_PROXY": "http://p", "no_proxy": "n"})
case("arg-predefined-not-expanded", "ENV A=[$HTTP_PROXY]", arguments={"HTTP_PROXY": "http://p"})
case("arg-predefined-declared", "ARG HTTP_PROXY\nENV A=[$HTTP_PROXY]", arguments={"HTTP_PROXY": "http://p"})
case("arg-platform", "ARG TARGETPLATFORM\nARG TARGETOS\nARG TARGETARCH\nARG BUILDPLATFORM\nENV A=$TARGETPLATFORM-$TARGETOS-$TARGETARCH-$BUILDPLATFORM")
case("arg-platform-undeclared", "ENV A=[$TARGETARCH]")
case("arg-platform-from", "FROM --platform=$BUILDPLATFORM base:1\nCOPY f /")
case("arg-in-copy", "ARG F=f\nCOPY $F /${F}x")
case("arg-in-copy-from", "ARG S=one\nFROM base:1 AS one\nCOPY f /\nFROM base:1\nARG S=one\nCOPY --from=one /f /$S")

# -- RUN

case("run-shell", "RUN echo a >/a; mkdir -p /m/n; chmod 700 /m; ln -s a /l; ln /a /hard; chown 5:6 /m/n")
case("run-exec", 'RUN ["sh", "-c", "echo $0 >/x", "zero"]')
case("run-exec-no-shell", 'RUN ["touch", "/$HOME", "/a b"]')
case("run-not-json", "RUN ['sh', '-c', 'true'] || echo shell >/x")
case("run-fails", "RUN exit 3\n", fails="exit code 3")
case("run-missing-command", 'RUN ["nosuch"]\n', fails="nosuch")
case("run-nothing", "RUN true")
case("run-removes", "RUN rm -r /old /data/kept; rm /etc/group")
case("run-replaces", "RUN rm -r /there; echo file >/there; rm /to-file; mkdir /to-file; echo x >/to-file/y")
case("run-opaque", "RUN rm -r /there && mkdir /there && echo new >/there/new")
case("run-moves", "RUN mv /old /moved; mv /there/sub /there/bus")
case("run-metadata", "RUN chmod 604 /there/kept; chown 1:2 /there/f; touch /old/first; chmod 711 /there")
case("run-special", "RUN mkfifo /fifo; mknod /null c 1 3; chmod 4711 /there/kept; mknod /blk b 7 0")
case("run-user", "USER app\nRUN id -u >/home/app/x; id -G >>/home/app/x; touch /tmp/t")
case("run-user-numbers", "USER 4242:50\nRUN id -u >/tmp/x; id -g >>/tmp/x")
case("run-workdir", "WORKDIR /srv/x\nRUN pwd >y; mkdir z")
case("run-shell-instruction", 'SHELL ["/bin/sh", "-ec"]\nRUN false; echo no >/x\n', fails="exit code 1")
case("run-shell-instruction-words", 'SHELL ["/bin/sh", "-x", "-c"]\nRUN echo $- >/x\nCMD a b\nENTRYPOINT c d')
case("run-tmp", "RUN echo a >/tmp/a; echo b >/run/b; echo c >/mnt/c")
case("run-arguments-with-quotes", "RUN echo \"a  b\" 'c  d' e\\ f >/x; echo '$HOME' >>/x")
case("run-stdin", "RUN cat >/x; echo end >>/x")
case("run-streams", "RUN echo out; echo err >&2; echo 1 >/x")
case("run-continued", "RUN set -e; \\\n  for i in 1 2; do \\\n    echo $i >>/x; \\\n  done")
case("run-engine-files", "RUN echo more >>/etc/hosts; echo x >/etc/new; ls -A /etc | grep -c resolv >/x")
case("run-workdir-away", "RUN pwd >/x", base="away:1")
case("run-home", "USER app\nRUN echo $HOME >/tmp/x\nUSER 4242\nRUN echo $HOME >/tmp/y\nUSER root\nRUN echo $HOME >/tmp/z")
case("run-umask", "RUN umask >/x; mkdir /m; touch /m/t")
case("run-heredoc", "RUN <<END\necho a >/a\necho $PATH >/b\nEND", older="RUN echo a >/a; echo $PATH >/b")
case("run-heredoc-python", "RUN <<END\n#!/bin/sh -e\necho a >/a\nEND", older="RUN echo a >/a")
case("run-heredoc-stdin", "RUN cat <<END >/x\nsome $PATH text\nEND", older="RUN echo some $PATH text >/x")
case("run-heredoc-quoted", "RUN cat <<'END' >/x\nsome $PATH text\nEND", older="RUN echo 'some $PATH text' >/x")
case("run-heredoc-stripped", "RUN cat <<-END >/x\n\t\ttext\n\tEND", older="RUN echo text >/x")
case("run-heredoc-two", "RUN cat <<A >/a; cat <<B >/b\na\nA\nb\nB", older="RUN echo a >/a; echo b >/b")
case("run-network-none", "RUN --network=none echo a >/a", older="RUN echo a >/a")
case("mount-bind", "RUN --mount=type=bind,target=/m cat /m/f /m/d/a >/x")
case("mount-bind-default", "RUN --mount=target=/m cat /m/f >/x; ls /m/d | sort >>/x")
case("mount-bind-source", "RUN --mount=type=bind,source=d,target=/m/n ls -A /m/n | sort >/x")
case("mount-bind-file", "RUN --mount=type=bind,source=f,target=/m/file cat /m/file >/x; stat -c %a:%u:%g /m/file >>/x")
case("mount-bind-read-only", "RUN --mount=type=bind,target=/m touch /m/new 2>/dev/null || echo refused >/x")
case("mount-bind-rw", "RUN --mount=type=bind,target=/m,rw echo new >/m/new; cat /m/new >/x\nRUN --mount=type=bind,target=/m,rw ls /m | grep -c new >/y || true")
case("mount-bind-stage", "FROM base:1 AS s\nRUN mkdir /o; echo o >/o/p\nFROM base:1\nRUN --mount=type=bind,from=s,source=/o,target=/m cat /m/p >/x")
case("mount-bind-image", "RUN --mount=type=bind,from=full:1,source=/data,target=/m cat /m/kept >/x; stat -c %a:%u:%g /m/kept >>/x")
case("mount-bind-missing", "RUN --mount=type=bind,source=nosuch,target=/m true\n", fails="nosuch")
case("mount-tmpfs", "RUN --mount=type=tmpfs,target=/t echo a >/t/a; cat /t/a >/x\nRUN ls -A /t >/y; true")
case("mount-cache", "RUN --mount=type=cache,target=/c echo a >/c/a; cat /c/a >/x\nRUN --mount=type=cache,target=/c cat /c/a >/y\nRUN ls -A /c >/z; true")
case("mount-cache-id", "RUN --mount=type=cache,id=one,target=/c echo a >/c/a\nRUN --mount=type=cache,id=two,target=/c ls -A /c >/y\nRUN --mount=type=cache,id=one,target=/other cat /other/a >/z")
case("mount-cache-owner", "RUN --mount=type=cache,id=owned,target=/c,uid=1000,gid=50,mode=0750 stat -c %a:%u:%g /c >/x")
case("mount-cache-relative", "WORKDIR /w\nRUN --mount=type=cache,target=c,id=relative echo a >c/a; ls /w/c >/x")
case("mount-secret", "RUN --mount=type=secret,id=s cat /run/secrets/s >/x; stat -c %a:%u:%g /run/secrets/s >>/x\nRUN ls -A /run/secrets >/y 2>/dev/null; true", secrets={"s": "hush\n"})
case("mount-secret-target", "RUN --mount=type=secret,id=s,target=/etc/tok,mode=0444,uid=1000 cat /etc/tok >/x; stat -c %a:%u:%g /etc/tok >>/x", secrets={"s": "hush\n"})
case("mount-secret-missing", "RUN --mount=type=secret,id=none ls /run/secrets >/x 2>/dev/null; true")
case("mount-secret-required", "RUN --mount=type=secret,id=none,required true\n", fails="none")
case("mount-variable", "ENV T=/m\nRUN --mount=type=bind,target=${T} cat /m/f >/x", older="RUN --mount=type=bind,target=/m cat /m/f >/x\nENV T=/m")
case("mount-bad-type", "RUN --mount=type=nosuch,target=/m true\n", fails="nosuch")
case("mount-two", "RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=d,target=/t/d cat /t/d/a >/x")
case("mount-place-made", "RUN --mount=type=tmpfs,target=/fresh/deep true\nRUN ls -dA /fresh/deep >/x; true")

# -- COPY

COPIES = {
    "file": "f /x", "file-into": "f /x/", "file-into-deep": "f /x/y/z/", "file-onto-directory": "f /there",
    "file-onto-file": "f /there/kept", "file-relative": "f x", "file-dot": "f .", "file-dot-slash": "./f ./",
    "file-rooted": "/f /x", "file-dot-end": "f /x/.", "file-dot-end-existing": "f /there/.", "file-dotdot-end": "f /x/y/..",
    "file-dot-dot": "f ./.", "directory-dot-end": "d /x/.", "directory": "d /x", "directory-slash": "d/ /x/", "directory-dots": "d/. /x",
    "directory-onto": "d /there", "directory-into-root": "d /", "everything": ". /x", "everything-slash": "/ /x",
    "several": "f g /x/", "several-with-directory": "f d g /x/", "several-directories": "d closed /x/",
    "several-same-name": "f tree /there/new/", "wildcard": "x*.txt /x/", "wildcard-one": "x*.md /x",
    "wildcard-directories": "d* /x/", "wildcard-question": "x?.txt /x/", "wildcard-class": "x[12].txt /x/",
    "wildcard-middle": "d/*/c /x/", "wildcard-nothing-more": "f nosuch* /x/", "dots-hidden": "d/.h* /x/",
    "link-to-file": "lf /x", "link-to-directory": "ld /x", "link-to-directory-slash": "ld/ /x/", "link-inside": "d/link /x/",
    "link-wildcard": "l[fd] /x/", "through-link": "ld/sub /x", "through-link-file": "ld/sub/c /x/", "modes": "exec own zero /x/",
    "closed": "closed /x", "closed-into-existing": "closed /there/sub", "sticky": "sticky /x/", "hard-links": "hard /x",
    "hard-links-apart": "hard/one hard/two /x/", "empty": "d/empty /x", "onto-link": "f /to-there", "onto-link-slash": "f /to-there/",
    "through-destination-link": "f /to-there/x", "directory-onto-link": "d /to-there", "directory-onto-link-slash": "d /to-there/",
    "onto-file-link": "f /to-file", "onto-dangling": "f /dangling", "into-dangling": "f /dangling/", "absolute-link": "f /absolute/n",
    "climbing-link": "f /climbing/n", "var-run": "f /var/run/x", "unicode": "wéird /x/é", "json": '["sp ace", "/x/a b"]',
    "json-several": '["f", "sp ace", "/x y/"]', "escaped-wildcard": "gl[[]o]b /x/", "literal-bracket": "gl[o]b /x/",
    "dollar": "dollar\\$f /x/", "dotdot": "../f /x", "dotdot-inside": "d/../f /x", "dotdot-destination": "f /x/../y",
    "slashes": "d//sub///c //x//y", "directory-over-file": "clash /there", "file-over-directory": "over /there", "directory-over-other-file": "tree /there", "into-setgid": "f /there/new/",
    "replaces-linked": "hard over /x/", "hard-links-of-two": "hard hard /x/y/",
    "directory-onto-file": "d /there/kept", "file-below-file": "f /there/kept/x", "several-onto-file": "f g /there/kept",
    "several-without-slash": "f g /x", "wildcard-several-without-slash": "x*.txt /x", "missing": "nosuch /x", "wildcard-missing": "nosuch* /x/",
    "link-out": "lout /x", "link-lost": "lost /x", "link-up": "lup /x", "round": "f /round/x", "one-word": "f", "deep": "de /x",
    "same-file-twice": "f f /x/", "overlap": "d d/sub /x/", "two-with-same-inside": "d clash /x/",
}
_COPY_FAILS = {
    "directory-over-file": "kept", "directory-onto-file": "kept", "file-over-directory": "/there/dir", "directory-over-other-file": "/there/f", "several-same-name": "/f", "two-with-same-inside": "/x/a",
    "literal-bracket": "gl[o]b", "file-below-file": "kept",
    "several-onto-file": "directory", "several-without-slash": "directory", "wildcard-several-without-slash": "directory",
    "missing": "nosuch", "wildcard-missing": "nosuch", "link-out": "lout", "link-lost": "lost", "round": "round",
    "one-word": "COPY",
}
for _name, _words in COPIES.items():
    case(f"copy-{_name}", f"COPY {_words}", fails=_COPY_FAILS.get(_name, ""))

case("copy-workdir", "WORKDIR /w/v\nCOPY f d ./\nCOPY g ../u/\nCOPY exec x")
case("copy-after-user", "USER app\nCOPY f /x/\nWORKDIR /w\nCOPY f y/")
case("copy-chown-names", "COPY --chown=app:staff f d /x/")
case("copy-chown-name", "COPY --chown=app d /x/y/")
case("copy-chown-numbers", "COPY --chown=12:34 d /x/y")
case("copy-chown-number", "COPY --chown=12 f /x")
case("copy-chown-known-number", "COPY --chown=1000 f /x")
case("copy-chown-group", "COPY --chown=12:staff f /x")
case("copy-chown-missing", "COPY --chown=nosuch f /x\n", fails="nosuch")
case("copy-chown-missing-group", "COPY --chown=app:nosuch f /x\n", fails="nosuch")
case("copy-chown-onto", "COPY --chown=1:2 d /there")
case("copy-chown-existing-directory", "COPY --chown=1:2 f /there/")
case("copy-chown-variable", "ARG U=app\nCOPY --chown=$U f /x")
case("copy-chown-new-user", "RUN echo new:x:77:78::/:/bin/sh >>/etc/passwd\nCOPY --chown=new f /x")
case("copy-chown-scratch", "FROM scratch\nCOPY --chown=3:4 f /d/")
case("copy-chown-scratch-name", "FROM scratch\nCOPY --chown=app f /d/\n", fails="app")
case("copy-chmod", "COPY --chmod=640 f exec /x/")
case("copy-chmod-directory", "COPY --chmod=0751 d /x/y")
case("copy-chmod-setid", "COPY --chmod=4755 f /x")
case("copy-chmod-link", "COPY --chmod=700 d/link d/sub /x/")
case("copy-chmod-letters", "COPY --chmod=u=rwX,go=rX exec own d/empty /x/", older="COPY --chmod=755 exec /x/\nCOPY --chmod=644 own /x/")
case("copy-chmod-plus", "COPY --chmod=+x own /x", older="COPY --chmod=711 own /x")
case("copy-chmod-bad", "COPY --chmod=rubbish f /x\n", fails="rubbish")
case("copy-chmod-chown", "COPY --chown=5:6 --chmod=600 f /x/")
case("copy-link", "COPY --link f /x/", older="COPY f /x/")
case("copy-link-directory", "COPY --link d /x/y", older="COPY d /x/y")
case("copy-link-chown", "COPY --link --chown=5:6 d /x", older="COPY --chown=5:6 d /x")
case("copy-link-onto-link", "COPY --link f /to-there/n", older="RUN rm /to-there\nCOPY f /to-there/n",
     without=(BUILDAH,))  # its layer has an opaque marker where a symlink was, which the oracle follows
case("copy-parents", "COPY --parents d/sub/c de/ep /x/", older="COPY d/sub/c /x/d/sub/c\nCOPY de/ep /x/de/ep")
case("copy-parents-pivot", "COPY --parents ./de/./ep/er/z /x/", older="COPY de/ep/er/z /x/ep/er/z")
case("copy-parents-wildcard", "COPY --parents d*/*.txt /x/", older="COPY d/b.txt /x/d/\nCOPY de/x.txt /x/de/")
case("copy-exclude", "COPY --exclude=*.txt --exclude=sub d /x", older="COPY d /x\nRUN rm -r /x/b.txt /x/sub")
case("copy-exclude-deep", "COPY --exclude=**/c d /x", older="COPY d /x\nRUN rm /x/sub/c")
case("copy-heredoc", "COPY <<END /x/file\nhello $PATH\nEND", older="RUN mkdir /x; echo hello $PATH >/x/file")
case("copy-heredoc-several", "COPY <<a <<'b' /x/\n$PATH\na\n$PATH\nb", older="RUN mkdir /x; echo $PATH >/x/a; echo '$PATH' >/x/b")
case("copy-heredoc-chmod", "COPY --chmod=755 --chown=5:6 <<END /file\nx\nEND", older="RUN echo x >/file; chmod 755 /file; chown 5:6 /file")
case("copy-from-stage", "FROM base:1 AS s\nRUN mkdir -p /o/p; echo a >/o/a; chown 5:6 /o/a; chmod 4711 /o/a; ln -s a /o/l; ln /o/a /o/h\nFROM base:1\nCOPY --from=s /o /x\nCOPY --from=s /o/a /o/l /y/")
case("copy-from-image", "COPY --from=full:1 /data /x\nCOPY --from=full:1 home/app/note /y/")
case("copy-from-image-chown", "COPY --from=full:1 --chown=0:0 /data /x")
case("copy-from-link", "COPY --from=full:1 /to-there /x\nCOPY --from=full:1 /to-there/kept /y\nCOPY --from=full:1 /var/run /z")
case("copy-from-wildcard", "COPY --from=full:1 /there/k* /etc/*ss* /x/")
case("copy-from-root", "FROM base:1 AS s\nRUN rm -r /bin /dev /proc /sys 2>/dev/null; true\nFROM scratch\nCOPY --from=0 / /")
case("copy-from-setid-image", "COPY --from=full:1 /bin/busybox-setid /x")
case("copy-from-missing", "COPY --from=full:1 /nosuch /x\n", fails="nosuch")
case("copy-from-removed", "FROM base:1 AS s\nRUN rm /there/kept\nFROM base:1\nCOPY --from=s /there/kept /x\n", fails="kept")
case("copy-from-itself", "FROM base:1 AS s\nCOPY --from=s /etc/passwd /x\n", fails="s")
case("copy-from-dangling", "COPY --from=full:1 /dangling /x\n", fails="dangling")
case("copy-into-stage-over", "COPY d /x\nCOPY clash /x2/\nCOPY g /x/a\nCOPY tree/f/inner /x/b.txt")
case("copy-then-run", "COPY d /x\nRUN rm /x/a; echo changed >/x/b.txt; mv /x/sub /x/bus")
case("copy-setid", "COPY x /x", files={"x": File(b"x\n", 0o4755)})
case("copy-xattr", "COPY x /x", files={"x": File(b"x\n", xattrs={"user.note": b"here"})})
case("copy-capability", "COPY x /x", files={"x": File(b"x\n", 0o755, {"security.capability": bytes.fromhex("0100000200040000000000000000000000000000")})})

# -- .dockerignore

_IGNORED = {
    "plain": "f\nd\n", "wildcard": "*.txt\n", "deep": "**/*.txt\n", "deep-directory": "**/sub\n", "again": "*\n!f\n!d\n",
    "again-inside": "d\n!d/sub/c\n", "again-deep": "**\n!**/*.txt\n", "comment": "# no\n\n  f  \n", "slashes": "/f\nd/\n./g\n", "order": "!f\nf\n", "last-wins": "f\n!f\n",
    "dots": "d/../f\n", "question": "x?.txt\n", "class": "x[1-2].txt\n", "star-of-one": "d/*\n", "double-inside": "de/**/z\n",
    "itself": ".dockerignore\nDockerfile\n", "all": "*\n", "bom": "\ufefff\n", "crlf": "f\r\nd\r\n", "hidden": "**/.*\n", "escaped": "gl\\[o\\]b\n", "link": "ld\nlf\n",
    "all-but-deep": "*\n!de/ep/er\n", "spaces": "sp ace\n", "parent-again": "de/ep\n!de/ep/y\nde/ep/er\n",
}
for _name, _text in _IGNORED.items():
    case(f"ignore-{_name}", "COPY . /x/", files={**TREE, ".dockerignore": _text})
case("ignore-named", "COPY f /x/\n", files={**TREE, ".dockerignore": "f\n"}, fails="f")
case("ignore-own-file", "COPY . /x/", files={**TREE, ".dockerignore": "f\n", "Dockerfile.dockerignore": "g\n"})
case("ignore-copy-directory", "COPY d /x/", files={**TREE, ".dockerignore": "**/a\n**/sub\n"})
case("ignore-copy-from", "COPY --from=full:1 /there /x/", files={**TREE, ".dockerignore": "there\n**/kept\n"})

# -- ADD

_PACKED = {
    "p.tar": File(archive()), "p.tgz": File(archive(gzipped)), "p.tar.bz2": File(archive(bz2.compress)),
    "p.tar.xz": File(archive(lzma.compress)), "text.gz": File(gzipped(b"text\n" * 200)), "empty.gz": File(b""),
    "noname": File(archive(gzipped)), "no.tar": File(b"not a tar\n"), "f.gz": File(b"\x1f\x8b\x08\x00nothing"), "f": "f\n", "d/a": "a\n", "empty.tar": File(b"\0" * 10240),
}
_ADDS = {
    "file": "f /x", "directory": "d /x/", "tar": "p.tar /x", "tar-slash": "p.tar /x/", "gzip": "p.tgz /x/", "bzip2": "p.tar.bz2 /x/", "xz": "p.tar.xz /x/",
    "no-name": "noname /x/", "not-a-tar": "no.tar /x/", "not-gzip": "f.gz /x/", "gzip-of-text": "text.gz /x/", "empty-gzip": "empty.gz /x/", "file-then-tar": "f p.tar /x/", "onto": "p.tar /there/", "onto-link": "p.tar /to-there",
    "root": "p.tar /", "several": "p.tar f /x/", "wildcard": "*.tar /x/", "chown": "--chown=5:6 p.tar /x/", "chown-file": "--chown=app f /x/",
    "chmod": "--chmod=700 f /x/", "empty": "empty.tar /x/", "relative": "p.tar sub/", "directory-with-tar": ". /x/",
}
for _name, _words in _ADDS.items():
    case(f"add-{_name}", f"WORKDIR /w\nADD {_words}", files=_PACKED)
case("add-clash-directory", "ADD p.tar /there/", files={"p.tar": File(tar_of([("kept", None), ("kept/x", b"x")]))})
case("add-clash-file", "ADD p.tar /there/", files={"p.tar": File(tar_of([("dir", b"file")]))})
case("add-existing-directory", "ADD p.tar /there/", files={"p.tar": File(tar_of([("sub", None), ("sub/x", b"x")]))})
case("add-without-parents", "ADD --chown=5:6 p.tar /new/x/", files={"p.tar": File(tar_of([("a/b/c", b"c")]))})
case("copy-parents-existing", "COPY --parents d/sub/c /there/", files={**TREE, "d/sub/c": "c\n", "there/sub/c": "c\n"}, older="COPY d/sub/c /there/d/sub/c")
case("copy-tar", "COPY p.tar /x/", files=_PACKED)
case("add-missing", "ADD nosuch /x\n", fails="nosuch")
case("add-heredoc", "ADD <<END /x/file\nx\nEND", older="RUN mkdir /x; echo x >/x/file")
case("add-unpack-no", "ADD --unpack=false p.tar /x/", older="COPY p.tar /x/", files=_PACKED)
case("add-exclude", "ADD --exclude=a d /x/", older="RUN mkdir /x", files=_PACKED)

# -- WORKDIR, USER

case("workdir", "WORKDIR /a/b")
case("workdir-relative", "WORKDIR /a\nWORKDIR b\nWORKDIR c/../d\nWORKDIR ../e")
case("workdir-existing", "WORKDIR /there/sub")
case("workdir-slash", "WORKDIR /a/b/\nWORKDIR ./c/")
case("workdir-user", "USER app\nWORKDIR /a/b\nRUN pwd >/tmp/x")
case("workdir-user-home", "USER app\nWORKDIR /home/app/new/deep")
case("workdir-user-numbers", "USER 4242:50\nWORKDIR /a")
case("workdir-link", "WORKDIR /to-there/new\nRUN pwd >/x")
case("workdir-file", "WORKDIR /there/kept\n", fails="kept")
case("workdir-dangling", "WORKDIR /dangling\nRUN pwd >/x")
case("workdir-variable", "ENV A=/a B=b\nWORKDIR $A/${B}\nWORKDIR ${C:-c}")
case("workdir-scratch", "FROM scratch\nWORKDIR /a/b\nCOPY f .")
case("workdir-of-base", "COPY f .\nRUN pwd >/tmp/x", base="full:1")
case("workdir-away", "COPY f .\nRUN pwd >/tmp/x", base="away:1")
case("workdir-root", "WORKDIR /\nCOPY f .")
case("workdir-spaces", "WORKDIR /a b/c")
case("workdir-quoted", 'WORKDIR "/a b"')
case("workdir-relative-first", "WORKDIR a\n", base="mute:1")
case("user", "USER app:staff\nUSER nosuch")
case("user-missing-run", "USER nosuch\nRUN true\n", fails="nosuch")
case("user-variable", "ARG U=app\nUSER $U:${G:-staff}\nRUN id -gn >/tmp/x")

# -- VOLUME, EXPOSE, LABEL

case("volume", 'VOLUME /v /w/x\nVOLUME ["/a b", "/j"]')
case("volume-relative", "WORKDIR /w\nVOLUME v")
case("volume-existing", "VOLUME /there\nCOPY f /there/new")
case("volume-then-run", "VOLUME /v\nRUN mkdir -p /v; echo a >/v/a\nRUN ls -A /v >/x")
case("volume-of-base", "USER root\nRUN echo a >/data/a; ls -A /data >/x", base="full:1")
case("volume-then-copy", "VOLUME /v\nCOPY f /v/")
case("volume-empty", 'VOLUME [""]\n', fails="VOLUME")
case("expose", "EXPOSE 80 443/tcp 53/udp\nEXPOSE 8000-8002\nEXPOSE 80")
case("expose-sctp", "EXPOSE 9/sctp")
case("expose-case", "EXPOSE 80/UDP")
case("expose-bad", "EXPOSE 99999\n", fails="99999")
case("expose-word", "EXPOSE http\n", fails="http")
case("expose-of-base", "EXPOSE 81", base="full:1")
case("expose-host", "EXPOSE 127.0.0.1:80:8080\n", fails="127.0.0.1")
case("label", "LABEL a=b \"c d\"=\"e f\" g='h' i=\"multi\\\nline\"\nLABEL old form here\nLABEL a=new")
case("label-of-base", "LABEL level=2 maker=", base="full:1")
case("label-given", "LABEL a=b", labels={"a": "given", "n": "new"})
case("label-quotes", "LABEL a=\"x\\\"y\" b='$PATH' c=\"$PATH\" d=x\\ y")
case("label-key-dots", "LABEL com.example.some-key=v com.example/x=y")
case("maintainer", "MAINTAINER Some One <some@one.example>")

# -- CMD, ENTRYPOINT, HEALTHCHECK and the rest

case("cmd-exec", 'CMD ["a", "b c"]')
case("cmd-shell", 'CMD a "b c" $D')
case("cmd-twice", 'CMD a\nCMD ["b"]')
case("cmd-empty", "CMD []")
case("cmd-of-base", 'CMD ["new"]', base="full:1")
case("cmd-then-entrypoint", 'CMD ["a"]\nENTRYPOINT ["b"]')
case("entrypoint-then-cmd", 'ENTRYPOINT ["b"]\nCMD ["a"]')
case("entrypoint-clears-cmd-of-base", 'ENTRYPOINT ["b"]', base="full:1")
case("entrypoint-empty", "ENTRYPOINT []", base="full:1")
case("entrypoint-shell", "ENTRYPOINT exec top -b")
case("entrypoint-of-stage", 'FROM base:1 AS a\nCMD ["a"]\nFROM a\nENTRYPOINT ["b"]')
case("cmd-broken-json", "CMD [\"a\", 'b']")
case("cmd-json-numbers", "CMD [1, 2]\n", fails="strings")
case("cmd-json-escapes", 'CMD ["a\\tb", "\\u00e9", "c:\\\\d"]')
case("cmd-json-lines", 'CMD [ "a", \\\n  "b" ]')
case("cmd-bare", "CMD\n")
case("entrypoint-bare", "ENTRYPOINT\n")
case("healthcheck", "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=2m --retries=4 CMD curl -f x || exit 1")
case("healthcheck-exec", 'HEALTHCHECK CMD ["a", "b"]')
case("healthcheck-none", "HEALTHCHECK NONE", base="full:1")
case("healthcheck-of-base", "LABEL x=y", base="full:1")
case("healthcheck-twice", "HEALTHCHECK CMD a\nHEALTHCHECK --retries=2 CMD b")
case("healthcheck-bad", "HEALTHCHECK --interval=5 CMD a\n", fails="interval")
case("healthcheck-zero", "HEALTHCHECK --interval=0s --retries=0 CMD a")
case("healthcheck-start-interval", "HEALTHCHECK --start-interval=2s CMD a",
     without=PEERS)
case("stopsignal", "STOPSIGNAL SIGKILL")
case("stopsignal-number", "STOPSIGNAL 9")
case("stopsignal-short", "STOPSIGNAL HUP")
case("stopsignal-bad", "STOPSIGNAL NOSUCH\n", fails="NOSUCH")
case("shell", 'SHELL ["/bin/sh", "-c"]\nCMD a')
case("shell-not-json", "SHELL /bin/sh -c\n", fails="SHELL")
case("shell-inherited", 'FROM base:1 AS a\nSHELL ["/bin/sh", "-ec"]\nFROM a\nCMD x')

# -- ONBUILD

case("onbuild", 'ONBUILD RUN echo trigger >/t\nONBUILD COPY f /from-child\nONBUILD ENV T=1\nCMD ["p"]')
case("onbuild-child", "FROM onbuild:1\nCOPY g /\nENV C=$T", after="onbuild")
case("onbuild-child-of-stage", "FROM base:1 AS p\nONBUILD RUN echo t >/t\nFROM p\nCOPY f /")
case("onbuild-workdir", "ONBUILD WORKDIR /w\nONBUILD COPY d ./\nONBUILD USER app\nONBUILD CMD x")
case("onbuild-workdir-child", "FROM onbuild-workdir:1\nRUN id -u >/tmp/x", after="onbuild-workdir")
case("onbuild-argument", "ONBUILD ARG A=1\nONBUILD RUN echo $A >/x")
case("onbuild-argument-child", "FROM onbuild-argument:1\nENV B=$A", after="onbuild-argument", arguments={"A": "9"})
case("onbuild-onbuild", "ONBUILD ONBUILD RUN true\n", fails="ONBUILD")
case("onbuild-from", "ONBUILD FROM base:1\n", fails="FROM")
case("onbuild-bad", "ONBUILD NOSUCH x\n", fails="NOSUCH")
case("onbuild-entrypoint", 'ONBUILD ENTRYPOINT ["e"]\nCMD ["c"]')
case("onbuild-entrypoint-child", "FROM onbuild-entrypoint:1", after="onbuild-entrypoint")
