#!/usr/bin/env bash
# What the drivers themselves cost: CPU time per request of wrk and of loadgen, one thread and 64
# connections each, against an origin on another core. Prints the rounds and the ratios in them.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
readonly DRIVER_CORE=0
readonly ORIGIN_CORE=1
readonly CONNECTIONS=64

rounds=5
seconds=3
bin="${CARGO_TARGET_DIR:-$ROOT/target}/release"
work=

usage() {
    cat <<EOF
Usage: scripts/driver_cost.sh [OPTIONS]

  --rounds N    interleaved rounds (default $rounds)
  --seconds S   seconds that each measurement lasts (default $seconds)
  --help        this text

Needs wrk, taskset and two cores.
EOF
}

main() {
    parse_flags "$@"
    need cargo taskset wrk
    (($(nproc) >= 2)) || fail "two cores are needed: one for the driver, one for the origin"
    local round url
    cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" -p fastlb-bench
    work="$(mktemp -d)"
    clean_up_by clean_up
    start_origins 1 "$ORIGIN_CORE"
    url="http://${backends[0]}/bytes/100"
    collect_machine
    facts+=(wrk "$(version wrk -v)")
    facts_as_text | sed '/./s/^/# /'
    for ((round = 1; round <= rounds; round++)); do
        measure kept wrk wrk -t 1 -c "$CONNECTIONS" -d "$seconds" "$url"
        measure kept loadgen "$bin/loadgen" -c "$CONNECTIONS" -w 0s -d "${seconds}s" "$url"
        measure one-each wrk wrk -t 1 -c "$CONNECTIONS" -d "$seconds" -H 'Connection: close' "$url"
        measure one-each loadgen "$bin/loadgen" -c "$CONNECTIONS" -w 0s -d "${seconds}s" \
            --no-keep-alive "$url"
    done | tee "$work/rounds"
    ratios
}

parse_flags() {
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --rounds) rounds="$(positive "$@")"; shift 2 ;;
            --seconds) seconds="$(positive "$@")"; shift 2 ;;
            *) fail "unknown flag $1; --help lists them" ;;
        esac
    done
}

# shellcheck disable=SC2317 # The trap calls it.
clean_up() {
    end_all
    rm -rf "$work"
}

# Runs a driver on its core; prints the case, its name, its requests and its CPU time for each.
measure() {
    local requests cpu TIMEFORMAT='%U %S'
    { time taskset -c "$DRIVER_CORE" "${@:3}" >"$work/found" 2>&1; } 2>"$work/time" \
        || fail "$2 failed: $(tail -n 1 "$work/found")"
    requests="$(sed -nE 's/^ *([0-9]+) requests in .*/\1/p
        s/^requests +([0-9]+).*/\1/p' "$work/found")"
    cpu="$(awk -v requests="$requests" '{printf "%.2f", ($1 + $2) * 1e6 / requests}' "$work/time")"
    echo "$1 $2 $requests requests $cpu us"
}

# Forms each round's ratio, then the median.
ratios() {
    local case
    for case in kept one-each; do
        awk -v case="$case" '$1 == case {
            if ($2 == "wrk") wrk = $5; else printf "%.3f\n", $5 / wrk
        }' "$work/rounds" | sort -n | awk -v case="$case" '{ratio[NR] = $1} END {
            printf "# %s: loadgen to wrk %s (%s to %s)\n", case,
                ratio[int((NR + 1) / 2)], ratio[1], ratio[NR]
        }'
    done
}

main "$@"
