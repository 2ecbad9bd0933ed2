"""The cases of compare.sh as the report shows them: a new one is one entry in CASES."""

from dataclasses import dataclass

from rounds import (CPU_MS_GB, CPU_US, GB_S, P50, P99, P999, REQUESTS_S, Figure, Round, by_subject)

BYTES_EACH = Figure("bytes each", lambda r: r.raw["held"] and (
    (r.raw["after_kib"] - r.raw["before_kib"]) * 1024 / r.raw["held"]) or None, 0)
P99_BESIDE = Figure("p99 us beside", lambda r: r.raw["beside"]["latency_ms"]["p99"] * 1000, 0)
FAILED = Figure("failed requests", lambda r: r.load.failed(), 0, fold=sum)


@dataclass(frozen=True)
class Shape:
    """How a case is shown. `headline` is what its chart and the README show of it."""

    headline: Figure
    # How much was done, in the table of figures; None where the case has a table of its own.
    pace: Figure | None = None
    # What fastlb is put in proportion by, besides the pace.
    ratios: tuple[Figure, ...] = ()
    # What the README shows beside the headline.
    further: tuple[Figure, ...] = ()
    # Whether the driver sets the pace, so that the proxy's core has to be idle in part.
    is_paced: bool = False


REQUESTS = Shape(CPU_US, REQUESTS_S, (CPU_US,))
TURNS = Shape(CPU_US, REQUESTS_S, (CPU_US, P50, P99, P999), further=(P50, P99, P999))
BYTES = Shape(CPU_MS_GB, GB_S, (CPU_MS_GB,))
PACED = Shape(P50, REQUESTS_S, (CPU_US, P50, P99, P999), further=(P99, P999), is_paced=True)


@dataclass(frozen=True)
class Case:
    """A case. The title may name the connections and the rate."""

    name: str
    title: str
    shape: Shape

    def title_for(self, rounds: list[Round], machine: dict) -> str:
        load = next((round.load for round in rounds if round.load), None)
        connections = load and load.connections or machine.get("clients")
        rates = [round.raw.get("load", {}).get("plan", {}).get("rate_per_s") for round in rounds]
        rate = next(filter(None, rates), 0)
        return self.title.format(connections=connections, rate=rate)


CASES = [
    Case("small", "100-byte bodies, {connections} kept connections", REQUESTS),
    Case("small16", "100-byte bodies, {connections} kept connections", REQUESTS),
    Case("small512", "100-byte bodies, {connections} kept connections", REQUESTS),
    Case("body1k", "bodies of 1 KiB, {connections} kept connections", REQUESTS),
    Case("body16k", "bodies of 16 KiB, {connections} kept connections", BYTES),
    Case("body64k", "bodies of 64 KiB, {connections} kept connections", BYTES),
    Case("large", "bodies of 1 MiB, {connections} kept connections", BYTES),
    Case("large64", "bodies of 1 MiB, {connections} kept connections", BYTES),
    Case("upload", "uploads of 1 MiB, {connections} kept connections", BYTES),
    Case("close", "100-byte bodies, a connection for each request, {connections} at once",
         REQUESTS),
    Case("pipeline", "100-byte bodies, 16 requests under way on each of {connections} connections",
         REQUESTS),
    Case("bulk", "TCP mode, 1 MiB at a time one way, {connections} connections", BYTES),
    Case("duplex", "TCP mode, 1 MiB at a time both ways at once, {connections} connections", BYTES),
    Case("pingpong", "TCP mode, small messages to and fro, {connections} connections", TURNS),
    Case("rate", "{rate} small requests a second over {connections} connections", PACED),
    Case(
        "beside",
        "few small requests at a fixed rate, alone and beside bulk",
        Shape(P99_BESIDE, is_paced=True),
    ),
    Case("idle", "resident memory per idle connection", Shape(BYTES_EACH)),
    Case("dead", "small requests before fleets of which some refuse", Shape(CPU_US)),
    Case("killed", "a backend killed and restarted under load", Shape(FAILED, is_paced=True)),
]


def found(rounds: list[Round]) -> list[tuple[Case, dict[str, list[Round]]]]:
    """The cases that have rounds, with their subjects."""
    pairs = [(case, by_subject(rounds, case.name)) for case in CASES]
    return [(case, subjects) for case, subjects in pairs if subjects]
