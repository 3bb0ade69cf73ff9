FROM a
RUM echo
