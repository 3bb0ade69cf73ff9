FROM a
ENV a=b
ENV a=b c=d
ENV quoted="a b" single='c d' part=e" f "g
ENV escaped=a\ b dollar=\$x quote=\"
ENV empty= none=""
ENV old the old form
ENV tab	value
ENV joined=x"y"'z'
ENV eq=a=b=c
