#!/usr/bin/env bash
# The L4 path between parts that are not ours: HAProxy's PROXY protocol in front, OpenSSL as client and as server.
. "$(dirname "$0")/lib.sh"
cd "$D"
leaf() { # name, subject alternative name
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj / -out "$1.csr" 2>> certs.log
  printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
    'extendedKeyUsage=serverAuth,clientAuth' "subjectAltName=critical,$2" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 15)" -days 2 \
    -extfile "$1.ext" -out "$1.pem" 2>> certs.log
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -days 2 -out ca.pem \
  -subj '/CN=Selvedge test CA' -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
  -addext 'subjectAltName=URI:spiffe://example.org' 2>> certs.log
leaf shop DNS:shop.example; leaf ended DNS:ended.example; leaf through DNS:through.example
leaf ingress URI:spiffe://example.org/ingress; leaf db URI:spiffe://example.org/db
# Nobody knows its issuer.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout stranger.key -days 2 -out stranger.pem \
  -subj '/CN=stranger' -addext 'basicConstraints=critical,CA:FALSE' -addext 'keyUsage=critical,digitalSignature' \
  -addext 'subjectAltName=URI:spiffe://example.org/ingress' 2>> certs.log

# Upstreams: a web server, and servers that give each line back reversed.
mkdir www; echo from the web > www/index.html
start web "$PY/bin/python" -m http.server 17001 --bind 127.0.0.1 --directory www
until_ok 10 curl -sf http://127.0.0.1:17001/
cat > reverse.py <<'CODE'
import socketserver
class Reverse(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.rstrip()[::-1] + b"\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", 17002), Reverse).serve_forever()
CODE
start reverse "$PY/bin/python" reverse.py
start through openssl s_server -accept 127.0.0.1:17003 -cert through.pem -key through.key -rev -tls1_3
# It asks for a certificate and believes only ours.
start db openssl s_server -accept 127.0.0.1:17004 -cert db.pem -key db.key -CAfile ca.pem -Verify 1 -verify_return_error -rev

secret() { # name, certificate, key, CA
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ndata: {tls.crt: %s, tls.key: %s, ca.crt: %s}\n' \
    "$1" "$(base64 -w0 "$2")" "$(base64 -w0 "$3")" "$(base64 -w0 ca.pem)"
}
object() { printf -- '---\napiVersion: getambassador.io/v3alpha1\nkind: %s\nmetadata: {name: %s}\nspec: {%s}\n' "$@"; }
{
  secret shop shop.pem shop.key; secret ended ended.pem ended.key; secret ingress ingress.pem ingress.key
  secret stranger stranger.pem stranger.key
  bound='securityModel: XFP, hostBinding: {namespace: {from: ALL}}'
  object Listener http "port: 18080, protocolStack: [PROXY, HTTP], $bound"
  object Listener https "port: 18443, protocolStack: [PROXY, TLS, HTTP, TCP], $bound"
  object Listener lines "port: 15432, protocolStack: [PROXY, TCP], $bound"
  object Host shop 'hostname: shop.example, tlsSecret: {name: shop}, requestPolicy: {insecure: {action: Route}}'
  object Host ended 'hostname: ended.example, tlsSecret: {name: ended}, mappingSelector: {matchLabels: {no: thing}}'
  object Mapping web 'hostname: shop.example, prefix: /, service: "127.0.0.1:17001"'
  object TLSContext right 'hosts: [], secret: ingress, ca_secret: ingress, spiffe: {ids: ["spiffe://example.org/db"]}'
  object TLSContext wrong 'hosts: [], secret: ingress, ca_secret: ingress, spiffe: {ids: ["spiffe://example.org/other"]}'
  object TLSContext stranger 'hosts: [], secret: stranger, ca_secret: ingress, spiffe: {ids: ["spiffe://example.org/db"]}'
  object TCPMapping lines 'port: 15432, service: "127.0.0.1:17002"'
  object TCPMapping ended 'port: 16443, host: ended.example, service: "127.0.0.1:17002"'
  object TCPMapping through 'port: 16443, host: through.example, service: "127.0.0.1:17003"'
  object TCPMapping right 'port: 15433, service: "127.0.0.1:17004", tls: right'
  object TCPMapping wrong 'port: 15434, service: "127.0.0.1:17004", tls: wrong'
  object TCPMapping stranger 'port: 15435, service: "127.0.0.1:17004", tls: stranger'
} > tcp.yaml
ingress tcp --manifests tcp.yaml --proxy-protocol-from 127.0.0.1/32

# HAProxy: ports 181.. speak version 1, 182.. version 2.
{
  printf 'defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n'
  for version in 1:send-proxy 2:send-proxy-v2; do
    for to in 80:18080 43:18443 32:15432; do
      printf 'listen l%s\n  bind 127.0.0.1:%s\n  server s 127.0.0.1:%s %s\n' \
        "${version%%:*}${to%%:*}" "18${version%%:*}${to%%:*}" "${to##*:}" "${version##*:}"
    done
  done
} > haproxy.cfg
start haproxy haproxy -db -f haproxy.cfg
lines() { # port, text, address to come from: what a TCP upstream answers
  "$PY/bin/python" - "$@" <<'CODE'
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10, (sys.argv[3], 0))
client.settimeout(10)
try:
    client.sendall(sys.argv[2].encode() + b"\n")
    client.shutdown(socket.SHUT_WR)
    sys.stdout.write(client.makefile().read())
except OSError:
    pass
CODE
}
inside() { # port, server name, text: what is answered inside of TLS
  local end=$((SECONDS + 10)); rm -f answer ended
  # s_client ends with its input, which therefore stays open until there is an answer.
  { printf '%s\n' "$3"; until [ -s answer ] || [ -e ended ] || [ $SECONDS -ge $end ]; do sleep 0.1; done; } | {
    timeout 20 openssl s_client -quiet -no_ign_eof -verify_return_error -CAfile ca.pem -connect "127.0.0.1:$1" \
      -servername "$2" -verify_hostname "$2" > answer 2>> s_client.log || true
    touch ended
  }
  cat answer
}
until_ok 10 curl -sf -H 'host: shop.example' http://127.0.0.1:18180/
for version in 1 2; do
  expect "PROXY $version, HTTP" "from the web" \
    "$(curl -s --interface 127.0.0.9 -H 'host: shop.example' "http://127.0.0.1:18${version}80/?a$version")"
  expect "PROXY $version, HTTP/2" "from the web" \
    "$(curl -s --interface 127.0.0.9 --http2-prior-knowledge -H 'host: shop.example' "http://127.0.0.1:18${version}80/?b$version")"
  expect "PROXY $version, TLS" "from the web" \
    "$(curl -s --interface 127.0.0.9 --cacert ca.pem --connect-to "::127.0.0.1:18${version}43" "https://shop.example/?c$version")"
  for what in a b c; do
    expect_line "its client" "\"path\":\"/\?$what$version\".*\"downstream\":\"127.0.0.9[:\"]" tcp.access
  done
  expect "PROXY $version, TCPMapping" "1enil" "$(lines "18${version}32" "line1" 127.0.0.8)"
done
expect_line "its client" '"protocol":"TCP".*"downstream":"127.0.0.8[:"].*"route":"default/lines"' tcp.access
# Not of the balancer: without a header, and with one.
expect "no header" 000 "$(status_of http://127.0.0.1:18080/)"
expect "a forged header" 000 "$(status_of --interface 127.0.0.9 --haproxy-protocol http://127.0.0.1:18080/)"
expect "a forged header before a TCPMapping" "" "$(lines 15432 $'PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r' 127.0.0.9)"
expect_line "is refused" '"reason":"bad_proxy_protocol"' tcp.access
expect_no_line "is not believed" '"downstream":"1\.2\.3\.4' tcp.access
curl -s "$ADMIN/metrics" > metrics
expect_line "counted" '^selvedge_bad_proxy_protocol_total 3$' metrics

expect "ended here" "olleh" "$(inside 16443 ended.example hello)"
expect "passed on by its name" "dlrow" "$(inside 16443 through.example world)"
expect "another name" "" "$(inside 16443 other.example secret)"
expect_line "is told so" 'unrecognized name' s_client.log
expect_line "and logged" '"authority":"other.example".*"reason":"no_sni_profile"' tcp.access

expect "mutual TLS by SPIFFE ID" "esab" "$(lines 15433 base 127.0.0.1)"
expect_line "who it was" '"upstream_spiffe_id":"spiffe://example.org/db","local_spiffe_id":"spiffe://example.org/ingress"' tcp.access
expect "another SPIFFE ID" "" "$(lines 15434 secret 127.0.0.1)"
expect_line "is refused" '"reason":"peer_id_mismatch".*"route":"default/wrong"' tcp.access
expect "with a certificate that nobody knows" "" "$(lines 15435 secret 127.0.0.1)"
expect_line "the server refuses" '"reason":"upstream_refused_certificate".*"route":"default/stranger"' tcp.access
expect_no_line "nothing of it reached a server" 'secret' db.log
stop_ingress
done_with tcp
