FROM a
RUN <<EOF
FROM b
RUN <<INNER
# comment
\
EOF
CMD x
