#!/usr/bin/env python3
"""Turns the raw rounds of compare.sh into tables: medians over rounds, ratios per round.

    scripts/compare/report.py DIR

reads DIR/rounds.jsonl and DIR/machine.json and prints Markdown.
"""

import json
import sys
from pathlib import Path
from statistics import median

SUBJECTS = ["direct", "floor", "fastlb-io-uring", "fastlb-epoll", "nginx", "haproxy", "pingora",
            "caddy", "go"]
# Whose cost is put in proportion to everybody else's.
BASES = ["fastlb-io-uring", "fastlb-epoll", "floor"]
# What compare.sh asks for in its cases large and bulk.
BULK_CLIENTS, BULK_BYTES = 16, 1024 * 1024
# Below this the driver set the pace, and requests per second say nothing about the proxy.
BUSY_PERCENT_MIN = 95
# Above this other programs were at work on the proxy's core.
FOREIGN_PERCENT_MAX = 3


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    machine = json.loads((directory / "machine.json").read_text())
    lines = (directory / "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    print_machine(machine)
    print_small(by_subject(rounds, "small"), machine)
    print_bulk("Large: HTTP with bodies of 1 MiB", by_subject(rounds, "large"))
    print_bulk("Bulk: the same bytes in TCP mode", by_subject(rounds, "bulk"))
    print_beside(by_subject(rounds, "beside"))
    print_fleets(by_subject(rounds, "dead"))
    print_idle(by_subject(rounds, "idle"))
    return 0


def by_subject(rounds: list[dict], case: str) -> dict[str, list[dict]]:
    """The rounds of one case, subjects in the order of the tables."""
    chosen = [line for line in rounds if line["case"] == case]
    grouped = {name: [line for line in chosen if line["subject"] == name] for name in SUBJECTS}
    return {name: lines for name, lines in grouped.items() if lines}


def print_machine(machine: dict) -> None:
    print("## Machine\n")
    for name, value in machine.items():
        print(f"- {name.replace('_', ' ')}: {value}")


def print_small(subjects: dict[str, list[dict]], machine: dict) -> None:
    if not subjects:
        return
    print(f"\n## Small: {machine['clients']} kept connections, 100-byte bodies\n")
    print_row("subject", "engine", "requests/s", "CPU us/request", "p50 us", "p99 us", "RSS MiB",
              "core busy", "errors", "note")
    print_row(*["---"] * 2, *["---:"] * 6, *["---"] * 2)
    for name, lines in subjects.items():
        print_row(
            name,
            ", ".join(sorted({line["engine"] for line in lines})),
            f"{median(map(requests_per_second, lines)):,.0f}",
            f"{median(map(cpu_us, lines)):.2f}",
            f"{median(line['wrk']['p50_us'] for line in lines):.0f}",
            f"{median(line['wrk']['p99_us'] for line in lines):.0f}",
            f"{median(line['rss_kib'] for line in lines) / 1024:.1f}",
            f"{median(map(busy_percent, lines)):.0f} %",
            errors(lines),
            remarks(lines),
        )
    print_ratios(subjects)


def print_bulk(title: str, subjects: dict[str, list[dict]]) -> None:
    if not subjects:
        return
    print(f"\n## {title}, {BULK_CLIENTS} connections\n")
    print_row("subject", "engine", "GB/s", "CPU ms/GB", "RSS MiB", "core busy", "errors", "note")
    print_row(*["---"] * 2, *["---:"] * 4, *["---"] * 2)
    for name, lines in subjects.items():
        gigabytes = [line["wrk"]["requests"] * BULK_BYTES / 1e9 for line in lines]
        cost = [1000 * line["ticks"] / line["tick_hz"] for line in lines]
        pace = [gb * 1e6 / line["wrk"]["duration_us"] for gb, line in zip(gigabytes, lines)]
        print_row(
            name,
            ", ".join(sorted({line["engine"] for line in lines})),
            f"{median(pace):.2f}",
            f"{median(ms / max(gb, 1e-9) for ms, gb in zip(cost, gigabytes)):.0f}",
            f"{median(line['rss_kib'] for line in lines) / 1024:.1f}",
            f"{median(map(busy_percent, lines)):.0f} %",
            errors(lines),
            remarks(lines),
        )
    print_ratios(subjects)


def print_beside(subjects: dict[str, list[dict]]) -> None:
    if not subjects:
        return
    print("\n## Beside: few small requests at a fixed rate, alone and beside bulk\n")
    print_row("subject", "p50 alone ms", "p50 beside", "p99 alone ms", "p99 beside",
              "p99 to alone", "bulk GB/s", "errors")
    print_row("---", *["---:"] * 6, "---")
    for name, lines in subjects.items():
        def middle(which: str, percentile: str) -> float:
            return median(line[which]["latency_ms"][percentile] for line in lines)
        ratios = [line["beside"]["latency_ms"]["p99"] / line["alone"]["latency_ms"]["p99"]
                  for line in lines]
        failed = sum(sum(line[which]["failures"].values())
                     for line in lines for which in ("alone", "beside"))
        bulk = [line["wrk"]["bytes"] * 1e-3 / line["wrk"]["duration_us"] for line in lines]
        print_row(
            name,
            f"{middle('alone', 'p50'):.2f}",
            f"{middle('beside', 'p50'):.2f}",
            f"{middle('alone', 'p99'):.2f}",
            f"{middle('beside', 'p99'):.2f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(bulk):.2f}",
            failed,
        )


def print_fleets(subjects: dict[str, list[dict]]) -> None:
    if not subjects:
        return
    print("\n## Fleets: small requests, by who is up\n")
    print_row("subject", "fleet", "requests/s", "CPU us/request", "CPU to the first", "core busy",
              "errors", "note")
    print_row(*["---"] * 2, *["---:"] * 4, *["---"] * 2)
    for name, lines in subjects.items():
        fleets = list(dict.fromkeys(line["fleet"] for line in lines))
        chosen = {fleet: [line for line in lines if line["fleet"] == fleet] for fleet in fleets}
        for fleet, rounds in chosen.items():
            print_row(
                name,
                fleet,
                f"{median(map(requests_per_second, rounds)):,.0f}",
                f"{median(map(cpu_us, rounds)):.2f}",
                ratio(rounds, chosen[fleets[0]]),
                f"{median(map(busy_percent, rounds)):.0f} %",
                errors(rounds),
                remarks(rounds),
            )


def print_ratios(subjects: dict[str, list[dict]]) -> None:
    bases = [name for name in BASES if name in subjects]
    if not bases:
        return
    print("\nCPU in proportion, per round, then the median (lowest to highest):\n")
    print_row("", *(f"{name} to it" for name in bases))
    print_row("---", *["---:"] * len(bases))
    for name, lines in subjects.items():
        print_row(name, *(ratio(subjects[base], lines) for base in bases))


def ratio(base: list[dict], other: list[dict]) -> str:
    cost = {line["round"]: cpu_us(line) for line in other}
    ratios = [cpu_us(line) / cost[line["round"]] for line in base if line["round"] in cost]
    if not ratios or base is other:
        return "-"
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def print_idle(subjects: dict[str, list[dict]]) -> None:
    if not subjects:
        return
    print("\n## Idle: resident memory per kept connection\n")
    print_row("subject", "engine", "connections", "bytes each", "lowest", "highest", "RSS MiB",
              "failed rounds")
    print_row(*["---"] * 2, *["---:"] * 6)
    for name, lines in subjects.items():
        held = [line for line in lines if line["held"]]
        failed = len(lines) - len(held)
        if not held:
            print_row(name, lines[0]["engine"], 0, "-", "-", "-", "-", failed)
            continue
        each = [(line["after_kib"] - line["before_kib"]) * 1024 / line["held"] for line in held]
        print_row(
            name,
            ", ".join(sorted({line["engine"] for line in held})),
            held[0]["held"],
            f"{median(each):.0f}",
            f"{min(each):.0f}",
            f"{max(each):.0f}",
            f"{median(line['after_kib'] for line in held) / 1024:.1f}",
            failed,
        )


def requests_per_second(line: dict) -> float:
    return line["wrk"]["requests"] * 1e6 / line["wrk"]["duration_us"]


def cpu_us(line: dict) -> float:
    """CPU of the proxy process per request, user and system, all threads."""
    return line["ticks"] * 1e6 / line["tick_hz"] / max(line["wrk"]["requests"], 1)


def busy_percent(line: dict) -> float:
    return 100 * line["core_busy_ticks"] / line["core_total_ticks"]


def foreign_percent(line: dict) -> float:
    return 100 * (line["core_busy_ticks"] - line["ticks"]) / line["core_total_ticks"]


def errors(lines: list[dict]) -> str:
    """All errors of all rounds by kind: an error is never averaged away."""
    sums: dict[str, int] = {}
    for line in lines:
        for kind, count in line["wrk"]["errors"].items():
            sums[kind] = sums.get(kind, 0) + count
    return ", ".join(f"{count} {kind}" for kind, count in sums.items() if count) or "0"


def remarks(lines: list[dict]) -> str:
    found = []
    if median(map(busy_percent, lines)) < BUSY_PERCENT_MIN:
        found.append("driver-bound")
    disturbed = sum(foreign_percent(line) > FOREIGN_PERCENT_MAX for line in lines)
    if disturbed:
        found.append(f"{disturbed} rounds disturbed by other programs")
    return ", ".join(found)


def print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
