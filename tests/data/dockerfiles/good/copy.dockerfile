FROM a
COPY a b c /dest/
COPY ["with blank", "other", "/dest dir/"]
COPY --chown=user:group --chmod=u=rw,go=r --link a /b
COPY --link=false --parents=true ./x/./a.txt /b
COPY --exclude=*.md --exclude=**/test --from=build:1 a b
COPY --from=1 a\ b /c
COPY [abc] /x
