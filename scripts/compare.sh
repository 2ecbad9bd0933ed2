#!/usr/bin/env bash
# Compares fastlb with the floor and with tuned peers, on one core each, in interleaved rounds.
# See bench/README.md for what is measured and how to read it.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
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
readonly PROXIES=(floor fastlb-io-uring fastlb-epoll nginx haproxy)

rounds=5
seconds=5
cases=(small idle direct)
mode=http
congestion=
subjects=("${PROXIES[@]}")
out="$ROOT/target/compare"
bin="${CARGO_TARGET_DIR:-$ROOT/target}/release"
work=

usage() {
    cat <<EOF
Usage: scripts/compare.sh [OPTIONS]

Compares fastlb with the floor, nginx and HAProxy. Prints a table in Markdown; the raw
rounds go to DIR/rounds.jsonl, the machine and the versions to DIR/machine.json.

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
    python3 "$ROOT/scripts/compare_report.py" "$out"
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

# Puts the comma separated list $2 into the array $1; the rest is what may be in it.
read_list() {
    local -n into="$1"
    local item
    for item in ${2//,/ }; do
        [[ " ${*:3} " == *" $item "* ]] || fail "$item is none of: ${*:3}"
        into+=("$item")
    done
    ((${#into[@]})) || fail "an empty list; it may hold: ${*:3}"
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
        if [[ "$subject" =~ ^(nginx|haproxy)$ ]] && ! command -v "$subject" >/dev/null; then
            note "$subject is not installed: skipped"
        else
            left+=("$subject")
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
        "$(version wrk -v)" "$(cat /proc/sys/net/ipv4/tcp_congestion_control)" \
        "$rounds" "$seconds" "$CLIENTS" "$IDLE_CONNECTIONS" <<'EOF'
import datetime, json, sys
names = ["commit", "cpu", "cores", "kernel", "fastlb", "nginx", "haproxy", "wrk",
         "congestion_control", "rounds", "seconds", "clients", "idle_connections"]
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
        if has_case small; then measure small "$subject" "$round"; fi
        if has_case idle; then measure idle "$subject" "$round"; fi
        # The floor relays small messages only.
        if [[ "$subject" == floor ]]; then continue; fi
        if has_case large; then measure large "$subject" "$round"; fi
        if has_case bulk; then mode=tcp; measure bulk "$subject" "$round"; mode=http; fi
        if has_case beside; then measure_beside "$subject" "$round"; fi
        if has_case dead && [[ "$subject" == fastlb-* ]]; then measure_fleets "$subject" "$round"; fi
    done
}

# The same balancer before each of the fleets, once it has found out who refuses.
measure_fleets() {
    local -r served=("${backends[@]}")
    local fleet up refusing port
    start wide "$DRIVER_CORE" "$bin/origin" --name wide --listen 0.0.0.0:0
    port="$(announced_address wide)"
    port="${port##*:}"
    for fleet in "${FLEETS[@]}"; do
        read -r up refusing <<<"$fleet"
        # Port 1 is nobody's.
        mapfile -t backends < <(addresses 1 "$up" "$port"; addresses 101 "$refusing" 1)
        measure dead "$1" "$2"
    done
    stop wide
    backends=("${served[@]}")
}

# Prints $2 addresses of the loopback network with the port $3, from 127.0.$1.1 on.
addresses() {
    local index
    for ((index = 0; index < $2; index++)); do
        echo "127.0.$(($1 + index / 250)).$((index % 250 + 1)):$3"
    done
}

case_dead() {
    local down=0
    for _ in {1..200}; do
        down="$(grep -c ' is down: ' "$work/$subject.err" || true)"
        if ((down >= refusing)); then break; fi
        sleep 0.05
    done
    ((down >= refusing)) || fail "$subject found out $down of $refusing that refuse"
    drive "$WARM_UP_SECONDS" >/dev/null
    case_small "\"fleet\": \"$up up, $refusing refusing\","
}

# With one origin: several would wait for each other on their core.
measure_beside() {
    local -r served=("${backends[@]}")
    backends=("${backends[0]}")
    measure beside "$1" "$2"
    backends=("${served[@]}")
}

# The latency of small requests alone and beside bulk. Their driver and the origin go before
# everybody else on the core that they share with the bulk's driver: what is seen is the proxy's.
case_beside() {
    local alone beside flows
    chrt --fifo --all-tasks --pid 10 "$(pid_of origin1)"
    alone="$(pace)"
    path="bytes/$BESIDE_BYTES" connections="$BESIDE_FLOWS" drive "$((seconds + 3))" \
        >"$work/bulk.json" &
    flows=$!
    sleep 1
    beside="$(pace)"
    wait "$flows"
    record "\"alone\": $alone, \"beside\": $beside, \"wrk\": $(<"$work/bulk.json")"
    chrt --other --all-tasks --pid 0 "$(pid_of origin1)"
}

# Sends small requests at a fixed rate and prints what became of them as JSON, on one line.
pace() {
    chrt --fifo 20 taskset -c "$DRIVER_CORE" "$bin/loadgen" --connections "$BESIDE_CLIENTS" \
        --rate "$BESIDE_RATE" --duration "${seconds}s" --json "http://$address/" 2>/dev/null \
        | python3 -c 'import json, sys
result = json.load(sys.stdin)
print(json.dumps({name: result[name] for name in ("latency_ms", "good", "failures")}))'
}

has_case() {
    [[ " ${cases[*]} " == *" $1 "* ]]
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

start_direct() {
    start direct "$PROXY_CORE" "$bin/origin" --name direct
    address="$(announced_address direct)"
}

start_floor() {
    start floor "$PROXY_CORE" "$bin/floor" --backends "$(joined , "${backends[@]}")"
    address="$(announced_address floor)"
}

start_fastlb_io_uring() {
    start_fastlb io-uring
}

start_fastlb_epoll() {
    start_fastlb epoll
}

start_fastlb() {
    address="127.0.0.1:$(free_port)"
    start "fastlb-$1" "$PROXY_CORE" "$bin/fastlb" --listen "$address" \
        --backends "$(joined , "${backends[@]}")" --cores 1 --io "$1" --mode "$mode" --admin off \
        --log-level warn
}

start_nginx() {
    local servers
    servers="$(printf 'server %s max_fails=0; ' "${backends[@]}")"
    address="127.0.0.1:$(free_port)"
    fill_in nginx.conf "nginx-$mode.conf.in" "$servers"
    start nginx "$PROXY_CORE" nginx -p "$work" -e "$work/nginx.log" -c "$work/nginx.conf"
}

start_haproxy() {
    local servers='' index
    for index in "${!backends[@]}"; do
        servers+="server backend$index ${backends[index]}\\n    "
    done
    address="127.0.0.1:$(free_port)"
    fill_in haproxy.cfg "haproxy-$mode.cfg.in" "$servers"
    start haproxy "$PROXY_CORE" haproxy -db -f "$work/haproxy.cfg"
}

# Writes a peer's configuration $1 from the template $2 in bench/peers, with the servers $3.
fill_in() {
    local limit
    limit="$(ulimit -n)"
    sed -e "s|@PORT@|${address##*:}|" -e "s|@SERVERS@|$3|" -e "s|@DIR@|$work|" \
        -e "s|@CONNECTIONS@|$((limit - 1000))|" -e "s|@CLIENTS@|$(((limit - 1000) / 2))|" \
        "$ROOT/bench/peers/$2" >"$work/$1"
}

# The process that carries the traffic: nginx does it in a child.
serving_pid() {
    local pid child
    pid="$(pid_of "$1")"
    if [[ "$1" != nginx ]]; then echo "$pid"; return; fi
    for _ in {1..100}; do
        read -r child _ <"/proc/$pid/task/$pid/children" || true
        if [[ -n "${child:-}" ]]; then echo "$child"; return; fi
        sleep 0.05
    done
    fail "nginx has no worker: $(cat "$work/nginx.err" "$work/nginx.log")"
}

wait_until_it_answers() {
    for _ in {1..100}; do
        if (exec 3<>"/dev/tcp/${address%:*}/${address##*:}") 2>/dev/null; then return; fi
        sleep 0.05
    done
    fail "$1 does not listen on $address: $(tail -n 5 "$work/$1.err")"
}

# Requests over kept connections; what the process and its core used meanwhile. $1 is what else
# belongs into the record.
case_small() {
    local ticks busy total wrk
    ticks="$(process_ticks)"
    read -r busy total <<<"$(core_ticks)"
    wrk="$(drive "$seconds")"
    ticks="$(($(process_ticks) - ticks))"
    read -r busy total <<<"$(core_ticks | awk -v b="$busy" -v t="$total" '{print $1-b, $2-t}')"
    record "${1:-}" "\"ticks\": $ticks, \"tick_hz\": $(getconf CLK_TCK), \"core_busy_ticks\": $busy," \
        "\"core_total_ticks\": $total, \"rss_kib\": $(resident_kib), \"wrk\": $wrk"
}

# Bytes in large pieces; a request is one of them, whether the proxy knows it or not.
case_large() {
    path="bytes/$BULK_BYTES" connections="$BULK_CLIENTS" case_small
}

case_bulk() {
    case_large
}

# Resident memory before and while many answered connections are held.
case_idle() {
    local before after held input="$work/hold.in"
    before="$(resident_kib)"
    mkfifo "$input"
    exec 9<>"$input"
    start hold "$DRIVER_CORE" "$bin/hold" "$address" "$IDLE_CONNECTIONS"
    held=0
    if wait_for_hold; then held="$IDLE_CONNECTIONS"; fi
    after="$(resident_kib)"
    exec 9>&-
    rm "$input"
    stop hold
    record "\"held\": $held, \"before_kib\": $before, \"after_kib\": $after"
}

wait_for_hold() {
    for _ in {1..600}; do
        if grep -q '^holding ' "$work/hold.out"; then return 0; fi
        if ! kill -0 "$(pid_of hold)" 2>/dev/null; then break; fi
        sleep 0.05
    done
    note "hold failed: $(tail -n 1 "$work/hold.err")"
    return 1
}

# Runs wrk for $1 seconds and prints its figures as JSON.
drive() {
    taskset -c "$DRIVER_CORE" wrk --threads 1 --connections "${connections:-$CLIENTS}" \
        --duration "${1}s" --latency --script "$ROOT/scripts/compare_wrk.lua" \
        "http://$address/${path:-}" \
        | sed -n 's/^JSON //p'
}

# User and system time of all threads of the process, in ticks.
process_ticks() {
    sed 's/.*) //' "/proc/$pid/stat" | awk '{print $12 + $13}'
}

# Busy and total time of the proxy's core, in ticks; guest time is part of user time.
core_ticks() {
    awk -v cpu="cpu$PROXY_CORE" '$1 == cpu {
        total = $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9
        print total - $5 - $6, total
    }' /proc/stat
}

# Exact, unlike the VmRSS of /proc/PID/status, which the kernel updates in batches.
resident_kib() {
    awk '$1 == "Rss:" {print $2}' "/proc/$pid/smaps_rollup"
}

# Appends one line of raw data.
record() {
    printf '{"case": "%s", "round": %d, "subject": "%s", "engine": "%s", %s}\n' \
        "$case" "$round" "$subject" "$engine" "$*" >>"$out/rounds.jsonl"
}

clean_up() {
    end_all
    rm -rf "$work"
}

free_port() {
    python3 -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

main "$@"
