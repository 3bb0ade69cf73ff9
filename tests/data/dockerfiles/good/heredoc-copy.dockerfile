FROM a
COPY <<EOF /etc/one
text $x
EOF
COPY <<-two.txt <<"three.txt" four /dir/
	two
	two.txt
three
three.txt
ADD --chmod=644 <<EOF /five
EOF
