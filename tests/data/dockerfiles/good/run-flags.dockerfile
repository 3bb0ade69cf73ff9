FROM a
RUN --network=none --security=insecure one
RUN --network=host two
RUN --mount=type=bind,source=.,target=/src --mount=type=cache,id=c,target=/root/.cache,sharing=locked three
RUN --mount=type=tmpfs,target=/tmp,size=64m --mount=type=secret,id=token --mount=type=ssh four
