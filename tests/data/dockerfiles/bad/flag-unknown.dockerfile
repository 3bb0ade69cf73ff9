FROM a
COPY --chwon=1 c d
