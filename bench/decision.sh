#!/bin/sh
# Instructions of one routing decision with 10, 1,000 and 10,000 Mappings, counted by callgrind (valgrind).
# Fails when any shape of configuration costs more than 1.5 times as much with 10,000 as with 10.
# Usage: bench/decision.sh [SHAPE...]
set -eu
cd "$(dirname "$0")/.."
few=10 some=1000 many=10000 decisions=500 limit=150
shapes="prefixes hostnames random globs hosts host-globs patterns inner-patterns headers parameters mixed"
target=${CARGO_TARGET_DIR:-target}
command -v valgrind >/dev/null || { echo "decision.sh: valgrind is not installed; apt-get install valgrind" >&2; exit 2; }
cargo build -q --release -p bench --example decision
out=$(mktemp)
trap 'rm -f "$out" "$out.log"' EXIT INT TERM

# Prints the instructions of one decision: those inside `decide_all`, divided.
measure() {
    valgrind --tool=callgrind --callgrind-out-file="$out" --toggle-collect='*decide_all*' \
        "$target/release/examples/decision" "$1" "$2" "$decisions" >"$out.log" 2>&1 || { cat "$out.log" >&2; exit 1; }
    awk -v decisions="$decisions" '/^(totals|summary):/ { total = $2 } END { if (total == 0) exit 1; printf "%d", total / decisions }' "$out"
}

status=0
printf '%-16s %8s %8s %8s %6s\n' shape "$few" "$some" "$many" ratio
for shape in ${*:-$shapes}; do
    small=$(measure "$shape" "$few")
    middle=$(measure "$shape" "$some")
    large=$(measure "$shape" "$many")
    percent=$((large * 100 / small))
    printf '%-16s %8d %8d %8d %3d.%02d\n' "$shape" "$small" "$middle" "$large" $((percent / 100)) $((percent % 100))
    if [ "$percent" -gt "$limit" ]; then
        echo "decision.sh: $shape: a decision at $many Mappings costs more than 1.5 times one at $few" >&2
        status=1
    fi
done
exit $status
