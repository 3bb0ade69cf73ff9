FROM a
ONBUILD RUN echo hi
ONBUILD COPY --chown=1 . /app
onbuild env A=b
ONBUILD RUN <<EOF
text
EOF
ONBUILD   CMD   ["a"]
ONBUILD ADD a b
