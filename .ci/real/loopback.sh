#!/usr/bin/env bash
# The whole test command once more: unprivileged, in a network namespace that has only loopback. Nothing may need more.
. "$(dirname "$0")/lib.sh"
STATUS=0
unshare --net bash -c 'ip link set lo up && exec unshare --user --map-user=1000 --map-group=1000 "$@"' - \
  bash -c 'echo "uid $(id -u), interfaces: $(ip -brief link | cut -d" " -f1 | tr "\n" " ")capabilities: $(sed -n "s/^CapEff:.//p" /proc/self/status)"; exec cargo test --workspace --offline --quiet' \
  > "$D/tests.log" 2>&1 || STATUS=$?
[ "$STATUS" = 0 ] || { cat "$D/tests.log"; exit 1; }
expect_line "nobody special" '^uid 1000, interfaces: lo capabilities: 0+$' "$D/tests.log"
at_least "suites that pass with loopback alone" 20 "$(grep -c '^test result: ok' "$D/tests.log")"
expect_no_line "nothing failed" '^test result: FAILED' "$D/tests.log"
done_with loopback
