FROM a
RUN one\
two \   
  three \	
	four
RUN echo \\
RUN \
  late
ENV \
  A=1 \
  B=2
RUN last \
