#!/usr/bin/env python3
"""Turns the raw rounds of compare.sh into tables: medians over rounds, ratios per round.

    scripts/compare/report.py [--write | --check] DIR

reads DIR/rounds.jsonl and DIR/machine.json and prints Markdown. With --write the same goes to
DIR/report.md, with a chart of each case in DIR/CASE.svg. With --check nothing is written, and the
rows with failures are named; exit code 1 says that there are some.
"""

import argparse
import sys
from pathlib import Path

from cases import Case, found
from charts import bars
from rounds import ENGINES, PEERS, Round, read, versions
from tables import by_fleet, tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    parser.add_argument("directory", type=Path)
    flags = parser.parse_args()
    try:
        machine, rounds = read(flags.directory)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is not there; DIR is a folder of compare.sh")
    if flags.check:
        rows = failed_rows(rounds)
        for row in rows:
            print(row, file=sys.stderr)
        return 1 if rows else 0
    if flags.write:
        (flags.directory / "report.md").write_text(report(machine, rounds, with_charts=True))
        for name, svg in charts(machine, rounds).items():
            (flags.directory / f"{name}.svg").write_text(svg)
    print(report(machine, rounds, with_charts=False), end="")
    return 0


def failed_rows(rounds: list[Round]) -> list[str]:
    """Who failed in which case, those left out whose failures are what is looked for."""
    rows = []
    for case, subjects in found(rounds):
        for name, chosen in subjects.items():
            failed = sum(round.failed() + (round.raw.get("held") == 0) for round in chosen)
            if failed and case.shape.headline.fold is not sum:
                rows.append(f"{case.name}: {name} has {failed} failures, so that it is no result")
    return rows


def report(machine: dict, rounds: list[Round], with_charts: bool) -> str:
    """The whole report in Markdown."""
    parts = ["## Machine\n"]
    parts += [f"- {name.replace('_', ' ')}: {value}" for name, value in machine.items()]
    for case, subjects in found(rounds):
        parts.append(f"\n## {heading(case, subjects, machine)}\n")
        if with_charts and series(case, subjects):
            parts.append(f"![{case.name}]({case.name}.svg)\n")
        parts.append(tables(case, subjects).rstrip())
    return "\n".join(parts) + "\n"


def charts(machine: dict, rounds: list[Round]) -> dict[str, str]:
    """A chart for each case that has figures, by its name."""
    drawn = {}
    for case, subjects in found(rounds):
        if values := series(case, subjects):
            headline = case.shape.headline
            title = heading(case, subjects, machine)
            words = foot(machine, subjects)
            drawn[case.name] = bars(title, headline.name, headline.digits, values, words)
    return drawn


def heading(case: Case, subjects: dict[str, list[Round]], machine: dict) -> str:
    rounds = [round for chosen in subjects.values() for round in chosen]
    return f"{case.name}: {case.title_for(rounds, machine)}"


def series(case: Case, subjects: dict[str, list[Round]]) -> dict[str, list[float]]:
    """The values of the headline, by subject; in the case dead by subject and fleet."""
    if case.name == "dead":
        subjects = {f"{name}, {fleet}": chosen for name, rounds in subjects.items()
                    for fleet, chosen in by_fleet(rounds).items()}
    headline = case.shape.headline
    values = {name: headline.values(rounds) for name, rounds in subjects.items()}
    # A sum is one figure, which no round has.
    return {name: [headline.fold(found)] if headline.fold is sum else found
            for name, found in values.items() if found}


def foot(machine: dict, subjects: dict[str, list[Round]]) -> str:
    """What was measured and where, for a picture that stands alone."""
    names = ["fastlb"] * any(name in subjects for name in ENGINES)
    names += [name for name in PEERS if name in subjects]
    where = [machine[name] for name in ("commit", "date", "congestion_control") if name in machine]
    return "; ".join(filter(None, [versions(machine, names), *where]))


if __name__ == "__main__":
    sys.exit(main())
