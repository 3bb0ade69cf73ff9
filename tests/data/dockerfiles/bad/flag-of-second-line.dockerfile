FROM a
COPY --link \
  --keep-git-dir a b
