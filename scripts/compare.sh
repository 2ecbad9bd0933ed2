#!/usr/bin/env bash
# Compares fastlb with the floor and with tuned peers, on one core each, in interleaved rounds.
# See bench/README.md for what is measured and how to read it.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# shellcheck source=scripts/compare/subjects.sh
source "$ROOT/scripts/compare/subjects.sh"
# shellcheck source=scripts/compare/cases.sh
source "$ROOT/scripts/compare/cases.sh"
readonly DRIVER_CORE=0
readonly PROXY_CORE=1
readonly CLIENTS=64
readonly IDLE_CONNECTIONS=8000
readonly BULK_CLIENTS=16
readonly BULK_BYTES=$((1024 * 1024))
# The case beside: small requests at a rate that is little for anybody, beside flows of bulk.
readonly BESIDE_RATE=2000
readonly BESIDE_CLIENTS=16
readonly BESIDE_FLOWS=8
readonly BESIDE_BYTES=$((16 * 1024 * 1024))
# Fleets of the case dead: backends that serve, backends that refuse.
readonly FLEETS=("3 0" "100 0" "100 900")
readonly WARM_UP_SECONDS=1
readonly PROXIES=(floor fastlb-io-uring fastlb-epoll nginx haproxy pingora caddy go)

rounds=5
seconds=5
cases=(small idle direct)
mode=http
congestion=
subjects=("${PROXIES[@]}")
out="$ROOT/target/compare"
bin="${CARGO_TARGET_DIR:-$ROOT/target}/release"
peers="${CARGO_TARGET_DIR:-$ROOT/target}/peers"
work=

usage() {
    cat <<EOF
Usage: scripts/compare.sh [OPTIONS]

Compares fastlb with the floor, nginx, HAProxy, Pingora, Caddy and Go. Prints a table in
Markdown; the raw rounds go to DIR/rounds.jsonl, the machine and the versions to
DIR/machine.json. A peer that is not installed is skipped; scripts/install-peers.sh
installs them.

  --rounds N      interleaved rounds (default $rounds)
  --seconds S     seconds that each measurement lasts (default $seconds)
  --cases LIST    of small, idle, direct, large, bulk, dead, beside (default the first three); large is
                  HTTP with bodies of 1 MiB, bulk the same bytes through proxies that know only
                  TCP, dead is small before fleets of which most backends refuse, beside the
                  latency of a few small requests beside bulk (needs root and chrt)
  --only LIST     of ${PROXIES[*]} (default all)
  --congestion C  in a network namespace of its own, with this TCP congestion control (needs
                  root): the default of most kernels is cubic, one that paces (bbr) arms a timer
                  for nearly every segment, in every proxy alike
  --out DIR       where the raw data goes (default target/compare);
                  bench/results/DATE-NAME for what is to be kept
  --help          this text

The proxy runs on core $PROXY_CORE, the driver (wrk, one thread) and three origins on
core $DRIVER_CORE.
EOF
}

main() {
    parse_flags "$@"
    if [[ -n "$congestion" ]]; then enter_namespace "$@"; fi
    check_tools
    build
    prepare
    start_origins 3 "$DRIVER_CORE"
    local round
    for ((round = 1; round <= rounds; round++)); do
        run_round "$round"
    done
    python3 "$ROOT/scripts/compare/report.py" "$out"
}

parse_flags() {
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --rounds) rounds="$(positive "$@")"; shift 2 ;;
            --seconds) seconds="$(positive "$@")"; shift 2 ;;
            --cases) cases=(); read_list cases "${2:-}" small idle direct large bulk dead beside; shift 2 ;;
            --only) subjects=(); read_list subjects "${2:-}" "${PROXIES[@]}"; shift 2 ;;
            --congestion)
                [[ -n "${2:-}" ]] || fail "--congestion needs a name"
                congestion="$2"; shift 2 ;;
            --out) [[ -n "${2:-}" ]] || fail "--out needs a directory"; out="$2"; shift 2 ;;
            *) fail "unknown flag $1; --help lists them" ;;
        esac
    done
}

# Runs the script again in a network namespace of its own, which ends with it.
enter_namespace() {
    local -r control=/proc/sys/net/ipv4/tcp_congestion_control
    if [[ "${FASTLB_COMPARE_NAMESPACE:-}" != "$congestion" ]]; then
        FASTLB_COMPARE_NAMESPACE="$congestion" exec unshare --net "$0" "$@"
    fi
    ip link set lo up
    echo "$congestion" 2>/dev/null >"$control" \
        || fail "$congestion cannot be had; allowed are: $(cat "${control/_congestion/_allowed_congestion}")"
}

check_tools() {
    local tool
    for tool in cargo wrk taskset python3; do
        command -v "$tool" >/dev/null || fail "$tool is needed and not installed"
    done
    (($(nproc) >= 2)) || fail "two cores are needed: one for the proxy, one for the driver"
    local left=()
    for subject in "${subjects[@]}"; do
        if is_installed "$subject"; then
            left+=("$subject")
        else
            note "$subject is not installed: skipped; scripts/install-peers.sh installs it"
        fi
    done
    subjects=(${left[@]+"${left[@]}"})
}

build() {
    note "building"
    cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" -p fastlb-bench
    if [[ " ${subjects[*]-} " == *" fastlb-"* ]]; then
        cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" -p fastlb
    fi
    # What was built from an older tree is no peer of this one.
    local peer
    for peer in pingora go; do
        if [[ " ${subjects[*]-} " == *" $peer "* ]]; then
            "$ROOT/scripts/install-peers.sh" --only "$peer"
        fi
    done
}

prepare() {
    mkdir -p "$out"
    out="$(cd "$out" && pwd)"
    if [[ "$out" != "$ROOT/target/compare" && -e "$out/rounds.jsonl" ]]; then
        fail "$out holds results already"
    fi
    : >"$out/rounds.jsonl"
    ulimit -n "$(ulimit -Hn)"
    work="$(mktemp -d)"
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    describe_machine >"$out/machine.json"
}

describe_machine() {
    python3 - "$(commit_of_tree)" "$(cpu_model)" "$(nproc)" "$(uname -r)" \
        "$(version "$bin/fastlb" --version)" "$(version nginx -v)" "$(version haproxy -v)" \
        "$(pingora_version)" "$(version caddy version)" "$(version "$peers/go" --version)" \
        "$(version wrk -v)" "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" \
        "$rounds" "$seconds" "$CLIENTS" "$IDLE_CONNECTIONS" <<'EOF'
import datetime, json, sys
names = ["commit", "cpu", "cores", "kernel", "fastlb", "nginx", "haproxy", "pingora", "caddy", "go",
         "wrk", "congestion_control", "rounds", "seconds", "clients", "idle_connections"]
machine = {"date": datetime.date.today().isoformat()} | dict(zip(names, sys.argv[1:]))
print(json.dumps(machine, indent=2))
EOF
}

# One round: every subject in every case. Each round begins with another subject, so that none
# always follows the same neighbour.
run_round() {
    local round="$1" count="${#subjects[@]}" index subject
    if has_case direct; then
        note "round $round of $rounds: direct"
        measure small direct "$round"
    fi
    for ((index = 0; index < count; index++)); do
        subject="${subjects[(index + round - 1) % count]}"
        note "round $round of $rounds: $subject"
        if in_turn small; then measure small "$subject" "$round"; fi
        if in_turn idle; then measure idle "$subject" "$round"; fi
        if in_turn large; then measure large "$subject" "$round"; fi
        if in_turn bulk; then mode=tcp; measure bulk "$subject" "$round"; mode=http; fi
        if in_turn beside; then measure_beside "$subject" "$round"; fi
        if in_turn dead; then measure_fleets "$subject" "$round"; fi
    done
}

has_case() {
    [[ " ${cases[*]} " == *" $1 "* ]]
}

# Whether the case is asked for and the subject has part in it.
in_turn() {
    has_case "$1" && takes_part "$1" "$subject"
}

# Starts a subject, warms it up, runs the case and stops it. Sets what the cases read.
measure() {
    local case="$1" subject="$2" round="$3" address pid engine
    "start_${subject//-/_}"
    pid="$(serving_pid "$subject")"
    wait_until_it_answers "$subject"
    drive "$WARM_UP_SECONDS" >/dev/null
    engine="$(engine_of "$pid")"
    "case_$case"
    stop "$subject"
}

clean_up() {
    end_all
    rm -rf "$work"
}

main "$@"
