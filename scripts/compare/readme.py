#!/usr/bin/env python3
"""Writes the numbers of the README from the raw rounds of compare.sh.

    scripts/compare/readme.py [--check] [DIR]

puts a table of the results in DIR between the two markers of README.md. Without DIR it takes the
newest results in bench/results that have the case small. With --check nothing is written: exit
code 1 says that the README has other numbers.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from cases import Case, found
from rounds import ENGINES, PEERS, SUBJECTS, Round, ratio, read
from tables import table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- numbers: begin -->\n", "<!-- numbers: end -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("directory", type=Path, nargs="?")
    flags = parser.parse_args()
    directory = (flags.directory or newest()).resolve()
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = before + BEGIN + numbers(directory) + END + after
    if not flags.check:
        README.write_text(wanted)
    elif wanted != text:
        print(f"README.md has not the numbers of {directory.name}; "
              "scripts/compare/readme.py writes them", file=sys.stderr)
        return 1
    return 0


def newest() -> Path:
    """The newest results with the case small. Old ones know only their day."""
    def age(directory: Path) -> tuple[str, str]:
        machine = json.loads((directory / "machine.json").read_text())
        return machine.get("began", machine["date"]), directory.name
    files = (ROOT / "bench/results").glob("*/rounds.jsonl")
    return max((file.parent for file in files if '"case": "small"' in file.read_text()), key=age)


def numbers(directory: Path) -> str:
    """What stands between the markers."""
    machine, rounds = read(directory)
    cases = [(case, subjects) for case, subjects in found(rounds) if is_comparison(subjects)]
    names = [name for name in SUBJECTS if any(name in subjects for _, subjects in cases)]
    names = [name for name in names if name != "direct"]
    head = ["", "figure, median", *names, f"{ENGINES[0]} to the best peer"]
    rows = [row(case, subjects, names, machine) for case, subjects in cases]
    versions = [machine[name] for name in PEERS if machine.get(name, "absent") != "absent"]
    place = directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory
    return (f"\n{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
            f"{machine.get('congestion_control', 'unknown')} congestion control; "
            f"{'; '.join(versions)}. "
            f"{machine['rounds']} rounds of {machine['seconds']} s, {machine['date']}, commit "
            f"{machine['commit']}; raw in [{place}]({place}). The floor is a bare epoll relay. "
            f"Less is better.\n\n"
            f"{table(head, rows, left=2)}\n\n")


def is_comparison(subjects: dict[str, list[Round]]) -> bool:
    return ENGINES[0] in subjects and any(name in subjects for name in PEERS)


def row(case: Case, subjects: dict[str, list[Round]], names: list[str], machine: dict) -> list[str]:
    headline = case.shape.headline
    ours = subjects[ENGINES[0]]
    medians = {name: median(headline.value(round) or 0 for round in subjects[name])
               for name in PEERS if name in subjects}
    best = min(medians, key=lambda name: medians[name])
    to_best = ratio(headline, ours, subjects[best])
    cells = [headline.shown(subjects[name]) if name in subjects else "" for name in names]
    return [case.title_for(ours, machine), headline.name, *cells,
            f"{to_best}, {best}" if to_best != "-" else "-"]


if __name__ == "__main__":
    sys.exit(main())
