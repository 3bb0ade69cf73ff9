FROM a
RUN --mount=type=chace,target=/x y
