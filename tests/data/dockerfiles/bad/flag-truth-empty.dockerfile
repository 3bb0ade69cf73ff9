FROM a
COPY --link= c d
