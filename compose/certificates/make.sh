#!/bin/sh
# Makes a certificate authority and three certificates, once: for the broker, for a client of it, for PostgreSQL. Each goes
# into the volume of the one that needs it, so that nobody sees another's key; the authority's own key is not kept.
set -eu

if [ -e /tls/client/tls.crt ]; then
  echo 'The certificates are there already.'
  exit 0
fi
cd "$(mktemp -d)"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj '/CN=sockbroker compose' \
  -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign \
  -keyout ca.key -out ca.crt 2>/dev/null

# certificate DIRECTORY OWNER SUBJECT_ALT_NAME
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout tls.key -out tls.csr 2>/dev/null
  printf 'subjectAltName=critical,%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3" >extensions
  openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile extensions -out tls.crt 2>/dev/null
  chown "$2:$2" tls.key
  chmod 600 tls.key
  chmod 644 tls.crt ca.crt
  mkdir -p "$1"
  chmod 755 "$1"
  cp ca.crt "$1/ca.crt"
  mv tls.key tls.crt "$1/"
  echo "A certificate for $3."
}

# The numbers are those of the users in the images.
certificate /tls/broker 7400 DNS:broker,DNS:broker2
certificate /tls/postgres 7432 DNS:postgres
# The first URI is who the client is to the broker.
certificate /tls/client 7400 URI:spiffe://compose.example/client
