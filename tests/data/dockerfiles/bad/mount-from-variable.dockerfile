FROM a
RUN --mount=type=bind,from=$x,target=/x y
