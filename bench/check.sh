#!/bin/sh
# CPU seconds and peak memory of `selvedge-ingress check` on 10,000 Mappings. Fails above 0.5 s or 60 MiB, for any shape.
# Usage: bench/check.sh [SHAPE...]
set -eu
cd "$(dirname "$0")/.."
count=10000 most_ms=500 most_kib=61440
target=${CARGO_TARGET_DIR:-target}
[ -x /usr/bin/time ] || { echo "check.sh: GNU time is not installed; apt-get install time" >&2; exit 2; }
cargo build -q --release -p bench --example make-mappings
cargo build -q --release -p ingress --bin selvedge-ingress
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM

status=0
printf '%-10s %8s %8s\n' shape cpu_ms kib
for shape in ${*:-prefixes hostnames hosts patterns mixed}; do
    "$target/release/examples/make-mappings" "$shape" "$count" >"$dir/mappings.yaml"
    # User and system seconds, then the largest resident size. `check` exits 1 on findings, which are not our question.
    /usr/bin/time -o "$dir/time" -f '%U %S %M' "$target/release/selvedge-ingress" check "$dir/mappings.yaml" \
        >"$dir/out" 2>"$dir/err" || [ $? -eq 1 ] || { cat "$dir/err" >&2; exit 1; }
    # GNU time puts a line above its own when the exit status is not 0.
    cpu_ms=$(tail -n 1 "$dir/time" | awk '{ printf "%d", ($1 + $2) * 1000 }')
    kib=$(tail -n 1 "$dir/time" | awk '{ print $3 }')
    printf '%-10s %8d %8d\n' "$shape" "$cpu_ms" "$kib"
    if [ "$cpu_ms" -gt "$most_ms" ] || [ "$kib" -gt "$most_kib" ]; then
        echo "check.sh: $shape: more than $most_ms ms of CPU or $most_kib KiB for $count Mappings" >&2
        status=1
    fi
done
exit $status
