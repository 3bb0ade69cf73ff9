FROM a
[31mRUN x
