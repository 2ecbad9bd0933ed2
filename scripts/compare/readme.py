#!/usr/bin/env python3
"""Writes the numbers of the README from the raw rounds of compare.sh.

    scripts/compare/readme.py [--check] [DIR]

puts a table of the results in DIR between the two markers of README.md. Without DIR it takes the
newest results in bench/results that compare fastlb with a peer in the case small. With --check
nothing is written: exit code 1 says that the README has other numbers.
"""

import argparse
import sys
from pathlib import Path

from cases import Case, found
from rounds import (ENGINES, PEERS, SUBJECTS, Figure, Round, by_subject, failures, has_failures,
                    ratio_to_best, read, remarks, versions)
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


def newest(results: Path = ROOT / "bench/results") -> Path:
    """The newest comparison with the case small. Old ones know only their day."""
    comparisons: list[tuple[str, str, Path]] = []
    for file in results.glob("*/rounds.jsonl"):
        machine, rounds = read(file.parent)
        if is_comparison(by_subject(rounds, "small")):
            began = machine.get("began", machine["date"])
            comparisons.append((began, file.parent.name, file.parent))
    return max(comparisons)[2]


def numbers(directory: Path) -> str:
    """What stands between the markers."""
    machine, rounds = read(directory)
    place = directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory
    return (f"\n{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
            f"{machine.get('congestion_control', 'unknown')} congestion control; "
            f"{versions(machine, ['fastlb', *PEERS])}. "
            f"{machine['rounds']} rounds of {machine['seconds']} s, {machine['date']}, commit "
            f"{machine['commit']}; raw in [{place}]({place}). The floor is a bare epoll relay. "
            f"Less is better. The best peer is that of each round, and the spread that of the "
            f"rounds.\n\n"
            f"{table_of(machine, rounds)}\n\n")


def table_of(machine: dict, rounds: list[Round]) -> str:
    cases = [(case, subjects) for case, subjects in found(rounds) if is_comparison(subjects)]
    names = [name for name in SUBJECTS if any(name in subjects for _, subjects in cases)]
    names = [name for name in names if name != "direct"]
    head = ["", "figure, median", *names, f"{ENGINES[0]} to the best peer", "note"]
    rows = [row(case, figure, subjects, names, machine) for case, subjects in cases
            for figure in (case.shape.headline, *case.shape.further)]
    return table(head, rows, left=2)


def is_comparison(subjects: dict[str, list[Round]]) -> bool:
    return ENGINES[0] in subjects and any(name in subjects for name in PEERS)


def row(case: Case, figure: Figure, subjects: dict[str, list[Round]], names: list[str],
        machine: dict) -> list[str]:
    ours = subjects[ENGINES[0]]
    peers = {name: subjects[name] for name in PEERS if name in subjects}
    # Where failures are the figure they are no reason to leave it out.
    to_best = "" if figure.fold is sum else ratio_to_best(figure, ours, peers)
    cells = [figure.shown(subjects[name]) if name in subjects else "" for name in names]
    return [case.title_for(ours, machine), figure.name, *cells, to_best, note(case, subjects)]


def note(case: Case, subjects: dict[str, list[Round]]) -> str:
    """What is to be known of single cells, each remark with those that it is about."""
    about: dict[str, list[str]] = {}
    for name, rounds in subjects.items():
        said = remarks(rounds, case.shape.is_paced)
        if has_failures(rounds) and case.shape.headline.fold is not sum:
            said.append(f"failed: {failures(rounds)}")
        for remark in said:
            about.setdefault(remark, []).append(name)
    return "; ".join(f"{remark}: {', '.join(names)}" for remark, names in about.items())


if __name__ == "__main__":
    sys.exit(main())
