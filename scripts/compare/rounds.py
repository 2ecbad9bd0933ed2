"""The raw rounds of compare.sh, whichever version of it wrote them, and the figures in them.

A line of rounds.jsonl is one measurement: a case, a subject, a round, and what was seen. What the
driver saw stands under `load` as loadgen prints it; older lines have `wrk` in its place.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ENGINES = ["fastlb-io-uring", "fastlb-epoll"]
PEERS = ["nginx", "haproxy", "pingora", "caddy", "go"]
# In the order of the tables.
SUBJECTS = ["direct", "floor", *ENGINES, *PEERS]
# Bodies of the cases large and bulk, where the driver was wrk, and their connections.
WRK_BULK_BYTES, WRK_BULK_CONNECTIONS = 1024 * 1024, 16
# Below this the driver set the pace, and requests per second say nothing about the proxy.
BUSY_PERCENT_MIN = 95
# Above this other programs were at work on the proxy's core.
FOREIGN_PERCENT_MAX = 3


@dataclass(frozen=True)
class Load:
    """What the driver saw. Latencies in microseconds; None is what it did not say."""

    requests: int
    seconds: float
    bytes: float
    connections: int | None
    p50_us: float
    p99_us: float
    p999_us: float | None
    max_us: float | None
    failures: dict[str, int]


@dataclass(frozen=True)
class Round:
    """One measurement. `raw` has the fields that only one case has."""

    case: str
    subject: str
    number: int
    engine: str
    raw: dict
    load: Load | None


@dataclass(frozen=True)
class Figure:
    """What is compared: its name with the unit, its value in a round, the digits that are shown."""

    name: str
    value: Callable[[Round], float | None]
    digits: int

    def shown(self, rounds: list[Round]) -> str:
        values = [value for value in map(self.value, rounds) if value is not None]
        return f"{median(values):,.{self.digits}f}" if values else "-"


def read(directory: Path) -> tuple[dict, list[Round]]:
    """The machine and the rounds of a directory of results."""
    machine = json.loads((directory / "machine.json").read_text())
    lines = (directory / "rounds.jsonl").read_text().splitlines()
    return machine, [parse(json.loads(line)) for line in lines]


def parse(raw: dict) -> Round:
    load = None
    if "load" in raw:
        load = load_of_loadgen(raw["load"])
    elif "wrk" in raw:
        load = load_of_wrk(raw["case"], raw["wrk"])
    return Round(raw["case"], raw["subject"], raw["round"], raw["engine"], raw, load)


def load_of_loadgen(found: dict) -> Load:
    plan, latency = found["plan"], found["latency_ms"]
    return Load(
        requests=found["requests"],
        seconds=plan["duration_s"],
        bytes=found["received_bytes"] + found["requests"] * plan["body_bytes"],
        connections=plan["connections"],
        p50_us=latency["p50"] * 1000,
        p99_us=latency["p99"] * 1000,
        p999_us=latency["p99.9"] * 1000,
        max_us=latency["max"] * 1000,
        failures=found["failures"],
    )


def load_of_wrk(case: str, found: dict) -> Load:
    is_bulk = case in ("large", "bulk")
    return Load(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        bytes=found["requests"] * WRK_BULK_BYTES if is_bulk else found.get("bytes", 0),
        connections=WRK_BULK_CONNECTIONS if is_bulk else None,
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        p999_us=None,
        max_us=None,
        failures=found["errors"],
    )


def by_subject(rounds: list[Round], case: str) -> dict[str, list[Round]]:
    """The rounds of one case, subjects in the order of the tables, unknown ones last."""
    chosen = [round for round in rounds if round.case == case]
    names = dict.fromkeys(SUBJECTS + [round.subject for round in chosen])
    grouped = {name: [round for round in chosen if round.subject == name] for name in names}
    return {name: rounds for name, rounds in grouped.items() if rounds}


def cpu_seconds(round: Round) -> float:
    """CPU of the proxy process, user and system, all threads."""
    return round.raw["ticks"] / round.raw["tick_hz"]


CPU_US = Figure("CPU us/request", lambda r: cpu_seconds(r) * 1e6 / max(r.load.requests, 1), 2)
CPU_MS_GB = Figure("CPU ms/GB", lambda r: cpu_seconds(r) * 1e3 / max(r.load.bytes / 1e9, 1e-9), 0)
REQUESTS_S = Figure("requests/s", lambda r: r.load.requests / r.load.seconds, 0)
GB_S = Figure("GB/s", lambda r: r.load.bytes / 1e9 / r.load.seconds, 2)
P50 = Figure("p50 us", lambda r: r.load.p50_us, 0)
P99 = Figure("p99 us", lambda r: r.load.p99_us, 0)
P999 = Figure("p99.9 us", lambda r: r.load.p999_us, 0)
RSS = Figure("RSS MiB", lambda r: r.raw["rss_kib"] / 1024, 1)
BUSY = Figure("core busy %", lambda r: busy_percent(r), 0)


def busy_percent(round: Round) -> float:
    return 100 * round.raw["core_busy_ticks"] / round.raw["core_total_ticks"]


def foreign_percent(round: Round) -> float:
    foreign = round.raw["core_busy_ticks"] - round.raw["ticks"]
    return 100 * foreign / round.raw["core_total_ticks"]


def is_driver_bound(rounds: list[Round]) -> bool:
    return median(map(busy_percent, rounds)) < BUSY_PERCENT_MIN


def disturbed(rounds: list[Round]) -> int:
    return sum(foreign_percent(round) > FOREIGN_PERCENT_MAX for round in rounds)


def failures(rounds: list[Round]) -> str:
    """All failures of all rounds by kind: one is never averaged away."""
    sums: dict[str, int] = {}
    for round in rounds:
        for kind, count in round.load.failures.items():
            sums[kind] = sums.get(kind, 0) + count
    return ", ".join(f"{count} {kind}" for kind, count in sums.items() if count) or "0"


def engines(rounds: list[Round]) -> str:
    return ", ".join(sorted({round.engine for round in rounds}))


def ratio(figure: Figure, base: list[Round], other: list[Round]) -> str:
    """The figure of one subject to that of another, per round: median (lowest to highest)."""
    values = {round.number: figure.value(round) for round in other}
    pairs = [(figure.value(round), values.get(round.number)) for round in base]
    return spread([a / b for a, b in pairs if a is not None and b])


def spread(ratios: list[float]) -> str:
    if not ratios:
        return "-"
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
