#!/usr/bin/env bash
# Every check of the project, from a clean clone with nothing but the Rust toolchain.
# Goes on after a failure, so that one run shows all of them. The last line is the sum of the
# tests; the exit code is 0 only if every step passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

test_log=$(mktemp)
trap 'rm -f "$test_log"' EXIT
failed_steps=()

step() { # NAME COMMAND...
    local name=$1 began=$SECONDS outcome=ok
    shift
    echo "== $name: $*"
    if ! "$@"; then
        outcome=FAILED
        failed_steps+=("$name")
    fi
    echo "== $name: $outcome, $((SECONDS - began)) s"
}

# Runs a step only where its cargo command is there; NAME is the component of rustup.
component_step() { # COMPONENT STEP COMMAND...
    local component=$1 name=$2
    if ! cargo "$name" --version >/dev/null 2>&1; then
        rustup component add "$component" >/dev/null 2>&1
    fi
    if cargo "$name" --version >/dev/null 2>&1; then
        step "${@:2}"
    else
        echo "== $name: skipped, $component is not installed (rustup component add $component)"
    fi
}

run_tests() {
    cargo test --workspace --no-fail-fast 2>&1 | tee "$test_log"
}

sum_of_tests() {
    awk '/^test result:/ { passed += $4; failed += $6 }
         END { printf "%d passed, %d failed\n", passed, failed }' "$test_log"
}

component_step rustfmt fmt cargo fmt --all --check
component_step clippy clippy cargo clippy --workspace --all-targets -- -D warnings
step doc env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace
step bench cargo bench --workspace --no-run
if cargo deny --version >/dev/null 2>&1; then
    step deny cargo deny check bans licenses sources
else
    echo "== deny: skipped, cargo-deny is not installed (cargo install cargo-deny)"
fi
if command -v python3 >/dev/null; then
    step report python3 scripts/compare/tests.py
else
    echo "== report: skipped, python3 is not installed"
fi
step test run_tests

if ((${#failed_steps[@]})); then
    echo "failed: ${failed_steps[*]}"
fi
sum_of_tests
((${#failed_steps[@]} == 0))
