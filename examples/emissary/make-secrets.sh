#!/bin/sh
# What the manifests of Emissary's documentation need besides: the Secrets that they name, each with a self-signed
# certificate. Keys are not kept in a repository, so this writes context/secrets.yaml and v2/secrets.yaml.
# An upstream that demands client certificates trusts the PEM files that are written to certs/.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p certs

# secret FOLDER NAME
secret() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$2" \
    -addext 'basicConstraints=critical,CA:FALSE' -addext "subjectAltName=DNS:$2" \
    -keyout "certs/$2-key.pem" -out "certs/$2.pem" 2>/dev/null
  cat >"$1/secrets.yaml" <<EOF
apiVersion: v1
kind: Secret
metadata: {name: $2}
type: kubernetes.io/tls
data:
  tls.crt: $(base64 -w0 <"certs/$2.pem")
  tls.key: $(base64 -w0 <"certs/$2-key.pem")
EOF
  echo "$1/secrets.yaml: Secret $2, serial $(openssl x509 -in "certs/$2.pem" -noout -serial | cut -d= -f2)"
}

secret context self-signed-cert
secret v2 upstream-certs
