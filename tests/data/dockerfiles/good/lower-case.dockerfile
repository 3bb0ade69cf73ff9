from alpine:3 as base
run echo hi
cmd ["sh"]
