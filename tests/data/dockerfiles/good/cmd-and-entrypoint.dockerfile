FROM a
CMD echo hi
CMD ["echo", "hi"]
CMD []
CMD [ ]
ENTRYPOINT exec top -b
ENTRYPOINT ["top", "-b"]
ENTRYPOINT []
