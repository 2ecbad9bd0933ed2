#!/usr/bin/env python3
"""Tests of the report: scripts/compare/tests.py. All results that are kept stay readable."""

import io
import sys
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from xml.etree import ElementTree

import readme
from cases import CASES
from charts import bars
from report import charts, report
from rounds import CPU_US, parse, ratio, read

SCRIPTS = Path(__file__).resolve().parent
LATENCY = {"p50": 0.5, "p75": 0.6, "p90": 0.7, "p99": 1.0, "p99.9": 2.0, "max": 3.0}


def line(case: str, subject: str, number: int = 1, **fields: object) -> dict:
    """A round as compare.sh writes it: 2 s of CPU for 100 000 requests."""
    load = {
        "requests": 100_000, "received_bytes": 10_000_000, "latency_ms": LATENCY, "failures": {},
        "statuses": {"200": 100_000}, "backends": [{"backend": "restarted", "requests": 7}],
        "plan": {"duration_s": 2.0, "connections": 64, "body_bytes": 0, "rate_per_s": None},
    }
    common = {
        "case": case, "subject": subject, "round": number, "engine": "epoll", "ticks": 200,
        "tick_hz": 100, "core_busy_ticks": 200, "core_total_ticks": 202, "rss_kib": 2048,
        "load": load, "alone": {"latency_ms": LATENCY, "failures": {}},
        "beside": {"latency_ms": LATENCY, "failures": {}}, "fleet": "3 up, 0 refusing",
        "held": 8000, "before_kib": 1000, "after_kib": 9000,
    }
    return common | fields


class Tests(unittest.TestCase):
    def test_kept_results_are_readable(self) -> None:
        files = (readme.ROOT / "bench/results").glob("*/rounds.jsonl")
        directories = [file.parent for file in files]
        self.assertGreater(len(directories), 10)
        for directory in directories:
            machine, rounds = read(directory)
            text = report(machine, rounds, with_charts=False)
            for case in {round.case for round in rounds} - {"pre_run"}:
                self.assertIn(f"\n## {case}: ", text, directory.name)

    def test_every_case_of_the_script_has_its_entry_and_its_function(self) -> None:
        script = (SCRIPTS / "cases.sh").read_text()
        listed = script.split("readonly CASES=(")[1].split(")")[0].split()
        self.assertEqual(set(listed) - {"direct"}, {case.name for case in CASES})
        for name in listed:
            self.assertIn(f"\ncase_{name}() {{", script)

    def test_every_case_has_a_table_and_a_chart(self) -> None:
        subjects = ["fastlb-io-uring", "fastlb-epoll", "haproxy", "a-new-one"]
        rounds = [parse(line(case.name, subject, number)) for case in CASES
                  for subject in subjects for number in (1, 2)]
        text = report({}, rounds, with_charts=True)
        drawn = charts({}, rounds)
        for case in CASES:
            self.assertIn(f"\n## {case.name}: ", text)
            self.assertIn(f"]({case.name}.svg)", text)
            words = "".join(ElementTree.fromstring(drawn[case.name]).itertext())
            self.assertIn(case.shape.headline.name, words)
            for subject in subjects:
                self.assertIn(subject, words)

    def test_figures_are_what_was_counted(self) -> None:
        rounds = [parse(line("small", "fastlb-epoll")), parse(line("small", "nginx", ticks=160))]
        text = report({}, rounds, with_charts=False)
        row = "| fastlb-epoll | epoll | 50,000 | 20.00 | 500 | 1,000 | 2,000 | 2.0 | 99 | 0 |"
        self.assertIn(row, text)
        self.assertIn("| nginx | 1.250 (1.250 to 1.250) | 1.000 (1.000 to 1.000) |", text)

    def test_a_driver_bound_row_is_marked_and_its_pace_no_rival(self) -> None:
        idle = line("small", "nginx", core_busy_ticks=180, ticks=180)
        text = report({}, [parse(line("small", "fastlb-epoll")), parse(idle)], with_charts=False)
        self.assertIn("| 0 | driver-bound |", text)
        self.assertIn("| nginx | 1.111 (1.111 to 1.111) | driver-bound |", text)

    def test_ratios_are_formed_within_a_round(self) -> None:
        ours = [parse(line("small", "a", number, ticks=ticks))
                for number, ticks in ((1, 100), (2, 300), (3, 100))]
        other = [parse(line("small", "b", number, ticks=ticks))
                 for number, ticks in ((1, 100), (2, 200))]
        self.assertEqual(ratio(CPU_US, ours, other), "1.250 (1.000 to 1.500)")

    def test_failures_are_summed_by_kind(self) -> None:
        rounds = [line("small", "nginx", number) for number in (1, 2)]
        for found in rounds:
            found["load"] = found["load"] | {"failures": {"status": 2, "reset": 1}}
        text = report({}, [parse(found) for found in rounds], with_charts=False)
        self.assertIn("| 4 status, 2 reset |", text)

    def test_a_chart_escapes_its_words(self) -> None:
        ElementTree.fromstring(bars("a < b & c", "us", 1, {"<x>": [1.0, 2.0], "y": [0.0]}))

    def test_the_readme_has_the_numbers_of_the_newest_results(self) -> None:
        arguments, sys.argv = sys.argv, ["readme.py", "--check"]
        said = io.StringIO()
        with redirect_stderr(said):
            code = readme.main()
        sys.argv = arguments
        self.assertEqual(code, 0, said.getvalue())


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
