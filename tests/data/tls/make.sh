#!/bin/sh
# Makes the certificates that the tests of TLS use. They are good until 2126, for loopback names only.
set -eu
cd "$(dirname "$0")"
days=36500
new_key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
new_key ca.key
openssl req -x509 -new -key ca.key -days $days -subj "/CN=Test authority" -out ca.crt \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign
for name in server client; do
    new_key $name.key
    openssl req -new -key $name.key -subj "/CN=$name" -out $name.csr
    if [ $name = server ]; then
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > $name.ext
    else
        printf 'extendedKeyUsage=clientAuth\n' > $name.ext
    fi
    openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days $days -extfile $name.ext \
        -out $name.crt
done
rm -f ca.key ca.srl ./*.csr ./*.ext
