FROM golang:1.24 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -o /out/server ./cmd/server

FROM build AS test
RUN go test ./...

FROM scratch
COPY --from=build /out/server /server
COPY --from=0 /etc/passwd /etc/passwd
ENTRYPOINT ["/server"]
