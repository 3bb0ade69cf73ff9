# a comment ends them
# escape=`
FROM a
RUN b \
  c
