"""The tables of the report, in Markdown: that of figures, and those that a case has of its own."""

from collections.abc import Callable, Iterable
from statistics import median

from cases import BYTES_EACH, Case
from rounds import (BUSY, CPU_US, DRIVER_BUSY, ENGINES, P50, P99, P999, PEERS, REQUESTS_S, RSS,
                    Figure, Round, engines, failures, idleness, load_of_loadgen, ratio,
                    ratio_to_best, remarks, spread, use_of_watch)

Subjects = dict[str, list[Round]]


def cpu_alone(round: Round) -> float | None:
    """CPU time per request at the fixed rate, without bulk."""
    alone = round.raw["alone"]
    watch = alone.get("watch")
    good = load_of_loadgen(alone).good
    return use_of_watch(watch).cpu * 1e6 / good if watch and good else None


CPU_ALONE = Figure(CPU_US.name, cpu_alone, 2)


def tables(case: Case, subjects: Subjects) -> str:
    """All tables of a case."""
    if case.name in OWN:
        return OWN[case.name](subjects)
    return f"{figures(case, subjects)}\n{proportions(case, subjects)}"


def figures(case: Case, subjects: Subjects) -> str:
    shape = case.shape
    columns = [shape.pace, *dict.fromkeys(
        [*shape.ratios[:1], P50, P99, P999, RSS, BUSY, DRIVER_BUSY])]
    head = ["subject", "engine", *(figure.name for figure in columns), "failures", "note"]
    rows = [
        [name, engines(rounds), *(figure.shown(rounds) for figure in columns), failures(rounds),
         ", ".join(remarks(rounds, shape.is_paced))]
        for name, rounds in subjects.items()
    ]
    return table(head, rows, left=2)


def proportions(case: Case, subjects: Subjects) -> str:
    """fastlb to everybody else; the pace only where both had a core that was full."""
    bases = [name for name in ENGINES if name in subjects]
    others = [name for name in subjects if name not in ENGINES and name != "direct"]
    if not bases or not (others or len(bases) > 1):
        return ""
    shape = case.shape
    columns = [(figure, base) for figure in shape.ratios for base in bases]
    paces = [] if shape.is_paced else [(shape.pace, base) for base in bases]
    head = ["", *(f"{figure.name}, {base} to it" for figure, base in columns + paces)]
    rows = []
    for name in [*bases[1:], *others]:
        def cell(figure: Figure, base: str) -> str:
            if base == name:
                return "-"
            both = subjects[base], subjects[name]
            if figure is shape.pace and (why := idleness(both[0]) or idleness(both[1])):
                return why
            return ratio(figure, *both)
        rows.append([name, *(cell(*column) for column in columns + paces)])
    if peers := {name: rounds for name, rounds in subjects.items() if name in PEERS}:
        rows.append(["best peer of each round", *(
            ratio_to_best(figure, subjects[base], peers) for figure, base in columns),
            *("" for _ in paces)])
    intro = "In proportion, per round, then the median (lowest to highest):"
    return f"\n{intro}\n\n{table(head, rows, left=1)}"


def beside(subjects: Subjects) -> str:
    head = ["subject", "p50 alone ms", "p50 beside", "p99 alone ms", "p99 beside", "p99.9 alone ms",
            "p99.9 beside", "p99 to alone", "bulk GB/s", CPU_US.name + " alone", RSS.name,
            "failures", "note"]
    rows = []
    for name, rounds in subjects.items():
        def shown(percentile: str) -> list[str]:
            return [f"{median(r.raw[which]['latency_ms'][percentile] for r in rounds):.2f}"
                    for which in ("alone", "beside")]
        # Where nothing was answered there is no latency.
        ratios = [r.raw["beside"]["latency_ms"]["p99"] / alone for r in rounds
                  if (alone := r.raw["alone"]["latency_ms"]["p99"])]
        failed = sum(round.failed() for round in rounds)
        bulk = [r.load.bytes / 1e9 / r.load.seconds for r in rounds]
        rows.append([name, *shown("p50"), *shown("p99"), *shown("p99.9"), spread(ratios),
                     f"{median(bulk):.2f}", CPU_ALONE.shown(rounds), RSS.shown(rounds), failed,
                     ", ".join(remarks(rounds, is_paced=True))])
    return table(head, rows, left=1)


def dead(subjects: Subjects) -> str:
    columns = [REQUESTS_S, CPU_US, P50, P99, P999, RSS, BUSY, DRIVER_BUSY]
    head = ["subject", "fleet", *(figure.name for figure in columns), "CPU to the first",
            "failures", "note"]
    rows = []
    for name, rounds in subjects.items():
        fleets = by_fleet(rounds)
        first = next(iter(fleets.values()))
        for fleet, chosen in fleets.items():
            to_first = "-" if chosen is first else ratio(CPU_US, chosen, first)
            rows.append([name, fleet, *(figure.shown(chosen) for figure in columns), to_first,
                         failures(chosen), ", ".join(remarks(chosen, is_paced=False))])
    return table(head, rows, left=2)


def by_fleet(rounds: list[Round]) -> dict[str, list[Round]]:
    fleets = dict.fromkeys(round.raw["fleet"] for round in rounds)
    return {fleet: [round for round in rounds if round.raw["fleet"] == fleet] for fleet in fleets}


def idle(subjects: Subjects) -> str:
    head = ["subject", "engine", "connections", "bytes each", "lowest", "highest",
            "RSS MiB at the start", "before", "while held", "failed rounds"]
    rows = []
    for name, rounds in subjects.items():
        held = [round for round in rounds if round.raw["held"]]
        failed = len(rounds) - len(held)
        if not held:
            rows.append([name, engines(rounds), 0, *["-"] * 6, failed])
            continue
        each = [BYTES_EACH.value(round) for round in held]
        rows.append([name, engines(held), held[0].raw["held"],
                     *(f"{pick(each):.0f}" for pick in (median, min, max)),
                     *(mebibytes(held, when) for when in ("started", "before", "after")), failed])
    return table(head, rows, left=2)


def mebibytes(rounds: list[Round], when: str) -> str:
    """Resident memory at a moment; older rounds do not know that of the start."""
    values = [round.raw[f"{when}_kib"] for round in rounds if f"{when}_kib" in round.raw]
    return f"{median(values) / 1024:.1f}" if values else "-"


def killed(subjects: Subjects) -> str:
    head = ["subject", "engine", "good", "failed", "by kind", "statuses", "p50 ms", "p99.9 ms",
            "longest ms", "answered by it after its return", CPU_US.name, RSS.name, "note"]
    rows = []
    for name, rounds in subjects.items():
        back = [row["requests"] for round in rounds for row in round.raw["load"]["backends"]
                if row["backend"] == "restarted"]
        rows.append([
            name, engines(rounds), sum(round.raw["load"]["good"] for round in rounds),
            sum(round.failed() for round in rounds), failures(rounds),
            statuses(rounds), f"{median(round.load.p50_us for round in rounds) / 1000:.1f}",
            f"{median(round.load.p999_us for round in rounds) / 1000:.1f}",
            f"{max(round.load.max_us for round in rounds) / 1000:.1f}", sum(back),
            CPU_US.shown([round for round in rounds if round.use]), RSS.shown(rounds),
            ", ".join(remarks(rounds, is_paced=True))])
    return table(head, rows, left=2)


def statuses(rounds: list[Round]) -> str:
    """Those that were not expected."""
    sums: dict[str, int] = {}
    for round in rounds:
        for status, count in round.raw["load"]["statuses"].items():
            if status != "200":
                sums[status] = sums.get(status, 0) + count
    return ", ".join(f"{count} of {status}" for status, count in sums.items()) or "-"


OWN: dict[str, Callable[[Subjects], str]] = {
    "beside": beside, "dead": dead, "idle": idle, "killed": killed,
}


def table(head: Iterable[object], rows: Iterable[Iterable[object]], left: int) -> str:
    """A table whose first columns, and the last where it is a note, stand to the left."""
    head = list(head)
    align = ["---" if index < left or name == "note" else "---:" for index, name in enumerate(head)]
    lines = [head, align, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
