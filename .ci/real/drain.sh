#!/usr/bin/env bash
# SIGTERM under load, as other people's clients see it: grpcio, and Python's HTTP/1.1 connections that are kept alive.
. "$(dirname "$0")/lib.sh"
"$PY/bin/python" .ci/real/drain_clients.py "$INGRESS" "$D" 5 > "$D/rounds.log" 2>&1 || { cat "$D/rounds.log"; exit 1; }
cat "$D/rounds.log"
expect "rounds without a failed request, exit status 0" 5 "$(grep -c '^failed=0 exit=0 ' "$D/rounds.log")"
done_with drain
