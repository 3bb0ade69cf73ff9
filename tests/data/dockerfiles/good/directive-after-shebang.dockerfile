#!/usr/bin/env builder
# syntax=example.com/frontend
# check=skip=all
FROM a
