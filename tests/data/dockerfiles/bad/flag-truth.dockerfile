FROM a
COPY --link=yes c d
