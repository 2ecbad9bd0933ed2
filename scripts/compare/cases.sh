# What compare.sh does to each program. Sourced, not run. A case finds the program in `subject`, its
# process in `pid`, its address in `address`, and the round in `round`; what it found goes through
# `record`.
# shellcheck shell=bash disable=SC2034,SC2154

readonly CASES=(small small16 small512 body1k body16k body64k large large64 upload close
    pipeline bulk duplex pingpong rate beside idle dead killed direct)
# Those that the origin by itself is measured in, as `direct`.
readonly DIRECT_CASES=(small small16 small512 body1k body16k body64k large large64 upload close
    pipeline)
# Those in which the proxies know only TCP.
readonly TCP_CASES=(bulk duplex pingpong)
# Those in which HAProxy is told to splice whatever it can.
readonly SPLICED_CASES=(body64k large large64 upload bulk duplex beside)
# Those at a fixed rate, whose latencies are the finding, and the seconds that they take at least.
readonly PACED_CASES=(rate beside)
readonly PACED_SECONDS_MIN=5
readonly CLIENTS=64
# Long bodies; one of the largest fills many of the proxy's buffers.
readonly BULK_CLIENTS=16
readonly BULK_BYTES=$((1024 * 1024))
readonly PIPELINE_CLIENTS=16
readonly PIPELINE_DEPTH=16
readonly IDLE_CONNECTIONS=8000
# The case rate: this share of what the slowest reached in a run before the rounds.
readonly RATE_PERCENT=50
# The case beside: small requests at a rate that is little for anybody, beside flows of bulk.
readonly BESIDE_RATE=2000
# Enough for whoever answers within an eighth of a second.
readonly BESIDE_CLIENTS=256
readonly BESIDE_FLOWS=8
readonly BESIDE_BYTES=$((16 * 1024 * 1024))
# Fleets of the case dead: backends that serve, backends that refuse.
readonly FLEETS=("3 0" "100 0" "100 900")
# The case killed: requests that take so long that some always wait for the one that is killed, and
# the time before its death and after its return.
readonly KILLED_RATE=3000
readonly KILLED_DELAY_MS=5
readonly KILLED_CLIENTS=256
readonly KILLED_SECONDS_BEFORE=1
readonly KILLED_SECONDS_AFTER=3

case_small() {
    steady / --connections "$CLIENTS"
}

case_small16() {
    steady / --connections 16
}

case_small512() {
    steady / --connections 512
}

case_body1k() {
    steady /bytes/1024 --connections "$CLIENTS"
}

case_body16k() {
    steady /bytes/16384 --connections "$CLIENTS"
}

case_body64k() {
    steady /bytes/65536 --connections "$CLIENTS"
}

case_large() {
    steady "/bytes/$BULK_BYTES" --connections "$BULK_CLIENTS"
}

# More than a worker of fastlb has pipes (PIPES_MAX in src/limits.rs).
case_large64() {
    steady "/bytes/$BULK_BYTES" --connections "$CLIENTS"
}

# The origin takes the body and answers with 100 bytes.
case_upload() {
    steady / --connections "$BULK_CLIENTS" --body-bytes "$BULK_BYTES"
}

case_close() {
    steady / --connections "$CLIENTS" --no-keep-alive
}

case_pipeline() {
    steady / --connections "$PIPELINE_CLIENTS" --pipeline "$PIPELINE_DEPTH"
}

case_bulk() {
    case_large
}

# Both ways at once: the origin echoes while it still receives.
case_duplex() {
    steady /echo --connections "$BULK_CLIENTS" --body-bytes "$BULK_BYTES"
}

# A request and its response are one turn; the proxy sees two small messages.
case_pingpong() {
    case_small
}

# The origin itself on the proxy's core, in the tables of the other chosen cases that it can serve.
around_direct() {
    local case chosen=()
    for case in "${DIRECT_CASES[@]}"; do
        if has_case "$case"; then chosen+=("$case"); fi
    done
    for case in "${chosen[@]:-small}"; do
        measure
    done
}

around_rate() {
    with_one_origin measure
}

# Latency at a fixed rate, from the intended moments. Driver and origin go before everybody else
# on their core, where that is allowed: what is seen is the proxy's. Neither goes before the other:
# a driver that does interrupts the origin for every event and takes half of the core for it (p50
# of 19 000 a second: 3 ms, and 0.14 ms without).
case_rate() {
    in_real_time "$ORIGIN_PRIORITY" steady / --connections "$CLIENTS" --rate "$rate"
}

# Sets `rate` from what the slowest of the subjects reaches.
find_rate() {
    local case=rate round=0 subject slowest=
    for subject in "${subjects[@]}"; do
        if ! in_turn; then continue; fi
        note "looking for the rate: $subject"
        case=pre_run with_one_origin measure
        if ((reached == 0)); then
            note "$subject answers nothing; the rate is that of the others"
            continue
        fi
        if [[ -z "$slowest" ]] || ((reached < slowest)); then slowest="$reached"; fi
    done
    rate="$((${slowest:-0} * RATE_PERCENT / 100))"
    if ((rate == 0)); then fail "no rate was found for the case rate"; fi
}

case_pre_run() {
    case_small
    reached="$(python3 -c 'import json, sys
print(int(json.load(open(sys.argv[1]))["requests_per_s"]))' "$work/load.json")"
}

around_beside() {
    with_one_origin measure
}

# The latency of small requests alone and beside bulk. Their driver goes before the origin, which
# goes before the bulk's driver: it must not wait while the origin is busy with bulk.
case_beside() {
    warm_up
    in_real_time "$((ORIGIN_PRIORITY + 10))" pace_alone_and_beside
}

pace_alone_and_beside() {
    local alone beside flows paced
    paced="$(seconds_of beside)"
    alone="$(pace)"
    begin_driving "$((paced + 3))" "/bytes/$BESIDE_BYTES" --connections "$BESIDE_FLOWS"
    sleep 1
    beside="$(pace)"
    end_driving
    flows="$(one_line "$work/driver.out")"
    record "\"rss_kib\": $(resident_kib), \"alone\": $alone, \"beside\": $beside, \"load\": $flows"
}

# Sends small requests at a fixed rate and prints what was found, on one line.
pace() {
    drive 0 "$paced" / --connections "$BESIDE_CLIENTS" --rate "$BESIDE_RATE" >"$work/pace.json"
    one_line "$work/pace.json"
}

# Runs a command with one origin: several would wait for each other on their core.
with_one_origin() {
    local -r served=("${backends[@]}")
    backends=("${backends[0]}")
    "$@"
    backends=("${served[@]}")
}

# Resident memory at the start, after a load, and while many answered connections are held.
case_idle() {
    local started before after held input="$work/hold.in"
    started="$(resident_kib)"
    warm_up
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
    record "\"held\": $held, \"started_kib\": $started, \"before_kib\": $before," \
        "\"after_kib\": $after"
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

# The same balancer before each of the fleets, once it has found out who refuses.
around_dead() {
    local -r served=("${backends[@]}")
    local fleet up refusing port
    start wide "$DRIVER_CORE" "$bin/origin" --name wide --listen 0.0.0.0:0
    port="$(announced_address wide)"
    port="${port##*:}"
    for fleet in "${FLEETS[@]}"; do
        read -r up refusing <<<"$fleet"
        # Port 1 is nobody's.
        mapfile -t backends < <(addresses 1 "$up" "$port"; addresses 101 "$refusing" 1)
        measure
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
    more="\"fleet\": \"$up up, $refusing refusing\"," case_small
}

# HAProxy repeats a request that it has sent only where that is configured, and the other cases
# need not pay for it: its configuration asks for this variable.
around_killed() {
    export FASTLB_COMPARE_RETRIES=1
    measure
    unset FASTLB_COMPARE_RETRIES
    stop restarted
    start origin2 "$DRIVER_CORE" "$bin/origin" --name origin2 --listen "${backends[1]}"
    announced_address origin2 >/dev/null
}

# What clients see of a backend that is killed and comes back. They only GET, so that every
# request whose response has not begun may go to another backend.
case_killed() {
    local victim load total="$((KILLED_SECONDS_BEFORE + seconds + KILLED_SECONDS_AFTER))"
    warm_up
    begin_driving "$total" "/delay/$KILLED_DELAY_MS" --connections "$KILLED_CLIENTS" \
        --rate "$KILLED_RATE"
    sleep "$KILLED_SECONDS_BEFORE"
    victim="$(pid_of origin2)"
    # The shell would report its death.
    disown "$victim"
    kill -KILL "$victim"
    stop origin2
    sleep "$seconds"
    start restarted "$DRIVER_CORE" "$bin/origin" --name restarted --listen "${backends[1]}"
    announced_address restarted >/dev/null
    end_driving
    load="$(one_line "$work/driver.out")"
    record "\"down_s\": $seconds, \"rss_kib\": $(resident_kib), \"load\": $load"
}
