# escape=`
FROM a
ENV A=`$B C="x`"y" D=c:\dir\
RUN one `
  two \
COPY [ "a`b", "c:\\" ]
