FROM a
RUN --mount=type=cache,target=/x,sharing=locket y
