# How compare.sh drives a program and what it reads of it meanwhile. Sourced, not run.
# shellcheck shell=bash disable=SC2154

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

# Warms the subject up with the load $@ and measures it from then on, in one run of the driver,
# which tells what the clients saw and what the process and the cores used meanwhile.
steady() { # PATH FLAGS_OF_LOADGEN...
    drive "$WARM_UP_SECONDS" "$(seconds_of "$case")" "$@" >"$work/load.json"
    record "$more \"rss_kib\": $(resident_kib), \"load\": $(one_line "$work/load.json")"
}

# How long a case is measured: a percentile of a fixed rate needs its number of requests.
seconds_of() { # CASE
    if [[ " ${PACED_CASES[*]} " == *" $1 "* ]] && ((seconds < PACED_SECONDS_MIN)); then
        echo "$PACED_SECONDS_MIN"
    else
        echo "$seconds"
    fi
}

warm_up() {
    drive 0 "$WARM_UP_SECONDS" / --connections "$CLIENTS" >/dev/null
}

# Drives the subject for so long, after a warm-up, and prints what was found as JSON. Exit code 1
# says that nothing was answered as expected, which is a finding too.
drive() { # SECONDS_OF_WARM_UP SECONDS PATH FLAGS_OF_LOADGEN...
    local code=0
    ${priority[@]+"${priority[@]}"} timeout --foreground "$(($1 + $2 + DRIVE_SECONDS_MORE))" \
        taskset -c "$DRIVER_CORE" "$bin/loadgen" --json --watch "$pid" --warm-up "${1}s" \
        --duration "${2}s" "${@:4}" "http://$address$3" 2>"$work/loadgen.err" || code=$?
    if ((code > 1)); then
        fail "loadgen against $subject in $case: code $code: $(tail -n 1 "$work/loadgen.err")"
    fi
}

# The same while other things happen: what was found is in driver.out after `end_driving`.
begin_driving() { # SECONDS PATH FLAGS_OF_LOADGEN...
    start driver "$DRIVER_CORE" timeout --foreground "$(($1 + DRIVE_SECONDS_MORE))" \
        "$bin/loadgen" --json --watch "$pid" --warm-up 0s --duration "${1}s" "${@:3}" \
        "http://$address$2"
}

end_driving() {
    wait "$(pid_of driver)" || true
    stop driver
}

# Prints a file of JSON on one line.
one_line() {
    [[ -s "$1" ]] || fail "the driver found nothing of $subject in $case: $(driver_says)"
    tr -s '\n ' ' ' <"$1"
}

driver_says() {
    cat "$work/loadgen.err" "$work/driver.err" 2>/dev/null | tail -n 1
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
