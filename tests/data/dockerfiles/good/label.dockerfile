FROM a
LABEL one=1
LABEL "com.example.vendor"="ACME Incorporated" com.example.label-with-value='foo'
LABEL description="over \
several lines"
LABEL old style here
LABEL multi=1 \
      line=2
