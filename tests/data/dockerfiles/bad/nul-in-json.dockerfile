FROM a
RUN ["a\u0000"]
