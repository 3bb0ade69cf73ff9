# check=skip
FROM a
