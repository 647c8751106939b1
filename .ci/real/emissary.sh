#!/usr/bin/env bash
# The manifests of Emissary's documentation, unchanged, against an nginx that logs what a client shows.
. "$(dirname "$0")/lib.sh"
cp -r examples/emissary "$D/emissary"
sh "$D/emissary/make-secrets.sh" > "$D/secrets.log"
CERTS="$D/emissary/certs"
cat "$CERTS"/self-signed-cert.pem "$CERTS"/upstream-certs.pem > "$D/clients.pem"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=upstream -keyout "$D/nginx.key" -out "$D/nginx.crt" 2>/dev/null
cat > "$D/nginx.conf" <<CONF
daemon off; pid $D/nginx.pid; error_log $D/nginx-error.log; events {}
http {
  log_format tls 'serial=\$ssl_client_serial protocol=\$ssl_protocol sni=\$ssl_server_name verify=\$ssl_client_verify status=\$status uri=\$request_uri';
  ssl_certificate $D/nginx.crt; ssl_certificate_key $D/nginx.key; ssl_protocols TLSv1.2 TLSv1.3;
  server { listen 127.0.0.1:28441 ssl; access_log $D/basic.tls tls; location / { return 200 "hello\n"; } }
  server { listen 127.0.0.1:28442 ssl; access_log $D/mutual.tls tls; ssl_client_certificate $D/clients.pem; ssl_verify_client on;
    location / { return 200 "hello\n"; } }
}
CONF
start nginx nginx -c "$D/nginx.conf"
until_ok 10 curl -ksf https://127.0.0.1:28441/

serial() { openssl x509 -in "$CERTS/$1.pem" -noout -serial | cut -d= -f2; }
run() { # folder, service name, nginx port, path
  ingress "$1" --manifests "$D/emissary/$1" --http-port 0 --resolve "$2=127.0.0.1:$3"
  expect "$1: GET $4" 200 "$(status_of "http://$(listener http)$4")"
  stop_ingress
}
run basic example-service 28441 /hello
expect_line "basic: no certificate shown, default SNI" "^serial=- protocol=TLSv1.3 sni=example-service .*status=200" "$D/basic.tls"
run context example-service 28442 /hello
expect_line "context: certificate, version and SNI" "^serial=$(serial self-signed-cert) protocol=TLSv1.3 sni=some-sni-hostname verify=SUCCESS status=200" "$D/mutual.tls"
run v2 upstream-service 28442 /upstream/hello
expect_line "v2: certificate, version and SNI" "^serial=$(serial upstream-certs) protocol=TLSv1.3 sni=upstream-service verify=SUCCESS status=200" "$D/mutual.tls"
done_with emissary
