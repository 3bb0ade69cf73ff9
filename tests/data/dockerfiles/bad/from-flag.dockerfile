FROM --platfrom=linux/amd64 a
