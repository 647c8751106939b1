# Shared by the suites of real parts: a folder that goes away, processes that end with it, waiting for a condition, counting checks.
# Sourced with BIN (Go programs), PY (Python with Envoy and grpcio), INGRESS (our release binary) in the environment.
set -euo pipefail
D=$(mktemp -d); PIDS=(); PASSED=0
finish() {
  local status=$?
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ $status = 0 ] || { echo "FAILED: $0; the last lines of its logs:"; tail -n 15 "$D"/*.log "$D"/*.err 2>/dev/null || true; }
  rm -rf "$D"
}
trap finish EXIT
until_ok() { # seconds, command...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || { echo "timed out: $*"; exit 1; }; sleep 0.2; done
}
start() { # name, command...: its output goes to NAME.log
  local name=$1; shift
  "$@" > "$D/$name.log" 2>&1 & PIDS+=($!)
}
expect() { # what, wanted, got
  [ "$2" = "$3" ] || { echo "not ok: $1: wanted '$2', got '$3'"; exit 1; }
  echo "ok: $1: $3"; PASSED=$((PASSED + 1))
}
# Logs are written after the answer: a line may come a moment later, so it is waited for.
expect_line() { # what, extended regex, file
  local line end=$((SECONDS + 5))
  until grep -q -E -- "$2" "$3" || [ $SECONDS -ge $end ]; do sleep 0.1; done
  line=$(grep -m1 -E -- "$2" "$3") || { echo "not ok: $1: no line like '$2' in:"; tail -n 10 "$3"; exit 1; }
  echo "ok: $1: $line"; PASSED=$((PASSED + 1))
}
expect_no_line() { # what, extended regex, file
  if grep -m1 -E -- "$2" "$3"; then echo "not ok: $1"; exit 1; fi
  echo "ok: $1"; PASSED=$((PASSED + 1))
}
at_least() { # what, least, got
  [ "$3" -ge "$2" ] || { echo "not ok: $1: wanted at least $2, got $3"; exit 1; }
  echo "ok: $1: $3"; PASSED=$((PASSED + 1))
}
status_of() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 "$@" || true; }
# ingress NAME FLAG...: starts our binary; sets RUN (its pid), ADMIN (URL), READY (the ready file); logs to NAME.access and NAME.err.
ingress() {
  local name=$1; shift
  READY="$D/$name.ready"
  "$INGRESS" run --bind 127.0.0.1 --admin 127.0.0.1:0 --access-log json --ready-file "$READY" "$@" \
    > "$D/$name.access" 2> "$D/$name.err" & RUN=$!; PIDS+=($RUN)
  until_ok 20 test -s "$READY"
  ADMIN=http://$(sed -n 's/.*"admin":"\([^"]*\)".*/\1/p' "$READY")
  until_ok 20 curl -sf "$ADMIN/ready"
}
# listener NAME: where it listens, from the ready file.
listener() { sed -n "s|.*\"$1\":\"\([^\"]*\)\".*|\1|p" "$READY"; }
stop_ingress() { # its exit status is a check
  local status=0; kill -TERM "$RUN"; wait "$RUN" || status=$?
  expect "SIGTERM: exit status" 0 "$status"
}
done_with() { echo "$1: $PASSED passed, 0 failed"; }
