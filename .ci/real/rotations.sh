#!/usr/bin/env bash
# A thousand rotations of SVIDs and of a Secret in 100 s, twice, under 2,000 requests a second on 64 connections: nothing is lost,
# and the second thousand leaves nothing behind. The load is in Rust, beside the other tests of the program; the build is a release.
. "$(dirname "$0")/lib.sh"
STATUS=0
cargo test --release --quiet -p ingress --test live -- --ignored --nocapture thousand > "$D/rotations.log" 2>&1 || STATUS=$?
grep -E '^round [12]:' "$D/rotations.log" || true
expect "1,000 rotations, and 1,000 more: exit status" 0 "$STATUS"
for round in 1 2; do
  expect_line "round $round: nothing failed" "^round $round: [0-9]+ requests, 0 failed" "$D/rotations.log"
  at_least "round $round: requests" 190000 "$(sed -n "s/^round $round: \([0-9]*\) requests.*/\1/p" "$D/rotations.log")"
done
done_with rotations
