# check=skp=all
FROM a
