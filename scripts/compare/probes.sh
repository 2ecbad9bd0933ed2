# How compare.sh drives a program and what it reads of it meanwhile. Sourced, not run.
# shellcheck shell=bash

# What a driver may take beyond its time: to connect, and to wait at the end for what is under way.
readonly DRIVE_SECONDS_MORE=15
# Real-time priority of the origin, where this user may give one, and what runs before a driver to
# give it its own.
readonly ORIGIN_PRIORITY=10
may_be_first=
priority=()
# Further fields of the record, each with a comma behind it.
more=

find_priority() {
    may_be_first=no
    if chrt --fifo "$ORIGIN_PRIORITY" true 2>/dev/null; then may_be_first=yes; fi
}

# Runs a command for which the first origin, and drivers that it starts in the foreground with the
# priority $1, go before everybody else on their core. Does without where it is not allowed.
in_real_time() { # PRIORITY COMMAND...
    if [[ "$may_be_first" == no ]]; then "${@:2}"; return; fi
    chrt --fifo --all-tasks --pid "$ORIGIN_PRIORITY" "$(pid_of origin1)"
    priority=(chrt --fifo "$1")
    "${@:2}"
    priority=()
    chrt --other --all-tasks --pid 0 "$(pid_of origin1)"
}

# Warms the subject up with the load $@ and then measures it: what the clients saw, and what the
# process and its core used meanwhile.
steady() { # PATH FLAGS_OF_LOADGEN...
    local ticks busy total load
    drive "$WARM_UP_SECONDS" "$@" >/dev/null
    ticks="$(process_ticks)"
    read -r busy total <<<"$(core_ticks)"
    drive "$seconds" "$@" >"$work/load.json"
    ticks="$(($(process_ticks) - ticks))"
    read -r busy total <<<"$(core_ticks | awk -v b="$busy" -v t="$total" '{print $1-b, $2-t}')"
    load="$(one_line "$work/load.json")"
    record "$more \"ticks\": $ticks, \"tick_hz\": $(getconf CLK_TCK), \"core_busy_ticks\": $busy," \
        "\"core_total_ticks\": $total, \"rss_kib\": $(resident_kib), \"load\": $load"
}

warm_up() {
    drive "$WARM_UP_SECONDS" / --connections "$CLIENTS" >/dev/null
}

# Drives the subject for so long and prints what was found as JSON. Exit code 1 says that nothing
# was answered as expected, which is a finding too.
drive() { # SECONDS PATH FLAGS_OF_LOADGEN...
    local code=0
    ${priority[@]+"${priority[@]}"} timeout --foreground "$(($1 + DRIVE_SECONDS_MORE))" \
        taskset -c "$DRIVER_CORE" "$bin/loadgen" --json --warm-up 0s --duration "${1}s" "${@:3}" \
        "http://$address$2" 2>"$work/loadgen.err" || code=$?
    if ((code > 1)); then
        fail "loadgen against $subject in $case: code $code: $(tail -n 1 "$work/loadgen.err")"
    fi
}

# The same while other things happen: what was found is in driver.out after `end_driving`.
begin_driving() { # SECONDS PATH FLAGS_OF_LOADGEN...
    start driver "$DRIVER_CORE" timeout --foreground "$(($1 + DRIVE_SECONDS_MORE))" \
        "$bin/loadgen" --json --warm-up 0s --duration "${1}s" "${@:3}" "http://$address$2"
}

end_driving() {
    wait "$(pid_of driver)" || true
    stop driver
}

# Prints a file of JSON on one line.
one_line() {
    [[ -s "$1" ]] || fail "the driver found nothing of $subject in $case"
    tr -s '\n ' ' ' <"$1"
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
        "$case" "$round" "$subject" "$(engine_of "$pid")" "$*" >>"$out/rounds.jsonl"
}
