#!/usr/bin/env bash
# Runs the fuzz targets for a given time each, from their kept corpus. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=60
sanitizer=none
minimise=no
targets=()
# Longest input, as the replay of the corpus has it; and memory of one process.
readonly BYTES_MAX=4096 MEMORY_MIB_MAX=2048
# Time for one input: the slowest takes some hundredths of it.
readonly INPUT_SECONDS_MAX=10

usage() {
    cat <<'END'
Usage: scripts/fuzz.sh [OPTIONS] [TARGET...]

Fuzzes each target, one after the other, and says how many inputs were executed and what was found.
Begins with the corpus in fuzz/corpus/TARGET, which stays as it is unless --minimise is given.
Needs a C++ compiler, and installs cargo-fuzz where it is missing.

  --seconds S      time for each target (default 60)
  --sanitizer NAME none (default), or address, which is slower and sees what unsafe code does
  --minimise       behind each run, keep in fuzz/corpus what reaches as much in the fewest bytes
  --list           say which targets there are
  --help           this text

An input that breaks a promise is kept in fuzz/artifacts/TARGET, and the exit code is 1;
    cargo fuzz run --sanitizer none TARGET fuzz/artifacts/TARGET/FILE
runs it again. Wrong usage, or what is missing, is exit code 2.
END
}

fail() {
    echo "fuzz.sh: $*" >&2
    exit 2
}

list() {
    sed -n '/^\[\[bin\]\]/,/^name/s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml
}

# A session compares far more of its own numbers than bytes of the input. Without a note of each it
# is executed almost twice as often, and more is reached in the same time.
fuzz() { # COMMAND TARGET [ARGUMENT...]
    local command=$1 target=$2 options=(--sanitizer "$sanitizer")
    shift 2
    if [[ "$target" == session ]]; then
        options+=(--no-trace-compares --target-dir "${CARGO_TARGET_DIR:-fuzz/target}/no-compares")
    fi
    cargo fuzz "$command" "${options[@]}" "$target" "$@"
}

# Keeps the smallest inputs that reach, together, what the old and the new ones reach, beside those
# that somebody has named: what libFuzzer writes is named by its hash.
minimise() { # TARGET
    local corpus=fuzz/corpus/$1 found=$work/$1 least=$work/$1.least input hash
    mkdir -p "$corpus" "$least"
    fuzz run "$1" "$least" "$corpus" "$found" -- -set_cover_merge=1 -use_counters=0 \
        -max_len="$BYTES_MAX" >"$work/merge.log" 2>&1 ||
        fail "no merge: $(tail -n 3 "$work/merge.log")"
    for input in "$corpus"/*; do
        if [[ "${input##*/}" =~ ^[0-9a-f]{40}$ ]]; then rm -f "$input"; fi
    done
    local -A named=()
    while read -r hash _; do named[$hash]=1; done < <(sha1sum "$corpus"/* 2>/dev/null)
    for input in "$least"/*; do
        if [[ -z "${named[${input##*/}]:-}" ]]; then cp "$input" "$corpus/"; fi
    done
}

while (($#)); do
    case "$1" in
        --seconds)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "--seconds needs a whole number above 0"
            seconds=$2
            shift
            ;;
        --sanitizer)
            [[ "${2:-}" == address || "${2:-}" == none ]] || fail "--sanitizer is address or none"
            sanitizer=$2
            shift
            ;;
        --minimise) minimise=yes ;;
        --list) list; exit ;;
        --help | -h) usage; exit ;;
        -*) fail "unknown option $1; see --help" ;;
        *)
            list | grep -qx -- "$1" || fail "there is no target $1; see --list"
            targets+=("$1")
            ;;
    esac
    shift
done
if ((${#targets[@]} == 0)); then mapfile -t targets < <(list); fi

cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz ||
    fail "cargo-fuzz cannot be installed"

# The compiler that releases are built with, not a nightly one: that of 2026-05-19 got a search over
# nested enums wrong and so made findings of its own. The flags of a sanitizer have to be allowed.
if [[ "$sanitizer" != none ]]; then export RUSTC_BOOTSTRAP=1; fi
for target in "${targets[@]}"; do fuzz build "$target" || fail "$target does not build"; done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
found=0
total=0
summary=()
for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target
    log=$work/$target.log
    # What is new goes to the first folder; the kept corpus is only read.
    mkdir -p "$work/$target"
    outcome=ok
    fuzz run "$target" "$work/$target" "$corpus" -- \
        -dict=fuzz/http.dict -max_total_time="$seconds" -max_len="$BYTES_MAX" \
        -timeout="$INPUT_SECONDS_MAX" -rss_limit_mb="$MEMORY_MIB_MAX" -print_final_stats=1 \
        >"$log" 2>&1 || outcome=FINDING
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [[ "$outcome" == ok && -z "$executions" ]]; then outcome=FINDING; fi
    if [[ "$outcome" == FINDING ]]; then
        found=$((found + 1))
        grep -E 'panicked at|ERROR: |Test unit written' -A 3 "$log" || tail -n 20 "$log"
    elif [[ "$minimise" == yes ]]; then
        minimise "$target"
    fi
    total=$((total + ${executions:-0}))
    summary+=("$(printf '%-16s %12s executions  %s' "$target" "${executions:-0}" "$outcome")")
    echo "${summary[-1]}"
done
echo "== $((${#targets[@]})) targets, $seconds s each, sanitizer $sanitizer"
printf '%s\n' "${summary[@]}"
printf '%-16s %12s executions  %d findings\n' all "$total" "$found"
((found == 0))
