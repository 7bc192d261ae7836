"""scripts/bench and bench/plot: that everything runs, and that a wrong byte or a failure is told."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def bench(*arguments):
    return subprocess.run([sys.executable, SOURCE / "scripts/bench", *arguments], capture_output=True, text=True)


class ScriptsBench(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, script):
        """In tenon-bench's place."""
        path = self.folder / "tenon-bench"
        path.write_text("#!/usr/bin/env python3\nimport json, sys\n" + script)
        path.chmod(0o755)
        return str(path)

    def result(self, name, **medians):
        path = self.folder / name
        path.write_text(json.dumps({"rows": [{"name": row, "p50_us": p50, "p90_us": p90}
                                             for row, (p50, p90) in medians.items()]}))
        return str(path)

    def test_quick_measures_every_scenario_and_no_byte_is_wrong(self):
        ran = bench("--quick", "--program", os.environ["TENON_BENCH"], "--out", str(self.folder))
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn(" 0 failed, 0 tensors wrong", ran.stdout)
        for row in ("memcpy, all threads", "publish (gather, warm slots)", "R0 plain copy, 1 thread", "R3 an object per tensor",
                    "R6 adopt, spinning", "R2 gather with a cast", "R12 gather, buckets of 16 MiB", "R13 JSON (nlohmann), 18867 tensors",
                    "R14 condition variable", "R15 publish(), 16 subscribers, asleep", "R17 Python, SharedMemory per tensor",
                    "R1: a, of a·N + bytes / bandwidth"):
            self.assertIn(row, ran.stdout)
        data = json.loads((self.folder / "handles-llama-3.2-1b.json").read_text())
        self.assertEqual(data["command"][:2], ["tenon-bench", "handles"])
        self.assertIn("cpu", data["machine"])
        self.assertTrue(all("first_us" in row for row in data["rows"]
                            if row["name"].startswith(("R3 ", "R4 ", "R5 ", "R6 ", "R7 ")) and "touched" not in row["name"]))
        sweep = json.loads((self.folder / "sweep-llama-3.2-1b.json").read_text())
        self.assertTrue(all("share_of_r0" in row["more"] for row in sweep["rows"] if row["name"].startswith(("R2 ", "R12 "))))
        for row in data["rows"]:
            self.assertEqual(len(row["all_us"]), row["samples"])

    def test_peers_are_never_part_of_quick(self):
        ran = bench("--quick", "--peers", "--out", str(self.folder))
        self.assertEqual(ran.returncode, 2)
        self.assertIn("--peers is never part of --quick", ran.stderr)

    def test_a_wrong_byte_or_a_failure_is_an_exit_status(self):
        script = """
if "--help" in sys.argv: print("{gather,handles,attach,wake,handoff,relay,reduce}"); sys.exit()
row = dict(name="R1", bytes=1, tensors=1, samples=1, wrong=WRONG, p50_us=1, p90_us=1, p99_us=1)
json.dump({"scenario": sys.argv[1], "options": {}, "rows": [row], "ratios": {}}, open(sys.argv[-1], "w"))
sys.exit(STATUS)
"""
        for wrong, status, expected in (("0", "0", 0), ("1", "0", 1), ("0", "1", 1)):
            ran = bench("--quick", "--out", str(self.folder), "--program",
                        self.program(script.replace("WRONG", wrong).replace("STATUS", status)))
            self.assertEqual(ran.returncode, expected, ran.stdout + ran.stderr)

    def test_an_earlier_result_is_not_taken_for_that_of_a_run_that_failed(self):
        (self.folder / "wake.json").write_text(json.dumps({"rows": [], "ratios": {}}))
        script = """print("{gather,handles,attach,wake,handoff,relay,reduce}"); sys.exit("--help" not in sys.argv)"""
        ran = bench("--quick", "--out", str(self.folder), "--program", self.program(script))
        self.assertEqual(ran.returncode, 1)
        self.assertIn("bench: wake failed (1)", ran.stderr)
        self.assertNotIn("-- wake", ran.stdout)

    def test_compare_prints_what_moved_beyond_the_noise(self):
        a = self.result("a.json", same=(100, 120), faster=(100, 101), noisy=(100, 160), gone=(1, 1))
        b = self.result("b.json", same=(104, 120), faster=(80, 81), noisy=(150, 160), fresh=(1, 1))
        ran = bench("--compare", a, b)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertIn("faster: faster: 100.00 -> 80.00 us (x 0.80", ran.stdout)
        self.assertIn("gone: gone", ran.stdout)
        self.assertIn("new: fresh", ran.stdout)
        self.assertIn("1 of 4 rows moved", ran.stdout)
        self.assertNotIn("same", ran.stdout)
        self.assertNotIn("noisy", ran.stdout)

    def python_that_draws(self):
        for python in (sys.executable, "/usr/bin/python3"):
            if subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode == 0:
                return python
        self.skipTest("no matplotlib")

    def test_figures_without_rows_are_left_out(self):
        sizes = self.folder / "sizes.json"
        sizes.write_text(json.dumps({"scenario": "sizes", "options": {}, "machine": {"gpu": {"name": "a GPU"}},
                                     "rows": [{"name": "R1 gather, kernel, 8 tensors", "p50_us": 1.0, "tensors": 8}]}))
        ran = subprocess.run([self.python_that_draws(), SOURCE / "bench/plot", "--out", str(self.folder), str(sizes)],
                             capture_output=True, text=True)  # fmt: skip
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual(ran.stdout.count("left out, no rows for it"), 5, ran.stdout)
        self.assertEqual([path.name for path in self.folder.glob("*.svg")], ["sizes.svg"])

    def test_figures_are_drawn_of_the_committed_results(self):
        python = self.python_that_draws()
        committed = SOURCE / "bench/results"
        results = sorted(str(path) for path in committed.glob("**/*.json"))
        subprocess.run([python, SOURCE / "bench/plot", "--out", str(self.folder), *results], check=True,
                       capture_output=True)
        subprocess.run([python, SOURCE / "bench/plot-trace", "--from", "2", "--to", "4", "--out", str(self.folder / "trace.svg"),
                        str(committed / "host-xeon-2c/trace-demo.json")], check=True, capture_output=True)  # fmt: skip
        drawn = sorted(path.name for path in self.folder.glob("*.svg"))
        self.assertEqual(drawn, sorted(path.name for path in (SOURCE / "docs/figures").iterdir()))
        for name in drawn:
            self.assertIn("<svg", (self.folder / name).read_text())


if __name__ == "__main__":
    unittest.main()
