FROM a
RUN --mount=target=/src one
RUN --mount=type=bind,from=build,src=/out,dst=/in,rw two
RUN --mount=type=cache,target=/c,mode=0755,uid=1000,gid=1000,ro three
RUN --mount=type=secret,id=aws,target=/root/.aws,required=true,mode=0400 four
RUN --mount=type=secret,id=TOKEN,env=TOKEN five
RUN --mount=type=secret,source=s six
RUN --mount=type=secret,target=/etc/key seven
RUN --mount=type=ssh,id=github,required eight
RUN --mount=type=tmpfs,target=/t,size=1.5g nine
RUN --mount='"type=bind","target=/with,comma"' ten
RUN --mount=type=cache,target=/c,readonly=false,sharing=PRIVATE eleven
RUN --mount=type=cache,id=$ID,target=${DIR}/x,uid=$UID twelve
