FROM a
COPY --from=a --from=b c d
