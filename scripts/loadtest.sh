#!/usr/bin/env bash
# Drives fastlb before origins of its own, or any target, and keeps what was measured with the
# machine that it was measured on. See bench/README.md for how to read it.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# What a run may take beyond its seconds: opening, and waiting for the last answers.
readonly SPARE_SECONDS=60

seconds=10
warm_up=1
connections=64
origins=3
cores=1
io=auto
path=/
targets=()
# Flags that shape what the script starts itself.
own=()
driver_flags=()
out="$ROOT/target/loadtest/$(date +%Y-%m-%d-%H%M%S)"
bin=
work=
driver_cores=
fastlb_cores=
engine=
fastlb_command=()

usage() {
    cat <<EOF
Usage: scripts/loadtest.sh [OPTIONS] [-- LOADGEN FLAGS]

Starts origins and fastlb, drives them with loadgen, prints percentiles and the distribution over
the backends, and writes both with the environment into a folder.

  --seconds S       seconds that are measured (default $seconds)
  --warm-up S       seconds before, under the same load (default $warm_up)
  --connections N   connections that are open at once (default $connections)
  --path PATH       what is asked for: / (100 bytes), /bytes/N, /delay/MS, /echo (default $path)
  --origins N       backends (default $origins)
  --cores N         workers of fastlb, on cores of their own if there are more than N
                    (default $cores)
  --io ENGINE       of fastlb: auto, io-uring or epoll (default $io)
  --target URL      drive this instead, and start nothing; may be repeated
  --bin DIR         take fastlb, origin and loadgen from there instead of building them
  --out DIR         a new or an empty folder for the results
                    (default target/loadtest/DATE-TIME)
  --help            this text

What follows -- goes to loadgen: --rate 20000 (open loop), --no-keep-alive, --pipeline 16,
--body-bytes 1048576, --checksum sent, --max-failures 0 and others; loadgen --help lists them.

DIR has then: summary.txt, result.json, latency.hgrm (for the plotters of HdrHistogram),
server_stats.csv, environment.json, and the log of fastlb. Exit codes are those of loadgen.
EOF
}

main() {
    parse_flags "$@"
    check_tools
    prepare
    build
    if ((${#targets[@]} == 0)); then start_fastlb; fi
    collect_facts
    facts_as_json >"$out/environment.json"
    drive
}

parse_flags() {
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --seconds) seconds="$(positive "$@")"; shift 2 ;;
            --warm-up) warm_up="$(whole "$@")"; shift 2 ;;
            --connections) connections="$(positive "$@")"; shift 2 ;;
            --origins) origins="$(positive "$@")"; own+=("$1"); shift 2 ;;
            --cores) cores="$(positive "$@")"; own+=("$1"); shift 2 ;;
            --path) path="$(value "$@")"; own+=("$1"); shift 2 ;;
            --io) io="$(value "$@")"; own+=("$1"); shift 2 ;;
            --target) targets+=("$(value "$@")"); shift 2 ;;
            --bin) bin="$(value "$@")"; shift 2 ;;
            --out) out="$(value "$@")"; shift 2 ;;
            --) shift; driver_flags=("$@"); break ;;
            *) fail "unknown flag $1; --help lists them, and those of loadgen come behind --" ;;
        esac
    done
    if ((${#targets[@]} && ${#own[@]})); then
        fail "${own[*]}: nothing is started beside --target; the path stands in its URL"
    fi
    [[ "$path" == /* ]] || fail "--path begins with a slash, and $path does not"
}

# Prints the value of a flag that takes a text.
value() {
    [[ -n "${2:-}" ]] || fail "$1 needs a value"
    echo "$2"
}

# Prints the value of a flag that takes a number, which may be 0.
whole() {
    [[ "${2:-}" =~ ^(0|[1-9][0-9]*)$ ]] || fail "$1 needs a whole number"
    echo "$2"
}

check_tools() {
    need timeout flock
    if [[ -z "$bin" ]]; then need cargo; fi
}

prepare() {
    claim_folder "$out"
    [[ -z "$(ls -A "$out")" ]] || fail "$out is not empty; name another with --out"
    ulimit -n "$(ulimit -Hn)"
    work="$(mktemp -d)"
    clean_up_by clean_up
}

build() {
    local program programs=(loadgen)
    if ((${#targets[@]} == 0)); then programs+=(origin fastlb); fi
    if [[ -z "$bin" ]]; then
        note "building"
        bin="${CARGO_TARGET_DIR:-$ROOT/target}/release"
        cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" --workspace --bins
    fi
    for program in "${programs[@]}"; do
        [[ -x "$bin/$program" ]] || fail "$bin/$program is not there; without --bin it is built"
    done
}

start_fastlb() {
    deal_cores
    start_origins "$origins" "$driver_cores"
    fastlb_command=("$bin/fastlb" --listen 127.0.0.1:0 --backends "$(joined , "${backends[@]}")"
        --cores "$cores" --io "$io" --admin off --log-level info)
    start fastlb "$fastlb_cores" "${fastlb_command[@]}"
    targets=("http://$(logged_address)$path")
    engine="$(engine_of "$(pid_of fastlb)")"
    expect_length
}

# Waits for the line in which fastlb says where it listens.
logged_address() {
    local address
    for _ in {1..200}; do
        address="$(sed -n 's/.* listening on //p' "$work/fastlb.err" | head -n 1)"
        if [[ -n "$address" ]]; then echo "$address"; return; fi
        if ! kill -0 "$(pid_of fastlb)" 2>/dev/null; then break; fi
        sleep 0.05
    done
    fail "fastlb does not listen: $(tail -n 5 "$work/fastlb.err")"
}

# Gives fastlb the last cores, and the driver and the origins the others, if there are enough.
deal_cores() {
    local count
    count="$(nproc)"
    if ((cores < count)) && command -v taskset >/dev/null; then
        driver_cores="0-$((count - cores - 1))"
        fastlb_cores="$((count - cores))-$((count - 1))"
    else
        note "fastlb shares the $count cores with the driver and the origins"
    fi
}

# How much the origins send for a path is known; so it is checked, unless the flags do already.
expect_length() {
    if [[ " ${driver_flags[*]-} " == *" --expect-length"* ]]; then return; fi
    # Nothing comes behind the head then.
    if [[ " ${driver_flags[*]-} " =~ " "(-m|--method)[\ =]?HEAD" " ]]; then return; fi
    local route="${path%%\?*}"
    case "$route" in
        / | /delay/*) driver_flags+=(--expect-length 100) ;;
        /bytes/*) driver_flags+=(--expect-length "${route#/bytes/}") ;;
    esac
}

# Behind the machine the versions and all that was chosen. Of what serves a target of the user's
# nothing is known.
collect_facts() {
    collect_machine
    facts+=(
        open_files "$(ulimit -n)"
        loadgen "$(version "$bin/loadgen" --version)"
        driver_cores "${driver_cores:-any}"
        connections "$connections"
        warm_up_seconds "$warm_up"
        seconds "$seconds"
        loadgen_flags "${driver_flags[*]-}"
        targets "${targets[*]}"
    )
    if ((${#fastlb_command[@]})); then
        facts+=(
            fastlb "$(version "$bin/fastlb" --version)"
            engine "$engine"
            fastlb_cores "${fastlb_cores:-any}"
            fastlb_command "${fastlb_command[*]}"
        )
    fi
}

# Runs loadgen, prints and keeps what it found, and ends with its exit code. It runs behind the
# script, which can be told to end meanwhile.
drive() {
    local pinned=() status=0
    if [[ -n "$driver_cores" ]]; then pinned=(taskset -c "$driver_cores"); fi
    ${pinned[@]+"${pinned[@]}"} \
        timeout --kill-after=5 "$((seconds + warm_up + SPARE_SECONDS))" \
        "$bin/loadgen" --connections "$connections" --duration "${seconds}s" \
        --warm-up "${warm_up}s" --out "$out" ${driver_flags[@]+"${driver_flags[@]}"} \
        "${targets[@]}" >"$work/summary" &
    pids+=("loadgen:$!")
    wait "$!" || status=$?
    if ((status == 124)); then
        fail "loadgen was ended $SPARE_SECONDS s after its time; is its --timeout longer than that?"
    fi
    if [[ ! -e "$out/result.json" ]]; then
        cat "$work/summary"
        note "loadgen left no result; what it says stands above"
        exit "$((status ? status : 1))"
    fi
    { facts_as_text; cat "$work/summary"; } | tee "$out/summary.txt"
    note "the results are in $out"
    exit "$status"
}

# Half a result is none: the folder is as it was then, and may be named again.
# shellcheck disable=SC2317 # The trap calls it.
clean_up() {
    end_all
    if [[ ! -e "$out/result.json" ]]; then
        rm -f "$out/environment.json"
        rmdir --ignore-fail-on-non-empty "$out"
    elif [[ -e "$work/fastlb.err" ]]; then
        cp "$work/fastlb.err" "$out/fastlb.log"
    fi
    rm -rf "$work"
}

main "$@"
