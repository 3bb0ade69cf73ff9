FROM a
COPY <<"A B" /x
y
A B
