#!/usr/bin/env bash
# Installs what compare.sh measures fastlb with: the programs from the system's packages, and the
# peers that are built from bench/peers.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# As Debian and Ubuntu name them. cmake and gcc build what Pingora brings along in C.
readonly PACKAGES=(wrk nginx libnginx-mod-stream haproxy caddy golang-go python3 util-linux
    iproute2 cmake gcc libc6-dev)
# Those of them that start a service of their own once they are installed.
readonly SERVICES=(nginx haproxy caddy)
readonly STEPS=(packages pingora go)

steps=("${STEPS[@]}")
peers="${CARGO_TARGET_DIR:-$ROOT/target}/peers"
# What could not be had.
lacking=()

usage() {
    cat <<END
Usage: scripts/install-peers.sh [OPTIONS]

Installs what scripts/compare.sh uses, as far as it is not there yet, and says what it did:

  packages  ${PACKAGES[*]}
            with apt, as root or with sudo; elsewhere it says what to install
  pingora   the balancer in bench/peers/pingora, built with cargo
  go        the balancer in bench/peers/go, built with the Go of the system

What is built goes to target/peers. Services that come with the packages are switched off again:
compare.sh starts the programs by itself.

  --only LIST  of ${STEPS[*]} (default all)
  --help       this text

Exit codes: 0 all is there, 1 something is not.
END
}

main() {
    parse_flags "$@"
    mkdir -p "$peers/build"
    peers="$(cd "$peers" && pwd)"
    local step
    for step in "${steps[@]}"; do
        "install_$step"
    done
    if ((${#lacking[@]})); then
        fail "not installed: $(joined ' ' "${lacking[@]}");" \
            "compare.sh goes without the peers among them"
    fi
}

parse_flags() {
    while (($#)); do
        case "$1" in
            --help | -h) usage; exit 0 ;;
            --only) steps=(); read_list steps "${2:-}" "${STEPS[@]}"; shift 2 ;;
            *) fail "unknown flag $1; --help lists them" ;;
        esac
    done
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        say_what_to_install
        return
    fi
    local package absent=()
    for package in "${PACKAGES[@]}"; do
        if ! is_package_installed "$package"; then absent+=("$package"); fi
    done
    if ((${#absent[@]} == 0)); then
        note "packages: all were installed already"
        return
    fi
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        note "packages: need root or sudo: ${absent[*]}"
        lacking+=("${absent[@]}")
        return
    fi
    as_root apt-get update --quiet=2 || note "packages: the lists of apt could not be renewed"
    for package in "${absent[@]}"; do
        install_package "$package"
    done
}

# Each by itself: a system that lacks one still gets the others.
install_package() {
    if as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends "$1" >/dev/null; then
        note "packages: installed $1"
    else
        note "packages: apt could not install $1"
        lacking+=("$1")
    fi
    if [[ " ${SERVICES[*]} " == *" $1 "* && -d /run/systemd/system ]]; then
        as_root systemctl disable --quiet --now "$1" || note "packages: the service $1 still runs"
    fi
}

is_package_installed() {
    [[ "$(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

# Where there is no apt: the programs are looked for by their names.
say_what_to_install() {
    local program absent=()
    for program in wrk nginx haproxy caddy go python3 taskset unshare chrt ip cmake cc; do
        if ! command -v "$program" >/dev/null; then absent+=("$program"); fi
    done
    if ((${#absent[@]} == 0)); then
        note "packages: all programs are there; nginx needs its stream module too"
        return
    fi
    note "packages: this system has no apt; install by its own means: ${absent[*]}" \
        "(taskset, unshare and chrt are in util-linux, ip in iproute2;" \
        "nginx needs its stream module)"
    lacking+=("${absent[@]}")
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

install_pingora() {
    if ! command -v cargo >/dev/null; then
        note "pingora: needs cargo, which is not installed (https://rustup.rs)"
        lacking+=(pingora)
        return
    fi
    if cargo build --release --locked --quiet --target-dir "$peers/build" \
        --manifest-path "$ROOT/bench/peers/pingora/Cargo.toml"; then
        put_in_place "$peers/build/release/pingora-peer" pingora
    else
        note "pingora: cannot be built; cargo says why above"
        lacking+=(pingora)
    fi
}

install_go() {
    if ! command -v go >/dev/null; then
        note "go: needs Go, which is not installed"
        lacking+=(go)
        return
    fi
    if (cd "$ROOT/bench/peers/go" \
        && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$peers/build/go-peer" .); then
        put_in_place "$peers/build/go-peer" go
    else
        note "go: cannot be built; Go says why above"
        lacking+=(go)
    fi
}

# Puts the file $1 into the folder of peers under the name $2.
put_in_place() {
    if cmp --silent "$1" "$peers/$2"; then
        note "$2: $peers/$2 is up to date"
    else
        install "$1" "$peers/$2"
        note "$2: built $peers/$2"
    fi
}

main "$@"
