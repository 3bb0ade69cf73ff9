FROM a
LABEL név="árvíztűrő" 名前=値
COPY datei mit /ziel/
RUN echo 🐳
