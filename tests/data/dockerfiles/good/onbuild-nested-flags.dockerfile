FROM a
ONBUILD RUN --network=none --mount=type=cache,target=/c x
ONBUILD HEALTHCHECK --retries=2 CMD x
