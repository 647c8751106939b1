# Envoy and nginx of the SPIRE suite; sourced, writes $D/envoy.yaml and $D/nginx.conf.
sds() { # name of the secret
  printf '{name: "%s", sds_config: {resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: spire}}]}}}' "$1"
}
cat > "$D/envoy.yaml" <<CONF
node: {id: app, cluster: app}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 28460}}}
static_resources:
  listeners:
  - name: app
    address: {socket_address: {address: 127.0.0.1, port_value: 28443}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificate_sds_secret_configs: [$(sds spiffe://example.org/app)]
            combined_validation_context:
              default_validation_context:
                match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://example.org/ingress"}}]
              validation_context_sds_secret_config: $(sds spiffe://example.org)
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: app
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: $D/envoy.tls
              log_format: {text_format_source: {inline_string: "serial=%DOWNSTREAM_PEER_SERIAL% uri=%DOWNSTREAM_PEER_URI_SAN% tls=%DOWNSTREAM_TLS_VERSION% protocol=%PROTOCOL% path=%REQ(:PATH)%\n"}}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "app\n"}}}]}]
  - name: client
    address: {socket_address: {address: 127.0.0.1, port_value: 28450}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: client
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: edge}}]}]}
  clusters:
  - name: spire
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: spire, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: $SOCKET}}}}]}]}
  - name: edge
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: edge, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 28401}}}}]}]}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2]
          tls_certificate_sds_secret_configs: [$(sds spiffe://example.org/app)]
          combined_validation_context:
            default_validation_context:
              match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://example.org/ingress"}}]
            validation_context_sds_secret_config: $(sds spiffe://example.org)
CONF
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=upstream -addext basicConstraints=critical,CA:FALSE \
  -addext subjectAltName=URI:spiffe://example.org/filed -keyout "$D/self.key" -out "$D/self.crt" 2>/dev/null
cat > "$D/nginx.conf" <<CONF
daemon off; pid $D/nginx.pid; error_log $D/nginx-error.log; events {}
http {
  log_format tls 'serial=\$ssl_client_serial verify=\$ssl_client_verify protocol=\$ssl_protocol sni=\$ssl_server_name uri=\$request_uri status=\$status';
  access_log $D/nginx.tls tls; ssl_protocols TLSv1.2 TLSv1.3;
  server { listen 127.0.0.1:28445 ssl; ssl_certificate $D/svid/svid.0.pem; ssl_certificate_key $D/svid/svid.0.key;
    ssl_client_certificate $D/svid/bundle.0.pem; ssl_verify_client on; location / { return 200 "filed\n"; } }
  server { listen 127.0.0.1:28447 ssl; ssl_certificate $D/self.crt; ssl_certificate_key $D/self.key; location / { return 200 "self\n"; } }
  server { listen 127.0.0.1:28451; access_log off; location / { proxy_pass https://127.0.0.1:28401; proxy_ssl_server_name on;
    proxy_ssl_certificate $D/svid/svid.0.pem; proxy_ssl_certificate_key $D/svid/svid.0.key; proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $D/svid/bundle.0.pem; proxy_ssl_name edge.example.org; proxy_http_version 1.1; } }
}
CONF
