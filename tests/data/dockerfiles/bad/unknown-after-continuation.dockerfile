FROM a
RUN a \
 b
CPOY x y
