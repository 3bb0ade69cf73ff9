FROM a
COPY --chown="user name":x --exclude='*.a b' --chmod=7\55 a b
RUN --mount="type=bind,target=/a b" c
