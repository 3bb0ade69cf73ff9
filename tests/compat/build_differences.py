"""Where peers come to something else, and for which cases: reason, peer, names.

A reason is the name of a row in docs/decisions/091-builds-as-docker-has-them.md, which says who is right.
"""

from __future__ import annotations

from collections.abc import Mapping

DOCKER, BUILDKIT, BUILDAH = "docker", "buildkit", "buildah"
PEERS = (DOCKER, BUILDKIT, BUILDAH)

DIFFERENCES: Mapping[str, Mapping[str, str]] = {
    "Stages that nothing needs": {DOCKER: "from-unreachable from-unreachable-source"},
    "Stages that come later": {DOCKER: "from-later-stage"},
    "Names of stages in another case": {BUILDAH: "from-as target-case"},
    "`--target 0`": {DOCKER: "target-number", BUILDKIT: "target-number"},
    "WORKDIR of scratch": dict.fromkeys((DOCKER, BUILDAH), "from-scratch from-scratch-config from-three copy-chown-scratch copy-from-root"),
    "`escape` directive": {BUILDAH: "text-escape text-escape-dollar"},
    "Order of Env": {BUILDAH: "env-override"},
    "ENV, then ARG of the same name": {BUILDKIT: "env-then-arg arg-of-base-env"},
    "Arguments of the stage below": {DOCKER: "arg-inherited", BUILDAH: "arg-inherited"},
    "Proxies that no ARG declares": {DOCKER: "arg-predefined-not-expanded", BUILDAH: "arg-predefined-not-expanded"},
    "Arguments of platforms": {DOCKER: "arg-platform arg-platform-from"},
    "mknod": {BUILDAH: "run-special"},
    "SHELL and CMD": {BUILDAH: "run-shell-instruction-words shell-inherited"},
    "Places of mounts": {
        BUILDKIT: "mount-bind mount-bind-default mount-bind-source mount-bind-file mount-bind-read-only mount-bind-rw "
                  "mount-bind-stage mount-bind-image mount-tmpfs mount-cache mount-cache-id mount-cache-owner "
                  "mount-cache-relative mount-secret mount-variable mount-two mount-place-made",
        BUILDAH: "mount-bind-source mount-bind-file mount-secret mount-place-made",
    },
    "What is written into a bind mount": {BUILDAH: "mount-bind-rw"},
    "A bind mount of nothing": {BUILDAH: "mount-bind-missing"},
    "Relative targets of mounts": {BUILDAH: "mount-cache-relative"},
    "Files over directories": dict.fromkeys(
        (DOCKER, BUILDAH),
        "copy-several-same-name copy-directory-over-file copy-file-over-directory copy-directory-over-other-file "
        "copy-two-with-same-inside",
    ),
    "`..` at the top of the context": {DOCKER: "copy-dotdot"},
    "Several files without a `/`": {
        BUILDKIT: "copy-several-onto-file copy-several-without-slash copy-wildcard-several-without-slash",
        BUILDAH: "copy-several-without-slash copy-wildcard-several-without-slash",
    },
    "Wildcards for nothing": {BUILDKIT: "copy-wildcard-missing copy-literal-bracket"},
    "Wildcards behind files": {BUILDKIT: "copy-wildcard-middle"},
    "Brackets in brackets": {BUILDAH: "copy-escaped-wildcard"},
    "A symlink as destination": {BUILDAH: "copy-onto-file-link copy-onto-dangling"},
    "Directories in a setgid directory": {
        DOCKER: "copy-into-setgid workdir-link copy-parents-existing",
        BUILDKIT: "copy-into-setgid workdir-link copy-parents-existing",
    },
    "Owners of new directories above": {
        DOCKER: "copy-after-user copy-chown-name copy-chown-numbers add-chown add-without-parents workdir-user "
                "workdir-user-home workdir-user-numbers",
        BUILDAH: "add-without-parents",
    },
    "`--chown` of a user without a group": {DOCKER: "copy-chown-new-user"},
    "`--chown` of nobody known": {BUILDKIT: "copy-chown-missing copy-chown-missing-group"},
    "`--chmod`": {BUILDKIT: "copy-chmod-setid copy-chmod-bad"},
    "Setid bits in a context": {DOCKER: "copy-setid", BUILDAH: "copy-setid"},
    "Xattrs of a context": {DOCKER: "copy-xattr copy-capability", BUILDKIT: "copy-xattr copy-capability"},
    "`!` behind `**`": dict.fromkeys(PEERS, "ignore-again-deep"),
    "Dockerfile.dockerignore": {DOCKER: "ignore-own-file"},
    "WORKDIR that is a file": {BUILDAH: "workdir-file"},
    "WORKDIR of the base that is not there": {DOCKER: "workdir-away"},
    "Writing into a VOLUME": {DOCKER: "volume-then-run volume-of-base", BUILDAH: "volume-then-run volume-of-base"},
    "VOLUME that is not there": {BUILDAH: "volume volume-relative"},
    "EXPOSE": {BUILDAH: "expose expose-case expose-bad expose-word"},
    "EXPOSE with an address": dict.fromkeys(PEERS, "expose-host"),
    "CMD without a command": {DOCKER: "cmd-bare entrypoint-bare", BUILDAH: "cmd-bare entrypoint-bare"},
    "ENTRYPOINT over the CMD of a stage": {DOCKER: "entrypoint-of-stage"},
    "HEALTHCHECK NONE": {DOCKER: "healthcheck-none"},
    "HEALTHCHECK --interval=0s": dict.fromkeys(PEERS, "healthcheck-zero"),
    "ONBUILD with an unknown instruction": dict.fromkeys(PEERS, "onbuild-bad"),
}
