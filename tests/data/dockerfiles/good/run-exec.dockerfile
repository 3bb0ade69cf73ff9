FROM a
RUN ["echo", "a b", "\u00e9\n\"x\""]
RUN [ "a" , "b" ]
RUN ["/bin/sh", "-c", "echo $HOME"]
RUN [ "one", \
      "two" ]
RUN ["half \ud800 pair"]
