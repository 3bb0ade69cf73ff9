FROM a
RUN <<EOF
one
  two $x
EOF
RUN <<-EOF
	three
		four
	EOF
RUN <<"EOF"
$five
EOF
RUN <<'E O F'
six
E O F
RUN <<EOF
#!/usr/bin/env python3
print("seven")
EOF
