# How compare.sh starts each program that it measures, with its configuration from bench/peers.
# Sourced, not run. Each start sets `address`, which the cases drive. Who sources it sets `peers`,
# the folder of those that install-peers.sh builds.
# shellcheck shell=bash disable=SC2154

# Whether the program is there; what is ours is built by compare.sh.
is_installed() { # SUBJECT
    case "$1" in
        nginx | haproxy | caddy) command -v "$1" >/dev/null ;;
        pingora | go) [[ -x "$peers/$1" ]] ;;
        *) true ;;
    esac
}

# Whether a subject has part in a case.
takes_part() { # CASE SUBJECT
    case "$1 $2" in
        # These know HTTP alone.
        "bulk pingora" | "bulk go" | "bulk caddy") false ;;
        # The floor relays small messages only.
        "small"*" floor" | "rate floor" | "idle floor") true ;;
        *" floor") false ;;
        # Measured once it is known who refuses, and fastlb alone says so.
        "dead fastlb-"*) true ;;
        "dead "*) false ;;
        *) true ;;
    esac
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
    start_fastlb io-uring io-uring "$bin/fastlb"
}

start_fastlb_epoll() {
    start_fastlb epoll epoll "$bin/fastlb"
}

start_fastlb_before() {
    start_fastlb before io-uring "$before"
}

start_fastlb() { # NAME ENGINE PROGRAM
    address="127.0.0.1:$(free_port)"
    start "fastlb-$1" "$PROXY_CORE" "$3" --listen "$address" \
        --backends "$(joined , "${backends[@]}")" --cores 1 --io "$2" --mode "$mode" --admin off \
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
    local settings=()
    if contains "${case:-}" "${SPLICED_CASES[@]}"; then settings+=(FASTLB_COMPARE_SPLICE=1); fi
    start haproxy "$PROXY_CORE" \
        env ${settings[@]+"${settings[@]}"} haproxy -db -f "$work/haproxy.cfg"
}

start_pingora() {
    start_built pingora
}

start_go() {
    start_built go
}

# A peer that install-peers.sh has built.
start_built() {
    address="127.0.0.1:$(free_port)"
    start "$1" "$PROXY_CORE" "$peers/$1" --listen "$address" \
        --backends "$(joined , "${backends[@]}")"
}

# It would keep files in the user's home otherwise.
start_caddy() {
    address="127.0.0.1:$(free_port)"
    fill_in Caddyfile Caddyfile.in "${backends[*]}"
    start caddy "$PROXY_CORE" env GOMAXPROCS=1 GOGC=400 HOME="$work" XDG_DATA_HOME="$work" \
        XDG_CONFIG_HOME="$work" caddy run --adapter caddyfile --config "$work/Caddyfile"
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
