FROM a
RUN --mount=type=bind,taget=/x y
