FROM a
LABEL name="café"
RUN echo ÿþ
