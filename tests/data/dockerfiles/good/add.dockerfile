FROM a
ADD https://example.com/x.tar.gz /tmp/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/x /x
ADD --keep-git-dir=true --link https://github.com/a/b.git#v1 /b
ADD --unpack=false a.tar /a
ADD --unpack b.tar /b
ADD --chown=1 --exclude=x c.tar /c
