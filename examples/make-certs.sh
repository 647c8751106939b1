#!/bin/sh
# A throw-away CA and two certificates for the examples: a server's for localhost and a client's for curl.
# Usage: examples/make-certs.sh [FOLDER]      (default: certs/ beside this script)
set -eu
umask 077
out=${1:-$(dirname "$0")/certs}
mkdir -p "$out"
cd "$out"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# leaf NAME USAGE SUBJECT-ALT-NAMES
leaf() {
  key "$1-key.pem"
  printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
    "extendedKeyUsage=$2" "subjectAltName=$3" >"$1.ext"
  openssl req -new -key "$1-key.pem" -subj "/CN=$1" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -set_serial "0x$(openssl rand -hex 15)" \
    -days 30 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

key ca-key.pem
openssl req -x509 -new -key ca-key.pem -subj '/CN=Selvedge example CA' -days 30 -out ca.pem \
  -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign'
leaf server serverAuth 'DNS:localhost,IP:127.0.0.1,IP:::1'
leaf client clientAuth 'DNS:client.example'
echo "wrote ca.pem, server.pem and client.pem with their keys to $(pwd)"
