FROM a
RUN one && \

    two && \


    three
CMD a
