"""Images from Dockerfiles: the language, what a build is made of, and its execution."""
