FROM a
ONBUILD maintainer b
