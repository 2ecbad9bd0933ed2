"""The raw rounds of compare.sh, whichever version of it wrote them, and the figures in them.

A line of rounds.jsonl is one measurement: a case, a subject, a round, and what was seen. What the
driver saw stands under `load` as loadgen prints it; older lines have `wrk` in its place.
"""

import json
import re
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
# As compare.sh pins them.
DRIVER_CORE, PROXY_CORE = 0, 1
# From here on a core is full. Where the proxy's is not, requests per second say nothing about it.
BUSY_PERCENT_MIN = 95
# Above this other programs were at work on the proxy's core, or another guest of the machine.
FOREIGN_PERCENT_MAX = 3


@dataclass(frozen=True)
class Load:
    """What the driver saw. Latencies in microseconds; None is what it did not say."""

    # Those that were answered as expected, but for the ones that were sent behind the end of the
    # measurement: they are no part of its pace or of its CPU time. The others are in `failures`.
    good: int
    seconds: float
    bytes: float
    connections: int | None
    mean_us: float | None
    p50_us: float
    p99_us: float
    p999_us: float | None
    max_us: float | None
    failures: dict[str, int]

    def failed(self) -> int:
        return sum(self.failures.values())

    def is_behind(self) -> bool:
        """Whether more requests waited, on average, than there were connections: then the target
        did not keep up with the rate, and the wait is that in the driver (Little's law)."""
        if not self.mean_us or not self.connections:
            return False
        return self.good / self.seconds * self.mean_us / 1e6 > self.connections


@dataclass(frozen=True)
class Use:
    """What was used meanwhile, in seconds. The cores are by number."""

    wall: float
    cpu: float
    busy: dict[int, float]
    stolen: dict[int, float]

    def busy_percent(self, core: int) -> float | None:
        return 100 * self.busy[core] / self.wall if core in self.busy else None


@dataclass(frozen=True)
class Round:
    """One measurement. `raw` has the fields that only one case has."""

    case: str
    subject: str
    number: int
    engine: str
    raw: dict
    load: Load | None
    use: Use | None

    def failed(self) -> int:
        beside = sum(sum(said["failures"].values()) for said in self.both())
        return beside + (self.load.failed() if self.load else 0)

    def both(self) -> list[dict]:
        """What the driver said of the small requests of the case beside: alone, beside."""
        return [self.raw[name] for name in ("alone", "beside") if self.case == "beside"]


@dataclass(frozen=True)
class Figure:
    """What is compared: its name with the unit, its value in a round, the digits that are shown."""

    name: str
    value: Callable[[Round], float | None]
    digits: int
    # What stands for all rounds.
    fold: Callable[[list[float]], float] = median

    def values(self, rounds: list[Round]) -> list[float]:
        return [value for value in map(self.value, rounds) if value is not None]

    def shown(self, rounds: list[Round]) -> str:
        values = self.values(rounds)
        return f"{self.fold(values):,.{self.digits}f}" if values else "-"


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
    return Round(raw["case"], raw["subject"], raw["round"], raw["engine"], raw, load, use_of(raw))


def use_of(raw: dict) -> Use | None:
    if watch := raw.get("load", {}).get("watch"):
        return use_of_watch(watch)
    if "ticks" not in raw:
        return None
    # Older lines: ticks, and of the proxy's core alone.
    per_second = raw["tick_hz"]
    return Use(wall=raw["core_total_ticks"] / per_second, cpu=raw["ticks"] / per_second,
               busy={PROXY_CORE: raw["core_busy_ticks"] / per_second}, stolen={})


def use_of_watch(watch: dict) -> Use:
    wall = watch["wall_s"]
    return Use(
        wall=wall, cpu=watch["cpu_s"],
        busy={core["core"]: wall - core["idle_s"] - core["stolen_s"] for core in watch["cores"]},
        stolen={core["core"]: core["stolen_s"] for core in watch["cores"]})


def load_of_loadgen(found: dict) -> Load:
    plan, latency = found["plan"], found["latency_ms"]
    good = found["good"] - found.get("good_late", 0)
    return Load(
        good=good,
        seconds=plan["duration_s"],
        bytes=found["received_bytes"] + good * plan["body_bytes"],
        connections=plan["connections"],
        mean_us=latency["mean"] * 1000 if plan["rate_per_s"] else None,
        p50_us=latency["p50"] * 1000,
        p99_us=latency["p99"] * 1000,
        p999_us=latency["p99.9"] * 1000,
        max_us=latency["max"] * 1000,
        failures=found["failures"],
    )


def load_of_wrk(case: str, found: dict) -> Load:
    is_bulk = case in ("large", "bulk")
    return Load(
        good=found["requests"],
        seconds=found["duration_us"] / 1e6,
        bytes=found["requests"] * WRK_BULK_BYTES if is_bulk else found.get("bytes", 0),
        connections=WRK_BULK_CONNECTIONS if is_bulk else None,
        mean_us=None,
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


CPU_US = Figure(
    "CPU us/request", lambda r: r.load.good and r.use.cpu * 1e6 / r.load.good or None, 2)
CPU_MS_GB = Figure(
    "CPU ms/GB", lambda r: r.load.bytes and r.use.cpu * 1e3 / (r.load.bytes / 1e9) or None, 0)
REQUESTS_S = Figure("requests/s", lambda r: r.load.good / r.load.seconds, 0)
GB_S = Figure("GB/s", lambda r: r.load.bytes / 1e9 / r.load.seconds, 2)
# Where nothing was answered a latency of 0 is none.
P50 = Figure("p50 us", lambda r: r.load.p50_us or None, 0)
P99 = Figure("p99 us", lambda r: r.load.p99_us or None, 0)
P999 = Figure("p99.9 us", lambda r: r.load.p999_us or None, 0)
RSS = Figure("RSS MiB", lambda r: r.raw["rss_kib"] / 1024 if "rss_kib" in r.raw else None, 1)
BUSY = Figure("core busy %", lambda r: r.use.busy_percent(PROXY_CORE), 0)
DRIVER_BUSY = Figure("driver's core busy %", lambda r: r.use.busy_percent(DRIVER_CORE), 0)


def foreign_percent(use: Use) -> float:
    return 100 * (use.busy[PROXY_CORE] - use.cpu) / use.wall


def is_proxy_bound(rounds: list[Round]) -> bool:
    return median(BUSY.values(rounds)) >= BUSY_PERCENT_MIN


def idleness(rounds: list[Round]) -> str | None:
    """Why the proxy's core was not full, if it was not: because the driver's was, or for another
    reason, which the figures do not tell. Older rounds do not know the driver's core."""
    if is_proxy_bound(rounds):
        return None
    driver = DRIVER_BUSY.values(rounds)
    return "driver-bound" if driver and median(driver) >= BUSY_PERCENT_MIN else "proxy idle"


def remarks(rounds: list[Round], is_paced: bool) -> list[str]:
    """What a reader has to know of a row of figures."""
    used = [round.use for round in rounds if round.use]
    found = []
    if used and not is_paced and (why := idleness(rounds)):
        found.append(why)
    if any(load_of_loadgen(said).is_behind() for round in rounds for said in paced(round)):
        found.append("did not keep up")
    if count := sum(foreign_percent(use) > FOREIGN_PERCENT_MAX for use in used):
        found.append(f"{count} rounds disturbed by other programs")
    if count := sum(100 * use.stolen.get(PROXY_CORE, 0) / use.wall > FOREIGN_PERCENT_MAX
                    for use in used):
        found.append(f"{count} rounds with stolen time")
    return found


def paced(round: Round) -> list[dict]:
    """What the driver said of loads at a fixed rate."""
    loads = [*round.both(), round.raw.get("load", {})]
    return [load for load in loads if load.get("plan", {}).get("rate_per_s")]


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
    """The figure of one subject to that of another, per round: median (lowest to highest). A row
    with failures is no result, and stands in no proportion."""
    if has_failures(base + other):
        return "failures"
    values = {round.number: figure.value(round) for round in other}
    pairs = [(figure.value(round), values.get(round.number)) for round in base]
    return spread([a / b for a, b in pairs if a is not None and b])


def ratio_to_best(figure: Figure, base: list[Round], peers: dict[str, list[Round]],
                  best: Callable = min) -> str:
    """The same to the peer that was best in each round, and who that was, most frequent first."""
    if has_failures(base):
        return "failures"
    ratios, winners = [], []
    for round in base:
        ours = figure.value(round)
        rivals = {name: value for name, rounds in peers.items() if not has_failures(rounds)
                  for each in rounds
                  if each.number == round.number and (value := figure.value(each))}
        if ours is not None and rivals:
            winner = best(rivals, key=lambda name: rivals[name])
            ratios.append(ours / rivals[winner])
            winners.append(winner)
    names = sorted(dict.fromkeys(winners), key=winners.count, reverse=True)
    return f"{spread(ratios)}, {', '.join(names)}" if ratios else "-"


def has_failures(rounds: list[Round]) -> bool:
    return any(round.failed() for round in rounds)


def spread(ratios: list[float]) -> str:
    if not ratios:
        return "-"
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def versions(machine: dict, names: list[str]) -> str:
    """The programs with their versions, as short as they can be told."""
    found = []
    for name in names:
        if number := re.search(r"\d+(\.\d+)+", machine.get(name, "")):
            found.append(f"{name} {number[0]}")
    return ", ".join(found)
