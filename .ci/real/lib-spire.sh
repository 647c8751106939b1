# SPIRE for a suite: a server and an agent on one socket, and entries. Sourced behind lib.sh. CA_TTL: how long a CA lives.
SOCKET="$D/agent.sock"
mkdir -p "$D/server" "$D/agent"
cat > "$D/server.conf" <<CONF
server { trust_domain = "example.org" bind_address = "127.0.0.1" bind_port = "28081" socket_path = "$D/server.sock" data_dir = "$D/server"
  log_level = "WARN" default_x509_svid_ttl = "1h" ca_ttl = "${CA_TTL:-24h}" ratelimit { attestation = false signing = false } experimental { cache_reload_interval = "1s" } }
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "$D/server/datastore.sqlite3" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { keys_path = "$D/server/keys.json" } }
}
CONF
cat > "$D/agent.conf" <<CONF
agent { trust_domain = "example.org" server_address = "127.0.0.1" server_port = "28081" socket_path = "$SOCKET" data_dir = "$D/agent"
  trust_bundle_path = "$D/bundle.pem" log_level = "WARN" experimental { sync_interval = "1s" } }
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "$D/agent" } }
  WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
CONF
server() { "$BIN/spire-server" "$@" -socketPath "$D/server.sock"; }
start spire-server "$BIN/spire-server" run -config "$D/server.conf"
until_ok 30 server healthcheck
server bundle show > "$D/bundle.pem"
agent() { # more flags: starts it and waits until it answers; sets AGENT, its pid
  start spire-agent "$BIN/spire-agent" run -config "$D/agent.conf" "$@"; AGENT=$!
  until_ok 30 "$BIN/spire-agent" healthcheck -socketPath "$SOCKET"
}
agent -joinToken "$(server token generate -spiffeID spiffe://example.org/node | awk '/Token/{print $2}')"
entry() { # path of the SPIFFE ID, program, seconds to live, more flags
  local id=$1 program=$2 ttl=$3; shift 3
  server entry create -parentID spiffe://example.org/node -spiffeID "spiffe://example.org/$id" -selector "unix:path:$program" \
    -x509SVIDTTL "$ttl" "$@" > /dev/null
}
