FROM a
RUN --mount='"type=bind' y
