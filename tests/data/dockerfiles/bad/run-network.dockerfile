FROM a
RUN --network=hots x
