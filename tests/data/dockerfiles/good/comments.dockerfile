# one

  # two, indented
FROM a
# three
RUN one \
# between
  # between, indented
  two # no comment \
  three
#
# last
