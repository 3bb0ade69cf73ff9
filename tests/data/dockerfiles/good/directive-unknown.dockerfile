# unknown=directive
# syntax=not-any-more
FROM a
