FROM a
RUN --mount=type=bind,target=/x,size=1m y
