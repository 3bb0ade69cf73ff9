FROM a
ARG one
ARG two= three="quoted value" four='single' five=es\ caped
ARG six="a
