#!/usr/bin/env bash
# What README says for a laptop: certificates by the script, a local app, TLS with client certificates in front of it; then the dev
# authority with a SPIFFE client that is not ours, and the demo's own curl lines.
. "$(dirname "$0")/lib.sh"
cp -r examples "$D/examples"; sh "$D/examples/make-certs.sh" > "$D/certs.log"
mkdir "$D/www"; echo "hello from the app" > "$D/www/hello"
start app "$PY/bin/python" -m http.server 3000 --bind 127.0.0.1 --directory "$D/www"
until_ok 10 curl -sf http://127.0.0.1:3000/hello
ingress laptop --manifests "$D/examples/localhost.yaml"
C="$D/examples/certs"
expect "the app, with a client certificate" "hello from the app" "$(curl -s --cacert "$C/ca.pem" --cert "$C/client.pem" --key "$C/client-key.pem" https://localhost:8443/hello)"
expect "over HTTP/1.1 too" "hello from the app" "$(curl -s --http1.1 --cacert "$C/ca.pem" --cert "$C/client.pem" --key "$C/client-key.pem" https://localhost:8443/hello)"
expect "without one: refused" 000 "$(status_of --cacert "$C/ca.pem" https://localhost:8443/hello)"
# s_client shows no certificate of its own, so it is refused in the end; what it was shown is printed before.
serial() { { openssl s_client -connect 127.0.0.1:8443 -servername localhost -CAfile "$C/ca.pem" </dev/null 2>/dev/null || true; } | openssl x509 -noout -serial; }
BEFORE=$(serial)
sh "$D/examples/make-certs.sh" > "$D/certs.log"
AFTER=$(openssl x509 -in "$C/server.pem" -noout -serial)
[ "$BEFORE" != "$AFTER" ] || { echo "not ok: the script made the same certificate"; exit 1; }
changed() { [ "$(serial)" != "$BEFORE" ]; }
until_ok 5 changed
expect "certificates saved over the files: what a new connection sees" "$AFTER" "$(serial)"
expect "and the new clients are let in" 200 "$(status_of --cacert "$C/ca.pem" --cert "$C/client.pem" --key "$C/client-key.pem" https://localhost:8443/hello)"
stop_ingress

# --- the dev authority, asked by SPIRE's own client
cat > "$D/entries.yaml" <<CONF
trust_domain: example.org
entries:
- {spiffe_id: "spiffe://example.org/web", socket: web.sock, ttl: 60s}
CONF
start authority "$INGRESS" dev-authority --entries "$D/entries.yaml" --state "$D/state"
until_ok 10 test -S "$D/state/web.sock"
"$BIN/spire-agent" api fetch x509 -socketPath "$D/state/web.sock" > "$D/fetched.txt"
expect_line "the dev authority serves SPIRE's client" 'SPIFFE ID:.*spiffe://example.org/web' "$D/fetched.txt"
done_with laptop
