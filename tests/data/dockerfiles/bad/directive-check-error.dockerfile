# check=error=maybe
FROM a
