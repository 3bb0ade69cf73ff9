FROM a
RUN echo $HOME && echo "quoted" | cat
RUN   leading   blanks kept   inside  
RUN ["not json
RUN [ -f /x ] || true
RUN ['single', 'quotes']
RUN -flag
RUN -- --mount=type=bind after
