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
# shellcheck source=scripts/compare/probes.sh
source "$ROOT/scripts/compare/probes.sh"
# shellcheck source=scripts/compare/cases.sh
source "$ROOT/scripts/compare/cases.sh"
readonly DRIVER_CORE=0
readonly PROXY_CORE=1
readonly WARM_UP_SECONDS=1
readonly PROXIES=(floor fastlb-io-uring fastlb-epoll nginx haproxy pingora caddy go)

rounds=5
seconds=5
cases=(small idle direct)
congestion=
# Another build of fastlb.
before=
subjects=("${PROXIES[@]}")
out="$ROOT/target/compare"
bin="${CARGO_TARGET_DIR:-$ROOT/target}/release"
peers="${CARGO_TARGET_DIR:-$ROOT/target}/peers"
work=
# Requests a second of the case rate, once they are found.
rate=
# Who cannot serve, as "MODE SUBJECT".
unable=()

usage() {
    cat <<EOF
Usage: scripts/compare.sh [OPTIONS]

Compares fastlb with the floor, nginx, HAProxy, Pingora, Caddy and Go. Prints a table in
Markdown; the raw rounds go to DIR/rounds.jsonl, the machine and the versions to
DIR/machine.json. A peer that is not installed is skipped; scripts/install-peers.sh
installs them. DIR/report.md has the tables too, DIR/CASE.svg a chart of each.

  --rounds N      interleaved rounds (default $rounds)
  --seconds S     seconds that each measurement lasts (default $seconds)
  --cases LIST    of the cases below, or all (default $(joined , "${cases[@]}"))
  --only LIST     of ${PROXIES[*]} (default all)
  --before BIN    beside the others a fastlb of another build, on io_uring, as fastlb-before
  --congestion C  in a network namespace of its own, with this TCP congestion control (needs
                  root): the default of most kernels is cubic, one that paces (bbr) arms a timer
                  for nearly every segment, in every proxy alike
  --out DIR       where the raw data goes (default target/compare);
                  bench/results/DATE-NAME for what is to be kept
  --help          this text

Cases:
  small, small16, small512     100-byte bodies over 64, 16 and 512 kept connections
  body1k, body16k, body64k     longer bodies over 64 connections
  large, upload                bodies of 1 MiB over 16 connections, down and up
  large64                      large over 64 connections
  close                        a connection for each request
  pipeline                     16 requests under way on each of 16 connections
  bulk, duplex, pingpong       proxies that know only TCP: large, large both ways, small
  rate                         latency at a fixed rate, half of what the slowest reaches
  beside                       latency of a few small requests beside bulk
  idle                         memory of $IDLE_CONNECTIONS idle connections
  dead                         small, before fleets of which most backends refuse
  killed                       errors seen while a backend is killed and comes back
  direct                       the others of HTTP at full speed, without a proxy; else small

The proxy runs on core $PROXY_CORE, the driver (loadgen, one thread) and three origins on
core $DRIVER_CORE. The cases rate and beside last $PACED_SECONDS_MIN seconds at least, and root
may give their driver and origin real-time priority. A measurement takes about two seconds more
than its time.

Exit codes: 0 all was measured, 1 something could not be, or requests failed outside killed.
EOF
}

main() {
    parse_flags "$@"
    if ! is_in_namespace; then check_tools; fi
    claim_out
    if ! is_in_namespace; then build; fi
    if [[ -n "$congestion" ]]; then enter_namespace "$@"; fi
    find_subjects
    prepare
    start_origins 3 "$DRIVER_CORE"
    find_unable
    if has_case rate; then find_rate; fi
    local round
    for ((round = 1; round <= rounds; round++)); do
        run_round "$round"
    done
    [[ -s "$out/rounds.jsonl" ]] || fail "nothing was measured"
    python3 "$ROOT/scripts/compare/report.py" --check "$out"
}

parse_flags() {
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --rounds) rounds="$(positive "$@")"; shift 2 ;;
            --seconds) seconds="$(positive "$@")"; shift 2 ;;
            --cases)
                cases=(); read_list cases "${2:-}" "${CASES[@]}" all
                if has_case all; then cases=("${CASES[@]}"); fi
                shift 2 ;;
            --only) subjects=(); read_list subjects "${2:-}" "${PROXIES[@]}"; shift 2 ;;
            --before)
                [[ -f "${2:-}" && -x "$2" ]] || fail "--before needs a program"
                before="$(realpath "$2")"; shift 2 ;;
            --congestion)
                [[ -n "${2:-}" ]] || fail "--congestion needs a name"
                congestion="$2"; shift 2 ;;
            --out) [[ -n "${2:-}" ]] || fail "--out needs a directory"; out="$2"; shift 2 ;;
            *) fail "unknown flag $1; --help lists them" ;;
        esac
    done
    if [[ -n "$before" ]]; then subjects+=(fastlb-before); fi
}

check_tools() {
    need cargo taskset timeout flock python3
    (($(nproc) >= 2)) || fail "two cores are needed: one for the proxy, one for the driver"
    if [[ -n "$congestion" ]]; then check_namespace; fi
    if [[ "$(realpath -m "$out")" == "$ROOT/bench/results/"* \
        && "$(commit_of_tree)" == *-dirty ]]; then
        fail "what is kept in bench/results has to come from a commit: commit, or change --out"
    fi
    find_subjects
}

# Fails where the results cannot go, before minutes are spent on them.
claim_out() {
    claim_folder "$out"
    if [[ "$out" != "$ROOT/target/compare" && -e "$out/rounds.jsonl" ]]; then
        fail "$out holds results already"
    fi
}

# Leaves out who is not installed.
find_subjects() {
    local left=() subject
    for subject in "${subjects[@]}"; do
        if is_installed "$subject"; then
            left+=("$subject")
        else
            note "$subject is not installed: skipped; scripts/install-peers.sh installs it"
        fi
    done
    subjects=(${left[@]+"${left[@]}"})
    if ((${#subjects[@]} == 0)) && [[ "${cases[*]}" != direct ]]; then
        fail "nobody is left to be measured"
    fi
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
            if ! "$ROOT/scripts/install-peers.sh" --only "$peer"; then
                note "$peer: skipped, because it cannot be built again"
                rm -f "$peers/$peer"
            fi
        fi
    done
}

# Starts every subject once. Who does not serve has no part, rather than to end the run in its
# middle.
find_unable() {
    local subject mode modes=()
    for mode in http tcp; do
        if needs_mode "$mode"; then modes+=("$mode"); fi
    done
    for subject in "${subjects[@]}"; do
        for mode in "${modes[@]}"; do
            if takes_part_in_mode "$mode" "$subject" && ! can_serve; then
                unable+=("$mode $subject")
                note "$subject, $mode: skipped"
            fi
        done
    done
}

needs_mode() { # http|tcp
    local case mode
    for case in "${cases[@]}"; do
        mode=http
        if is_tcp; then mode=tcp; fi
        if [[ "$mode" == "$1" ]]; then return; fi
    done
    return 1
}

# Whether $subject answers in $mode. What fails in it ends only the subshell.
can_serve() {
    (
        pids=()
        trap end_all EXIT
        "start_${subject//-/_}"
        wait_until_it_answers "$subject"
        serving_pid "$subject" >/dev/null
    )
}

prepare() {
    # What an earlier run left there would be taken for this one's.
    if [[ "$out" == "$ROOT/target/compare" ]]; then rm -f "$out"/*.svg "$out/report.md"; fi
    : >"$out/rounds.jsonl"
    ulimit -n "$(ulimit -Hn)"
    work="$(mktemp -d)"
    clean_up_by clean_up
    find_priority
    describe_machine >"$out/machine.json"
}

# Behind the machine the versions and what was chosen.
describe_machine() {
    collect_machine
    facts+=(
        fastlb "$(version "$bin/fastlb" --version)"
        nginx "$(version nginx -v)"
        haproxy "$(version haproxy -v)"
        pingora "$(pingora_version)"
        caddy "$(version caddy version)"
        go "$(version "$peers/go" --version)"
        loadgen "$(version "$bin/loadgen" --version)"
        real_time "$may_be_first"
        rounds "$rounds"
        seconds "$seconds"
    )
    facts_as_json
}

# One round: every case, in each every subject, one right after the other. Each round begins with
# another subject, so that none always follows the same neighbour.
run_round() {
    local round="$1" count="${#subjects[@]}" index case subject
    for case in "${cases[@]}"; do
        note "round $round of $rounds: $case"
        if [[ "$case" == direct ]]; then
            subject=direct
            around_direct
            continue
        fi
        for ((index = 0; index < count; index++)); do
            subject="${subjects[(index + round - 1) % count]}"
            if ! in_turn; then continue; fi
            if declare -F "around_$case" >/dev/null; then "around_$case"; else measure; fi
        done
    done
}

has_case() {
    [[ " ${cases[*]} " == *" $1 "* ]]
}

# Whether the subject has part in the case. Who has none in bulk knows no TCP.
in_turn() {
    local mode=http
    if is_tcp; then mode=tcp; fi
    takes_part "$case" "$subject" && takes_part_in_mode "$mode" "$subject" \
        && ! contains "$mode $subject" ${unable[@]+"${unable[@]}"}
}

takes_part_in_mode() { # http|tcp SUBJECT
    [[ "$1" == http ]] || takes_part bulk "$2"
}

is_tcp() {
    [[ " ${TCP_CASES[*]} " == *" $case "* ]]
}

# Starts the subject, runs the case and stops it. Sets what the cases read.
measure() {
    local address pid mode=http
    if is_tcp; then mode=tcp; fi
    "start_${subject//-/_}"
    pid="$(serving_pid "$subject")"
    wait_until_it_answers "$subject"
    "case_$case"
    stop "$subject"
}

# However it ended: what was measured until then has its report.
clean_up() {
    end_all
    rm -rf "$work"
    if [[ -s "$out/rounds.jsonl" ]]; then
        python3 "$ROOT/scripts/compare/report.py" --write "$out"
    else
        rm -f "$out/rounds.jsonl" "$out/machine.json"
        rmdir --ignore-fail-on-non-empty "$out"
    fi
}

main "$@"
