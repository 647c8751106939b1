#!/usr/bin/env bash
# Real SPIRE that is away, late or denies: an agent that is down for a minute costs no request, an SVID that has ended and an entry
# that was deleted fail closed and say why, and all of it heals by itself.
. "$(dirname "$0")/lib.sh"
. .ci/real/lib-spire.sh

# --- an upstream that demands our SVID: nginx with an SVID in files
entry filed "$(readlink -f "$BIN/spire-agent")" 3600 -dns filed.example.org
mkdir "$D/svid"
until_ok 30 "$BIN/spire-agent" api fetch x509 -socketPath "$SOCKET" -write "$D/svid"
cat > "$D/nginx.conf" <<CONF
daemon off; pid $D/nginx.pid; error_log $D/nginx-error.log; events {}
http { access_log off;
  server { listen 127.0.0.1:28445 ssl; ssl_certificate $D/svid/svid.0.pem; ssl_certificate_key $D/svid/svid.0.key;
    ssl_client_certificate $D/svid/bundle.0.pem; ssl_verify_client on; location / { return 200 "filed\n"; } } }
CONF
start nginx nginx -c "$D/nginx.conf"
mkdir "$D/manifests"
cat > "$D/manifests/all.yaml" <<'YAML'
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: filed}
spec: {hosts: [], spiffe: {ids: ["spiffe://example.org/filed"]}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: filed}
spec: {hostname: "*", prefix: /filed/, service: "https://127.0.0.1:28445", tls: filed}
YAML
run() { # name: an ingress by a program of its own, so that it has an entry of its own; sets HTTP
  ingress "$1" --manifests "$D/manifests" --http-port 0 --spiffe-socket "unix://$SOCKET"
  HTTP=http://$(listener http)
}
problem() { # of the SPIFFE source in /config
  curl -s "$ADMIN/config" | "$PY/bin/python" -c 'import json,sys
rows=[r for r in json.load(sys.stdin)["identities"] if r["source"].startswith("spiffe:")]
print(rows[0]["status"], (rows[0]["problem"] or {}).get("reason", "none"))'
}
up() { curl -s "$ADMIN/metrics" | sed -n 's/^identity_source_up{source="spiffe:[^"]*",problem="\([a-z_]*\)"} \([01]\).*/\2 \1/p'; }
is() { [ "$($2)" = "$1" ]; }
has_status() { [ "$(status_of "$HTTP/filed/x")" = "$1" ]; }
stop_agent() { kill "$AGENT"; wait "$AGENT" 2>/dev/null || true; }

# --- the agent is away for a minute
cp "$INGRESS" "$D/long"; entry long "$D/long" 600
cp "$INGRESS" "$D/short"; entry short "$D/short" 15
until_ok 30 "$D/long" identity --spiffe-socket "unix://$SOCKET"
until_ok 30 "$D/short" identity --spiffe-socket "unix://$SOCKET"
INGRESS=$D/long run long
LONG_ADMIN=$ADMIN LONG_HTTP=$HTTP
h2load --h1 -c 10 --rps 20 -D 72 "$HTTP/filed/load" > "$D/load.log" 2>&1 & LOAD=$!
sleep 2 # the load is under way before the agent goes
stop_agent
GONE=$SECONDS
until_ok 20 is "ready svid_source_unreachable" problem
expect "away: the metric" "0 svid_source_unreachable" "$(up)"
expect_line "away: the log" '"code":"svid_source_unreachable"' "$D/long.err"
while [ $((SECONDS - GONE)) -lt 60 ]; do sleep 1; done
expect "away for a minute: a new connection is served" 200 "$(status_of "$HTTP/filed/new")"
agent
until_ok 60 is "ready none" problem
expect "back: the metric" "1 " "$(up)"
wait $LOAD
grep -E '^(requests|status codes)' "$D/load.log"
expect_line "a minute without the agent: nothing failed" '^requests: .* 0 failed, 0 errored, 0 timeout' "$D/load.log"
expect_line "every answer is 2xx" '^status codes: [0-9]+ 2xx, 0 3xx, 0 4xx, 0 5xx' "$D/load.log"
at_least "requests" 12000 "$(sed -n 's/^status codes: \([0-9]*\) 2xx.*/\1/p' "$D/load.log")"
expect "requests of the load with another reason than ok" 0 "$(grep '"path":"/filed/load"' "$D/long.access" | grep -vc '"reason":"ok"' || true)"

# --- the agent is away for longer than an SVID lives
INGRESS=$D/short run short
until_ok 20 has_status 200
stop_agent
until_ok 60 is "ready identity_expired" problem
expect "expired: 503" 503 "$(status_of "$HTTP/filed/expired")"
expect "expired: what the client is told" "no healthy upstream: identity_expired" "$(curl -s "$HTTP/filed/expired")"
expect_line "expired: the access log" '"path":"/filed/expired".*"reason":"identity_expired"' "$D/short.access"
expect_line "expired: the log" '"code":"identity_expired"' "$D/short.err"
expect "expired: the metric" "0 identity_expired" "$(up)"
expect "an SVID that has not ended is used all the while" 200 "$(status_of "$LONG_HTTP/filed/still")"
agent
until_ok 90 has_status 200
until_ok 30 is "ready none" problem
expect "back: it heals by itself" "1 " "$(up)"

# --- the entry is deleted, and made again
ENTRY=$(server entry show -spiffeID spiffe://example.org/short | sed -n 's/^Entry ID *: *//p')
server entry delete -entryID "$ENTRY" > /dev/null
until_ok 60 is "withdrawn svid_denied" problem
expect "deleted: what the client is told" "no healthy upstream: svid_denied" "$(curl -s "$HTTP/filed/denied")"
expect_line "deleted: the log" '"code":"svid_denied"' "$D/short.err"
expect "deleted: the metric" "0 svid_denied" "$(up)"
expect "the neighbour's entry is still there" 200 "$(status_of "$LONG_HTTP/filed/neighbour")"
entry short "$D/short" 15
until_ok 60 has_status 200
expect "made again: the source" "ready none" "$(problem)"
stop_ingress
done_with spire-faults
