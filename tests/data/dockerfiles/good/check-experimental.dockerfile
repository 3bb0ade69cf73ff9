# check=experimental=InvalidDefinitionDescription;skip=
FROM a
