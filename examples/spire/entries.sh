#!/bin/sh
# Registration entries: which process gets which SPIFFE ID. Here processes are told apart by their user; in Kubernetes use
# the k8s selectors instead.
# Usage: examples/spire/entries.sh INGRESS_UID APP_UID CLIENT_UID
set -eu
server=/tmp/selvedge-spire/server.sock
parent=spiffe://example.org/node

entry() {
  spire-server entry create -socketPath "$server" -parentID "$parent" -spiffeID "$1" -selector "unix:uid:$2"
}

entry spiffe://example.org/ingress "$1"
entry spiffe://example.org/app "$2"
entry spiffe://example.org/client/curl "$3"
