

   FROM a
	RUN	b
 COPY	a		b   c  
CMD x
