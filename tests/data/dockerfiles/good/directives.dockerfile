# syntax=docker/dockerfile:1.7-labs
# ESCAPE = `
#check=skip=StageNameCasing, JSONArgsRecommended;error=true
# a comment
# syntax=ignored
FROM windows
COPY a.txt c:\
RUN dir `
  c:\
