#!/bin/sh
# CPU and peak memory of `selvedge-ingress check` on 10,000 Mappings. Fails above 0.5 s or 60 MiB, for any shape.
# Usage: bench/check.sh [SHAPE...]
set -eu
cd "$(dirname "$0")/.."
count=10000 most_ms=500 most_kib=61440
shapes="plain prefixes contexts hostnames random hosts"
target=${CARGO_TARGET_DIR:-target}
cargo build -q --release -p bench --example make-mappings --example measure
cargo build -q --release -p ingress --bin selvedge-ingress
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM

status=0
printf '%-16s %8s %8s\n' shape cpu_ms kib
for shape in ${*:-$shapes}; do
    "$target/release/examples/make-mappings" "$shape" "$count" >"$dir/mappings.yaml"
    "$target/release/examples/measure" "$target/release/selvedge-ingress" check "$dir/mappings.yaml" \
        >"$dir/out" 2>"$dir/err" || { cat "$dir/err" >&2; exit 1; }
    read -r cpu_ms kib code <<END
$(tail -n 1 "$dir/err")
END
    # `check` exits 1 on findings, which are not our question; 2 is one.
    [ "$code" -le 1 ] || { cat "$dir/err" >&2; exit 1; }
    printf '%-16s %8d %8d\n' "$shape" "$cpu_ms" "$kib"
    if [ "$cpu_ms" -gt "$most_ms" ] || [ "$kib" -gt "$most_kib" ]; then
        echo "check.sh: $shape: more than $most_ms ms of CPU or $most_kib KiB for $count Mappings" >&2
        status=1
    fi
done
exit $status
