#!/usr/bin/env bash
# Real SPIRE with CAs of two minutes: they are prepared and take over while SVIDs of 15 seconds rotate on both
# sides, under load over HTTP/1.1 and HTTP/2. Nothing is lost, and nothing that is needed is taken for a removal of trust.
. "$(dirname "$0")/lib.sh"
ENVOY=$("$PY/bin/python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))')
CA_TTL=2m
. .ci/real/lib-spire.sh
entry ingress "$(readlink -f "$INGRESS")" 15
entry app "$(readlink -f "$ENVOY")" 15
until_ok 30 "$INGRESS" identity --spiffe-socket "unix://$SOCKET"
. .ci/real/spire-peers.sh
start envoy "$ENVOY" -c "$D/envoy.yaml" --concurrency 1 --use-dynamic-base-id -l warning
until_ok 30 curl -sf http://127.0.0.1:28460/ready
mkdir "$D/manifests"
cat > "$D/manifests/all.yaml" <<'YAML'
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: app}
spec: {hosts: [], alpn_protocols: [h2, http/1.1], spiffe: {ids: ["spiffe://example.org/app"]}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: app}
spec: {hostname: "*", prefix: /app/, service: "https://127.0.0.1:28443", tls: app}
YAML
ingress bundles --manifests "$D/manifests" --http-port 0 --spiffe-socket "unix://$SOCKET"
HTTP=http://$(listener http)
until_ok 30 [ "$(status_of "$HTTP/app/first")" = 200 ]
authorities() { # the names of the CAs that the server trusts now
  server bundle show | openssl crl2pkcs7 -nocrl -certfile /dev/stdin | openssl pkcs7 -print_certs -noout | grep '^subject' | sort -u
}
authorities > "$D/authorities.first"
: > "$D/envoy.tls"
h2load --h1 -c 10 --rps 10 -D 200 "$HTTP/app/h1" > "$D/load-h1.log" 2>&1 & H1=$!
h2load -c 10 --rps 10 -D 200 "$HTTP/app/h2" > "$D/load-h2.log" 2>&1 & H2=$!
wait $H1 $H2
authorities > "$D/authorities.last"
# The server keeps CAs that have ended in the bundle for a day; new ones come every minute and a half.
at_least "CAs that came meanwhile" 1 "$(comm -13 "$D/authorities.first" "$D/authorities.last" | wc -l)"
for load in h1 h2; do
  grep -E '^(requests|status codes)' "$D/load-$load.log"
  expect_line "$load: nothing failed" '^requests: .* 0 failed, 0 errored, 0 timeout' "$D/load-$load.log"
  expect_line "$load: every answer is 2xx" '^status codes: [0-9]+ 2xx, 0 3xx, 0 4xx, 0 5xx' "$D/load-$load.log"
  at_least "$load: certificates of ours that Envoy saw" 15 \
    "$(sed -n "s|.*serial=\([0-9a-f]*\) .*path=/$load\$|\1|p" "$D/envoy.tls" | sort -u | wc -l)"
done
expect "requests of the load with another reason than ok" 0 "$(grep '"path":"/app/h[12]"' "$D/bundles.access" | grep -vc '"reason":"ok"' || true)"
expect "connections taken for revoked" 0 "$(curl -s "$ADMIN/metrics" | sed -n 's/^selvedge_trust_removed_total \([0-9]*\).*/\1/p')"
stop_ingress
done_with spire-bundles
