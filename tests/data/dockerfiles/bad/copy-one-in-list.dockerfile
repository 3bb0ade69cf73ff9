FROM a
COPY ["a"]
