FROM a
RUN --mount=type=cache,target=/x,ro=maybe y
