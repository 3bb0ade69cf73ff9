FROM a
RUN cat <<EOF > /etc/motd && \
  echo done
hello
EOF
RUN <<A cat && <<B cat
a
A
b
B
RUN 3<<EOF cat <&3
three
EOF
RUN cat <<< here
RUN echo "<<NO" '<<NO' a<<NO
RUN ["<<EOF"]
RUN echo $((1 << 2)) && echo 1 <<E
e
E
