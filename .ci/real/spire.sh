#!/usr/bin/env bash
# Real SPIRE gives everybody an identity: our ingress, Envoy (by SDS, on both of its sides), nginx and a gRPC server (by files). What
# is right is served, what is wrong is refused before a byte of the request, and rotations under load lose nothing.
. "$(dirname "$0")/lib.sh"
ENVOY=$("$PY/bin/python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))')

# --- server and agent
. .ci/real/lib-spire.sh

STATUS=0; "$INGRESS" identity --spiffe-socket "unix://$SOCKET" > "$D/none.txt" 2>&1 || STATUS=$?
at_least "no entry yet: identity refuses" 1 "$STATUS"
expect_line "no entry yet: identity says why" "no identity issued" "$D/none.txt"

entry ingress "$(readlink -f "$INGRESS")" 15 -dns edge.example.org
entry app "$(readlink -f "$ENVOY")" 15
entry filed "$(readlink -f "$BIN/spire-agent")" 3600 -dns filed.example.org
until_ok 30 "$INGRESS" identity --spiffe-socket "unix://$SOCKET"
"$INGRESS" identity --spiffe-socket "unix://$SOCKET" > "$D/some.txt"
expect_line "with an entry: identity" "spiffe://example.org/ingress" "$D/some.txt"
mkdir "$D/svid"
until_ok 30 "$BIN/spire-agent" api fetch x509 -socketPath "$SOCKET" -write "$D/svid"

# --- upstreams: Envoy and nginx with their SVIDs, both demand the caller's
. .ci/real/spire-peers.sh
start envoy "$ENVOY" -c "$D/envoy.yaml" --concurrency 1 --use-dynamic-base-id -l warning
start nginx nginx -c "$D/nginx.conf"
start grpc "$PY/bin/python" .ci/real/health_server.py 127.0.0.1:28446 "$D/svid/svid.0.pem" "$D/svid/svid.0.key" "$D/svid/bundle.0.pem"
until_ok 30 curl -sf http://127.0.0.1:28460/ready
envoy_served() { curl -s "http://127.0.0.1:28460/stats?filter=^http.app.downstream_rq_total" | awk '{print $2}'; }

mkdir "$D/manifests"; cp .ci/real/spire-manifests.yaml "$D/manifests/all.yaml"
ingress spire --manifests "$D/manifests" --spiffe-socket "unix://$SOCKET" --resolve app.test=127.0.0.1:28443 \
  --resolve filed.test=127.0.0.1:28445 --resolve self.test=127.0.0.1:28447 --resolve grpc.test=127.0.0.1:28446
HTTP=http://$(listener default/cleartext); EDGE=$(listener default/edge)

# --- the right identity
expect "Envoy upstream with the expected ID" 200 "$(status_of "$HTTP/app/right")"
expect_line "Envoy saw our SVID over TLS 1.3" 'uri=spiffe://example.org/ingress tls=TLSv1.3 .*path=/right' "$D/envoy.tls"
expect_line "access log of it" '"upstream_spiffe_id":"spiffe://example.org/app"' "$D/spire.access"
expect "nginx upstream with the expected ID" 200 "$(status_of "$HTTP/filed/right")"
expect_line "nginx verified our SVID" 'verify=SUCCESS protocol=TLSv1.3 sni=filed.test uri=/right' "$D/nginx.tls"

# --- the wrong identity: a valid SVID of the same trust domain that was not expected, and no SVID at all
SEEN=$(envoy_served)
expect "a valid SVID with the wrong ID" 503 "$(status_of "$HTTP/wrong/secret")"
expect "what the client is told" "no healthy upstream: peer_id_mismatch" "$(curl -s "$HTTP/wrong/secret")"
expect_line "its reason" '"path":"/wrong/secret".*"flags":"UF","reason":"peer_id_mismatch"' "$D/spire.access"
expect "a certificate that is no SVID" 503 "$(status_of "$HTTP/selfsigned/secret")"
expect_no_line "Envoy saw no request for somebody else" secret "$D/envoy.tls"
expect_no_line "nginx saw no request for somebody else" secret "$D/nginx.tls"
expect "Envoy counted no request" "$SEEN" "$(envoy_served)"

# --- clients: Envoy and nginx call our TLS listener with their SVIDs; nobody and somebody else are refused in the handshake
expect "Envoy as client, through us, to Envoy" 200 "$(status_of http://127.0.0.1:28450/app/from-envoy)"
expect_line "access log: who called" '"path":"/app/from-envoy"' "$D/spire.access"
expect_line "access log: Envoy's SPIFFE ID" '"downstream_spiffe_id":"spiffe://example.org/app"' "$D/spire.access"
expect "nginx as client, through us, to Envoy" 200 "$(status_of http://127.0.0.1:28451/app/from-nginx)"
expect "curl with an SVID" 200 "$(status_of -k --cert "$D/svid/svid.0.pem" --key "$D/svid/svid.0.key" "https://$EDGE/app/from-curl")"
expect "curl with an SVID over HTTP/1.1" 200 "$(status_of -k --http1.1 --cert "$D/svid/svid.0.pem" --key "$D/svid/svid.0.key" "https://$EDGE/app/from-curl")"
expect "curl without a certificate" 000 "$(status_of -k "https://$EDGE/app/nobody")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=forged -addext basicConstraints=critical,CA:FALSE \
  -addext subjectAltName=URI:spiffe://example.org/app -keyout "$D/forged.key" -out "$D/forged.crt" 2>/dev/null
expect "curl with a forged SVID" 000 "$(status_of -k --cert "$D/forged.crt" --key "$D/forged.key" "https://$EDGE/app/forged")"
expect_no_line "nothing of theirs arrived" 'path=/(nobody|forged)' "$D/envoy.tls"

# --- gRPC: unary, streams both ways (reflection), a status that is not OK, over mTLS with SVIDs
grpc() { "$BIN/grpcurl" -plaintext -max-time 10 "$@"; }
CLEAR=${HTTP#http://}
grpc "$CLEAR" list > "$D/grpc-list.txt"
expect_line "grpcurl: reflection, a stream both ways" '^grpc.health.v1.Health$' "$D/grpc-list.txt"
grpc -d '{"service":"alive"}' "$CLEAR" grpc.health.v1.Health/Check > "$D/grpc-check.txt"
expect_line "grpcurl: a call" '"status": "SERVING"' "$D/grpc-check.txt"
grpc -d '{"service":"unknown"}' "$CLEAR" grpc.health.v1.Health/Check > "$D/grpc-unknown.txt" 2>&1 || true
expect_line "grpcurl: the upstream's own status" 'Code: NotFound' "$D/grpc-unknown.txt"
grpc -max-time 2 -d '{"service":"alive"}' "$CLEAR" grpc.health.v1.Health/Watch > "$D/grpc-watch.txt" 2>&1 || true
expect_line "grpcurl: a stream, then its deadline" '"status": "SERVING"' "$D/grpc-watch.txt"
expect_line "grpcurl: the deadline" 'DeadlineExceeded' "$D/grpc-watch.txt"

# --- rotations under load: SVIDs of 15 seconds rotate about every 2.5 seconds, ours and Envoy's
: > "$D/envoy.tls"
h2load --h1 -c 10 --rps 20 -D 20 "$HTTP/app/h1" > "$D/load-h1.log" 2>&1 & H1=$!
h2load -c 10 --rps 20 -D 20 "$HTTP/app/h2" > "$D/load-h2.log" 2>&1 & H2=$!
wait $H1 $H2
for load in h1 h2; do
  cat "$D/load-$load.log" | grep -E '^(requests|status codes)'
  expect_line "$load: nothing failed" '^requests: .* 0 failed, 0 errored, 0 timeout' "$D/load-$load.log"
  expect_line "$load: every answer is 2xx" '^status codes: [0-9]+ 2xx, 0 3xx, 0 4xx, 0 5xx' "$D/load-$load.log"
  at_least "$load: requests" 3000 "$(sed -n 's/^status codes: \([0-9]*\) 2xx.*/\1/p' "$D/load-$load.log")"
  at_least "$load: certificates of ours that Envoy saw (a rotation less)" 4 \
    "$(sed -n "s|.*serial=\([0-9a-f]*\) .*path=/$load\$|\1|p" "$D/envoy.tls" | sort -u | wc -l)"
done
expect "requests of the load with another reason than ok" 0 "$(grep '"path":"/app/h[12]"' "$D/spire.access" | grep -vc '"reason":"ok"' || true)"
stop_ingress
done_with spire
