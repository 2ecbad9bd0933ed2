# What compare.sh does to each program, and what it writes down of it.
# Sourced, not run. A case finds the program in `subject`, its process in `pid`, its address in
# `address`, and the round in `round`.
# shellcheck shell=bash

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
        --duration "${1}s" --latency --script "$ROOT/scripts/compare/wrk.lua" \
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
