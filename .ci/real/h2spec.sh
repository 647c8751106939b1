#!/usr/bin/env bash
# h2spec, the conformance suite of HTTP/2 (RFC 7540, RFC 7541) that is not ours: over TLS and in clear, without a failure.
. "$(dirname "$0")/lib.sh"
cp -r examples "$D/examples"; sh "$D/examples/make-certs.sh" > "$D/certs.log"
mkdir "$D/www"; head -c 4096 /dev/zero | tr '\0' x > "$D/www/index.html"
start app "$PY/bin/python" -m http.server 3001 --bind 127.0.0.1 --directory "$D/www"
until_ok 10 curl -sf http://127.0.0.1:3001/
cat > "$D/h2spec.yaml" <<CONF
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: localhost}
spec: {hostname: "*", tlsSecret: {name: server}, requestPolicy: {insecure: {action: Route}}}
---
apiVersion: v1
kind: Secret
metadata: {name: server}
type: kubernetes.io/tls
data:
  tls.crt: $(base64 -w0 "$D/examples/certs/server.pem")
  tls.key: $(base64 -w0 "$D/examples/certs/server-key.pem")
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: all}
spec: {hostname: "*", prefix: /, service: "http://127.0.0.1:3001"}
CONF
ingress h2spec --manifests "$D/h2spec.yaml" --http-port 0 --https-port 0
run() { # what, listener, flag...
  local what=$1 at; at=$(listener "$2"); shift 2
  "$BIN/h2spec" "$@" --host 127.0.0.1 --port "${at##*:}" --timeout 5 --path / > "$D/$what.out" 2>&1 || true
  expect_line "h2spec, $what" '^[0-9]+ tests, [0-9]+ passed, [0-9]+ skipped, 0 failed$' "$D/$what.out"
}
run clear http
run tls https --tls --insecure
expect "who is honest is served after it" 200 "$(status_of "http://$(listener http)/")"
stop_ingress
done_with h2spec
