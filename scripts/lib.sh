# What the measuring scripts share: programs that are started, watched and ended, and messages.
# Sourced, not run. Who sources it sets ROOT, `work` (the directory of the programs' outputs) and
# `bin` (that of our own programs); with --congestion also `congestion`.
# shellcheck shell=bash disable=SC2154

# Numbers with a point, whatever the user's language.
export LC_ALL=C

# The running programs, each as name:pid.
pids=()
# The addresses of the origins.
backends=()
# The descriptor of the folder that is claimed.
folder_lock=
# What is told of a run: a name and its value, and so on.
facts=()

# Starts origins origin1 to origin$1 on the cores $2, and notes where they listen.
start_origins() {
    local index
    for ((index = 1; index <= $1; index++)); do
        start "origin$index" "$2" "$bin/origin" --name "origin$index"
        backends+=("$(announced_address "origin$index")")
    done
}

# Starts a program on the core or cores $2, anywhere if that is empty; its output goes to a file
# named after it, its input comes from $input. The output of its last run goes first: who waits
# for a line must not find an old one, nor no file.
start() {
    local name="$1" pinned=()
    if [[ -n "$2" ]]; then pinned=(taskset -c "$2"); fi
    shift 2
    rm -f "$work/$name.out" "$work/$name.err"
    : >"$work/$name.out"
    : >"$work/$name.err"
    ${pinned[@]+"${pinned[@]}"} "$@" <"${input:-/dev/null}" \
        >>"$work/$name.out" 2>>"$work/$name.err" 9>&- &
    pids+=("$name:$!")
}

pid_of() {
    local entry
    for entry in "${pids[@]}"; do
        if [[ "$entry" == "$1":* ]]; then echo "${entry##*:}"; return; fi
    done
}

# Waits for the line that origin and floor print once they listen.
announced_address() {
    for _ in {1..100}; do
        if grep -q '^listening on ' "$work/$1.out"; then
            sed -n 's/^listening on //p' "$work/$1.out"
            return
        fi
        sleep 0.05
    done
    fail "$1 does not listen: $(cat "$work/$1.err")"
}

# Waits until the program $1 listens on $address.
wait_until_it_answers() {
    local started
    started="$(pid_of "$1")"
    for _ in {1..100}; do
        if ! kill -0 "$started" 2>/dev/null; then break; fi
        if (exec 3<>"/dev/tcp/${address%:*}/${address##*:}") 2>/dev/null; then return; fi
        sleep 0.05
    done
    fail "$1 does not listen on $address: $(tail -n 5 "$work/$1.err")"
}

# The crate that bench/peers/pingora is built on; the program is as new as its Cargo.lock, because
# compare.sh builds it again.
pingora_version() {
    if ! is_installed pingora; then echo absent; return; fi
    awk '/^name = "pingora"$/ {getline; gsub(/"/, "", $3); print "pingora " $3}' \
        "$ROOT/bench/peers/pingora/Cargo.lock"
}

# A port that nobody has at the moment. Somebody may take it before the program does; then that does
# not listen, and the run says so.
free_port() {
    python3 -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

# What the process waits in, seen in its descriptors rather than believed from its flags.
engine_of() {
    local descriptors
    descriptors="$(find "/proc/$1/fd" -type l -printf '%l\n' 2>/dev/null)"
    case "$descriptors" in
        *'[io_uring]'*) echo io_uring ;;
        *'[eventpoll]'*) echo epoll ;;
        *) echo unknown ;;
    esac
}

# Ends the program that was started under this name and waits for it.
stop() {
    local pid entry left=()
    pid="$(pid_of "$1")"
    end_process "$pid"
    for entry in "${pids[@]}"; do
        if [[ "$entry" != "$1:$pid" ]]; then left+=("$entry"); fi
    done
    pids=(${left[@]+"${left[@]}"})
}

# Has the function $1 clean up however the script ends: at its end, by Ctrl-C, by a kill, or because
# its terminal was closed.
clean_up_by() {
    # shellcheck disable=SC2064 # The name is meant as it is now.
    trap "$1" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
}

# Ends all programs. It is the first step of a clean-up, which a second Ctrl-C of the impatient must
# not break off.
end_all() {
    trap '' INT TERM HUP
    local entry
    # All are told before any is waited for: where a trap has interrupted a wait, bash may wait for
    # whichever child ends next, and that must not be one that is told only afterwards.
    for entry in ${pids[@]+"${pids[@]}"}; do
        kill -TERM "${entry##*:}" 2>/dev/null || true
    done
    for entry in ${pids[@]+"${pids[@]}"}; do
        end_process "${entry##*:}"
    done
    pids=()
}

# TERM, then KILL for what is still there after five seconds, with its children.
end_process() {
    kill -TERM "$1" 2>/dev/null || true
    for _ in {1..100}; do
        if ! kill -0 "$1" 2>/dev/null; then break; fi
        sleep 0.05
    done
    if kill -0 "$1" 2>/dev/null; then
        # shellcheck disable=SC2046 # One word per child is meant.
        kill -KILL "$1" $(cat "/proc/$1/task/$1/children" 2>/dev/null) 2>/dev/null || true
    fi
    wait "$1" 2>/dev/null || true
}

commit_of_tree() {
    git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown
}

cpu_model() {
    sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1
}

# The machine and the tree, as all scripts tell them.
collect_machine() {
    facts=(
        date "$(date --utc +%Y-%m-%d)"
        began "$(date --utc --iso-8601=seconds)"
        commit "$(commit_of_tree)"
        cpu "$(cpu_model)"
        cores "$(nproc)"
        kernel "$(uname -r)"
        congestion_control "$(cat /proc/sys/net/ipv4/tcp_congestion_control)"
    )
}

facts_as_json() {
    local index value comma=''
    echo '{'
    for ((index = 0; index < ${#facts[@]}; index += 2)); do
        value="${facts[index + 1]//\\/\\\\}"
        value="${value//\"/\\\"}"
        value="${value//$'\t'/\\t}"
        value="${value//$'\n'/\\n}"
        printf '%s  "%s": "%s"' "$comma" "${facts[index]}" "$value"
        comma=$',\n'
    done
    printf '\n}\n'
}

facts_as_text() {
    local index
    for ((index = 0; index < ${#facts[@]}; index += 2)); do
        printf '%-20s%s\n' "${facts[index]//_/ }" "${facts[index + 1]}"
    done
    echo
}

# The first line that a program prints about itself, or "absent".
version() {
    command -v "$1" >/dev/null || { echo absent; return; }
    { "$@" 2>&1 || true; } | sed -n 1p
}

# Fails unless this user may have a network namespace.
check_namespace() {
    need unshare ip
    unshare --net true 2>/dev/null \
        || fail "--congestion needs root, for a network namespace of its own"
}

# Whether the script runs in the namespace of --congestion already.
is_in_namespace() {
    [[ -n "$congestion" && "${FASTLB_NAMESPACE:-}" == "$congestion" ]]
}

# Runs the script again in a network namespace of its own, which ends with it. There is no way out
# of it: what is built has to be built before.
enter_namespace() {
    local -r control=/proc/sys/net/ipv4/tcp_congestion_control
    if ! is_in_namespace; then
        if [[ -n "$folder_lock" ]]; then exec {folder_lock}<&-; fi
        FASTLB_NAMESPACE="$congestion" exec unshare --net "$0" "$@"
    fi
    ip link set lo up
    echo "$congestion" 2>/dev/null >"$control" \
        || fail "$congestion cannot be had; allowed are:" \
            "$(cat "${control/_congestion/_allowed_congestion}")"
}

# Fails unless all these programs are there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is needed and not installed"
    done
}

# Makes the folder $1 where it is not there, and fails unless it can be written to. Sets `out` to
# its full name. Fails if another run has it: the lock ends with the processes of a run.
claim_folder() {
    if ! mkdir -p "$1" || [[ ! -w "$1" ]]; then
        fail "cannot write to $1; name another with --out"
    fi
    out="$(cd "$1" && pwd)"
    exec {folder_lock}<"$out"
    flock --nonblock "$folder_lock" || fail "another run writes to $out; name another with --out"
}

# Whether the word $1 is among the others.
contains() {
    local item
    for item in "${@:2}"; do
        if [[ "$item" == "$1" ]]; then return; fi
    done
    return 1
}

# Prints the value of a flag that takes a number.
positive() {
    [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a whole number above 0"
    echo "$2"
}

# Puts the comma separated list $2 into the empty array $1; the rest is what may be in it.
read_list() {
    local -n into="$1"
    local item
    for item in ${2//,/ }; do
        contains "$item" "${@:3}" || fail "$item is none of: ${*:3}"
        # Named twice it would be measured twice in a round.
        if ! contains "$item" "${into[@]}"; then into+=("$item"); fi
    done
    ((${#into[@]})) || fail "an empty list; it may hold: ${*:3}"
}

# Joins the words after $1 with it.
joined() {
    local IFS="$1"
    shift
    echo "$*"
}

note() {
    local script="${0##*/}"
    echo "${script%.sh}: $*" >&2
}

fail() {
    note "$*"
    exit 1
}
