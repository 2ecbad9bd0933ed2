#!/usr/bin/env python3
"""Tests of the report: scripts/compare/tests.py. All results that are kept stay readable."""

import io
import json
import sys
import tempfile
import unittest
from contextlib import redirect_stderr
from pathlib import Path
from xml.etree import ElementTree

import readme
from cases import CASES
from charts import bars
from report import charts, failed_rows, report
from rounds import (CPU_US, REQUESTS_S, Round, idleness, parse, ratio, ratio_to_best, read, remarks,
                    versions)

SCRIPTS = Path(__file__).resolve().parent
LATENCY = {"p50": 0.5, "p75": 0.6, "p90": 0.7, "p99": 1.0, "p99.9": 2.0, "max": 3.0,
           "mean": 0.6}


def watch(cpu_s: float = 2.0, busy_s: float = 2.0, driver_s: float = 1.0,
          stolen_s: float = 0.0) -> dict:
    """What the driver read over 2 s: of the proxy, of its core, and of the driver's."""
    idle = [2.0 - driver_s, 2.0 - busy_s - stolen_s]
    return {"pid": 1, "wall_s": 2.0, "cpu_s": cpu_s, "cores": [
        {"core": number, "idle_s": idle_s, "stolen_s": stolen_s * number}
        for number, idle_s in enumerate(idle)]}


def load(rate: int | None = None, **fields: object) -> dict:
    """What the driver said of 100 000 requests in 2 s, which took the proxy 2 s of CPU."""
    return {
        "good": 100_000, "received_bytes": 10_000_000, "latency_ms": LATENCY, "failures": {},
        "statuses": {"200": 100_000}, "backends": [{"backend": "restarted", "requests": 7}],
        "plan": {"duration_s": 2.0, "connections": 64, "body_bytes": 0, "rate_per_s": rate},
        "watch": watch(),
    } | fields


def line(case: str, subject: str, number: int = 1, **fields: object) -> dict:
    """A round as compare.sh writes it."""
    common = {
        "case": case, "subject": subject, "round": number, "engine": "epoll", "rss_kib": 2048,
        "load": load(), "alone": load(rate=50_000), "beside": load(rate=50_000),
        "fleet": "3 up, 0 refusing", "held": 8000, "started_kib": 900, "before_kib": 1000,
        "after_kib": 9000,
    }
    return common | fields


def took(subject: str, number: int, cpu_s: float, **fields: object) -> Round:
    """A round of the case small that took so much CPU time."""
    return parse(line("small", subject, number, load=load(watch=watch(cpu_s), **fields)))


class Tests(unittest.TestCase):
    def test_kept_results_are_readable(self) -> None:
        files = (readme.ROOT / "bench/results").glob("*/rounds.jsonl")
        directories = [file.parent for file in files]
        self.assertGreater(len(directories), 5)
        for directory in directories:
            machine, rounds = read(directory)
            text = report(machine, rounds, with_charts=False)
            for case in {round.case for round in rounds} - {"pre_run"}:
                self.assertIn(f"\n## {case}: ", text, directory.name)

    def test_a_document_names_every_folder_of_results(self) -> None:
        documents = [readme.ROOT / "README.md", readme.ROOT / "bench/README.md",
                     *(readme.ROOT / "docs").rglob("*.md")]
        text = "\n".join(document.read_text() for document in documents)
        for file in (readme.ROOT / "bench/results").glob("*/rounds.jsonl"):
            self.assertRegex(text, rf"results/{file.parent.name}(?![-\w])")

    def test_every_case_of_the_script_has_its_entry_and_its_function(self) -> None:
        script = (SCRIPTS / "cases.sh").read_text()
        listed = script.split("readonly CASES=(")[1].split(")")[0].split()
        self.assertEqual(set(listed) - {"direct"}, {case.name for case in CASES})
        for name in listed:
            prefix = "around" if name == "direct" else "case"
            self.assertIn(f"\n{prefix}_{name}() {{", script)

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
        rounds = [took("fastlb-epoll", 1, 2.0), took("nginx", 1, 1.6)]
        text = report({}, rounds, with_charts=False)
        row = "| fastlb-epoll | epoll | 50,000 | 20.00 | 500 | 1,000 | 2,000 | 2.0 | 100 | 50 | 0 |"
        self.assertIn(row, text)
        self.assertIn("| nginx | 1.250 (1.250 to 1.250) | 1.000 (1.000 to 1.000) |", text)

    def test_failed_requests_are_not_work_and_stand_in_no_proportion(self) -> None:
        ours = took("fastlb-epoll", 1, 2.0, good=50_000, failures={"unsent": 50_000})
        uploads = load(good=2, failures={"unsent": 9}, received_bytes=0)
        uploads["plan"] |= {"body_bytes": 1_000}
        self.assertEqual(CPU_US.value(ours), 40.0)
        self.assertEqual(parse(line("upload", "a", load=uploads)).load.bytes, 2_000)
        self.assertEqual(ratio(CPU_US, [ours], [took("nginx", 1, 1.0)]), "failures")
        self.assertEqual(ratio(CPU_US, [took("nginx", 1, 1.0)], [ours]), "failures")
        none = took("nginx", 1, 1.0, good=0, received_bytes=0)
        self.assertIsNone(CPU_US.value(none))

    def test_what_was_answered_behind_the_end_is_no_pace(self) -> None:
        round = parse(line("rate", "a", load=load(rate=50_000, good_late=60_000)))
        self.assertEqual((REQUESTS_S.value(round), CPU_US.value(round)), (20_000.0, 50.0))
        round = line("killed", "a", load=load(rate=50_000, good_late=60_000))
        self.assertIn("| a | epoll | 100000 | 0 |", report({}, [parse(round)], with_charts=False))

    def test_who_answers_nothing_has_its_row(self) -> None:
        nothing = {"good": 0, "failures": {"unsent": 9}, "received_bytes": 0,
                   "latency_ms": dict.fromkeys(LATENCY, 0.0)}
        for case in CASES:
            fields = {name: load(rate=rate, **nothing)
                      for name, rate in (("load", None), ("alone", 10), ("beside", 10))}
            rounds = [parse(line(case.name, name, held=0, **(fields if name == "nginx" else {})))
                      for name in ("fastlb-io-uring", "nginx")]
            text = report({}, rounds, with_charts=True)
            self.assertIn("\n| nginx |", text, case.name)
            if case.name == "small":
                self.assertIn("| nginx | epoll | 0 | - | - | - | - |", text)
            charts({}, rounds)
            readme.table_of({}, rounds)

    def test_why_a_core_was_not_full_is_said_and_the_pace_is_no_rival(self) -> None:
        for driver_s, why in ((1.95, "driver-bound"), (1.0, "proxy idle")):
            idle = watch(cpu_s=1.8, busy_s=1.8, driver_s=driver_s)
            rounds = [took("fastlb-epoll", 1, 2.0),
                      parse(line("small", "nginx", load=load(watch=idle)))]
            text = report({}, rounds, with_charts=False)
            self.assertIn(f"| 0 | {why} |", text)
            self.assertIn(f"| nginx | 1.111 (1.111 to 1.111) | {why} |", text)

    def test_old_rounds_do_not_know_the_driver(self) -> None:
        old = {"ticks": 180, "tick_hz": 100, "core_busy_ticks": 180, "core_total_ticks": 202}
        found = parse(line("small", "nginx", load=load(watch=None), **old))
        self.assertEqual((found.use.cpu, idleness([found])), (1.8, "proxy idle"))

    def test_foreign_and_stolen_time_are_told_apart(self) -> None:
        stolen = watch(cpu_s=1.9, busy_s=1.9, stolen_s=0.1)
        for time, said in ((watch(cpu_s=1.9), "1 rounds disturbed by other programs"),
                           (stolen, "1 rounds with stolen time")):
            self.assertEqual(remarks([parse(line("small", "a", load=load(watch=time)))], False),
                             [said])

    def test_who_did_not_keep_up_with_the_rate_is_marked(self) -> None:
        """64 connections and 50 000 a second: 1.28 ms is what each may take."""
        for mean, said in ((1.2, []), (1.4, ["did not keep up"])):
            slow = load(rate=50_000, latency_ms=LATENCY | {"mean": mean})
            self.assertEqual(remarks([parse(line("rate", "a", load=slow))], True), said)
            self.assertEqual(remarks([parse(line("beside", "a", beside=slow))], True), said)

    def test_ratios_are_formed_within_a_round(self) -> None:
        ours = [took("a", number, cpu_s) for number, cpu_s in ((1, 1), (2, 3), (3, 1))]
        other = [took("b", number, cpu_s) for number, cpu_s in ((1, 1), (2, 2))]
        self.assertEqual(ratio(CPU_US, ours, other), "1.250 (1.000 to 1.500)")

    def test_the_best_peer_is_that_of_each_round(self) -> None:
        ours = [took("fastlb-io-uring", number, 1.0) for number in (1, 2, 3)]
        nginx = enumerate((2.0, 4.0, 4.0), start=1)
        peers = {"nginx": [took("nginx", number, cpu_s) for number, cpu_s in nginx],
                 "haproxy": [took("haproxy", number, 3.2) for number in (1, 2, 3)]}
        self.assertEqual(ratio_to_best(CPU_US, ours, peers),
                         "0.312 (0.312 to 0.500), haproxy, nginx")
        failed = {"go": [took("go", number, 0.1, failures={"reset": 1}) for number in (1, 2, 3)]}
        self.assertEqual(ratio_to_best(CPU_US, ours, peers | failed),
                         ratio_to_best(CPU_US, ours, peers))

    def test_failures_are_summed_by_kind(self) -> None:
        found = load(failures={"status": 2, "reset": 1})
        rounds = [line("small", "nginx", number, load=found) for number in (1, 2)]
        text = report({}, [parse(found) for found in rounds], with_charts=False)
        self.assertIn("| 4 status, 2 reset |", text)

    def test_rows_with_failures_are_named(self) -> None:
        failed = {"load": load(failures={"reset": 3}), "held": 8000}
        rounds = [parse(line(case, "nginx", number, **failed))
                  for case in ("small", "killed") for number in (1, 2)]
        unheld = {"case": "idle", "subject": "go", "round": 1, "engine": "epoll", "held": 0}
        rounds += [parse(unheld), parse(line("close", "go"))]
        self.assertEqual(failed_rows(rounds), [
            "small: nginx has 6 failures, so that it is no result",
            "idle: go has 1 failures, so that it is no result"])

    def test_the_readme_marks_what_is_no_result(self) -> None:
        killed = load(failures={"reset": 3})
        rounds = [parse(line(case, name, number, load=killed)) for number in (1, 2)
                  for case in ("small", "killed") for name in ("fastlb-io-uring", "nginx")]
        rounds += [parse(line("idle", name, number, held=held))
                   for number, held in ((1, 0), (2, 8000))
                   for name in ("fastlb-io-uring", "nginx")]
        machine = {"cpu": "c", "cores": 2, "kernel": "k", "rounds": 2, "seconds": 2, "date": "d",
                   "commit": "e", "caddy": "2.6.2", "fastlb": "fastlb 0.1.0", "nginx": "absent"}
        text = readme.table_of(machine, rounds)
        self.assertIn("| failures | failed: 6 reset: fastlb-io-uring, nginx |", text)
        self.assertIn("| failed requests | 6 | 6 |  |  |", text)
        # The round that could not hold them is left out.
        self.assertIn("| 1,024 | 1,024 | 1.000 (1.000 to 1.000), nginx |", text)
        self.assertEqual(versions(machine, ["fastlb", "caddy", "nginx"]),
                         "fastlb 0.1.0, caddy 2.6.2")

    def test_a_chart_escapes_its_words(self) -> None:
        ElementTree.fromstring(bars("a < b & c", "us", 1, {"<x>": [1.0, 2.0], "y": [0.0]}, "<&"))

    def test_the_newest_results_are_those_of_the_newest_comparison(self) -> None:
        kept = [
            ("a-newer", {"date": "2026-01-02", "began": "2026-01-02T09:00:00+00:00"}, "small",
             ["fastlb-io-uring", "nginx"]),
            ("z-older", {"date": "2026-01-02", "began": "2026-01-02T08:00:00+00:00"}, "small",
             ["fastlb-io-uring", "nginx"]),
            ("y-of-the-day", {"date": "2026-01-02"}, "small", ["fastlb-io-uring", "nginx"]),
            ("x-alone", {"date": "2026-01-03"}, "small", ["fastlb-io-uring", "fastlb-before"]),
            ("w-another-case", {"date": "2026-01-03"}, "small16", ["fastlb-io-uring", "nginx"]),
        ]
        with tempfile.TemporaryDirectory() as folder:
            for name, machine, case, subjects in kept:
                directory = Path(folder, name)
                directory.mkdir()
                (directory / "machine.json").write_text(json.dumps(machine))
                (directory / "rounds.jsonl").write_text(
                    "".join(json.dumps(line(case, subject)) + "\n" for subject in subjects))
            self.assertEqual(readme.newest(Path(folder)).name, "a-newer")

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
