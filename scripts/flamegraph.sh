#!/usr/bin/env bash
# Draws where fastlb spends its time under a named load, as flamegraphs/DATE-SCENARIO.svg. What is
# to be seen in them stands in flamegraphs/README.md. No hardware counters are needed.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# shellcheck source=scripts/compare/cases.sh
source "$ROOT/scripts/compare/cases.sh"
readonly SCENARIOS=(small close upload large tcp-bulk)
# A prime, so that no timer of the program keeps step with the samples.
readonly SAMPLES_PER_SECOND=997
readonly FLAMEGRAPH_VERSION=0.6.15
readonly DRIVER_CORE=0
readonly PROXY_CORE=1

seconds=10
io="io-uring"
congestion=
chosen=("${SCENARIOS[@]}")
# With frame pointers, which perf follows; a folder of its own keeps the ordinary build.
build_dir="${CARGO_TARGET_DIR:-$ROOT/target}/flamegraph"
bin="$build_dir/release"
work=
# What loadgen is told of a scenario: the path, and its flags.
path=
load=()

usage() {
    cat <<EOF
Usage: scripts/flamegraph.sh [OPTIONS] [SCENARIO...]

Scenarios (default all):
  small      ${CLIENTS} kept connections, bodies of 100 bytes
  close      a connection for each request
  upload     bodies of 1 MiB to the backends
  large      bodies of 1 MiB to the clients
  tcp-bulk   the same bytes in TCP mode

  --seconds S     seconds that are sampled (default $seconds)
  --io ENGINE     io-uring or epoll (default $io); pictures of epoll have it in their name
  --congestion C  in a network namespace of its own, with this TCP congestion control (needs root)
  --help          this text

Needs perf, and flamegraph, which it installs by cargo where it is missing.
EOF
}

main() {
    parse_flags "$@"
    if ! is_in_namespace; then
        check_tools
        build
    fi
    if [[ -n "$congestion" ]]; then enter_namespace "$@"; fi
    work="$(mktemp -d)"
    clean_up_by clean_up
    start_origins 3 "$DRIVER_CORE"
    local scenario
    for scenario in "${chosen[@]}"; do
        note "$scenario"
        draw "$scenario"
    done
}

parse_flags() {
    local named=()
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --seconds) seconds="$(positive "$@")"; shift 2 ;;
            --io)
                [[ "${2:-}" =~ ^(io-uring|epoll)$ ]] || fail "--io is io-uring or epoll"
                io="$2"; shift 2 ;;
            --congestion)
                [[ -n "${2:-}" ]] || fail "--congestion needs a name"
                congestion="$2"; shift 2 ;;
            -*) fail "unknown flag $1; --help lists them" ;;
            *)
                [[ " ${SCENARIOS[*]} " == *" $1 "* ]] || fail "$1 is none of: ${SCENARIOS[*]}"
                named+=("$1"); shift ;;
        esac
    done
    if ((${#named[@]})); then chosen=("${named[@]}"); fi
}

check_tools() {
    need cargo perf taskset python3
    (($(nproc) >= 2)) || fail "two cores are needed: one for fastlb, one for the driver"
    if [[ -n "$congestion" ]]; then check_namespace; fi
    if ! command -v flamegraph >/dev/null; then
        note "installing flamegraph"
        cargo install --quiet --locked --version "$FLAMEGRAPH_VERSION" flamegraph
        PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    fi
}

build() {
    note "building with frame pointers"
    RUSTFLAGS="-C force-frame-pointers=yes" CARGO_TARGET_DIR="$build_dir" cargo build --release \
        --quiet --manifest-path "$ROOT/Cargo.toml" -p fastlb -p fastlb-bench
}

# Samples fastlb in the middle of a load, and draws what was seen.
draw() {
    local mode=http address pid picture variant='' control
    control="$(</proc/sys/net/ipv4/tcp_congestion_control)"
    if [[ "$1" == tcp-bulk ]]; then mode=tcp; fi
    if [[ "$io" != io-uring ]]; then variant="-$io"; fi
    address="127.0.0.1:$(free_port)"
    start fastlb "$PROXY_CORE" "$bin/fastlb" --listen "$address" --mode "$mode" --io "$io" \
        --backends "$(joined , "${backends[@]}")" --cores 1
    wait_until_it_answers fastlb
    pid="$(pid_of fastlb)"
    "case_${1/tcp-/}"
    start driver "$DRIVER_CORE" "$bin/loadgen" --warm-up 1s --duration "$((seconds + 1))s" \
        --max-failures 0 "${load[@]}" "http://$address$path"
    sleep 1.5
    perf record --quiet --event cpu-clock --freq "$SAMPLES_PER_SECOND" -g --pid "$pid" \
        --output "$work/perf.data" -- sleep "$seconds" >/dev/null 2>"$work/perf.err" \
        || fail "perf cannot sample: $(cat "$work/perf.err")"
    wait "$(pid_of driver)" || fail "the driver reports failures: $(cat "$work/driver.out")"
    stop driver
    stop fastlb
    picture="$(date +%Y-%m-%d)-$1$variant.svg"
    flamegraph --perfdata "$work/perf.data" --output "$ROOT/flamegraphs/$picture" \
        --title "fastlb, $io, $1, $control: samples of CPU time" \
        >/dev/null 2>"$work/flamegraph.err" \
        || fail "flamegraph cannot draw: $(cat "$work/flamegraph.err")"
    note "flamegraphs/$picture"
}

# What the cases of compare.sh ask to be driven: here it is only noted.
steady() { # PATH FLAGS_OF_LOADGEN...
    path="$1"
    load=("${@:2}")
}

clean_up() {
    end_all
    rm -rf "$work"
}

main "$@"
