"""The scenarios relay and reduce of tenon-bench: that they run, between nodes or over loopback, and verify what they
hand over. Nothing about time."""

import json
import os
import subprocess
import tempfile
import unittest

import calls

RELAY = [
    "relay, pipelined",
    "relay, one after the other",
    "Gloo broadcast per bucket",
    "Gloo broadcast per parameter",
    "version of the other, undisturbed",
    "version of the other, one killed",
    "version of the other, one stopped",
    "publish() meanwhile, undisturbed",
    "publish() meanwhile, one killed",
    "publish() meanwhile, one stopped",
]
GPU = ["R11", "R11a", "R7"]
REDUCE = [f"{n} replicas: {way}" for n in (2, 4) for way in ("reduce-scatter", "all-reduce and slice")]


def bench(*arguments, **environment):
    """The report of a quick run with little data."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "report.json")
        done = subprocess.run(
            [os.environ["TENON_BENCH"], *arguments, "--shrink", "16", "--layers", "1", "--quick", "--json", file],
            env=dict(os.environ, **environment),
            capture_output=True,
            text=True,
            timeout=100,
        )
        if done.returncode != 0:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr}")
        with open(file) as report:
            return json.load(report)


class RelayRows(unittest.TestCase):
    def check(self, report, names):
        measured = [row for row in report["rows"] if "skipped" not in row]
        for name in names:
            rows = [row for row in measured if row["name"].endswith(name)]
            self.assertTrue(rows, name)
            for row in rows:
                self.assertGreater(row["samples"], 0, row["name"])
                self.assertGreater(row["bytes"], 0, row["name"])
                self.assertEqual(row["wrong"], 0, row["name"])
        return measured

    def test_every_row_is_there_and_verified(self):
        self.check(bench("relay"), RELAY)

    def test_reduce_scatter_sends_half_of_all_reduce(self):
        rows = self.check(bench("reduce"), REDUCE)
        for row in rows:
            replicas = int(row["name"].split(" replicas")[0].split()[-1])
            self.assertGreater(row["more"]["padded_to_bytes"], row["bytes"])
            times = 1 if row["name"].endswith("reduce-scatter") else 2
            self.assertEqual(row["more"]["bytes_on_the_wire"], times * (replicas - 1) * row["more"]["padded_to_bytes"])

    def test_without_ip_rows_run_over_loopback_and_say_so(self):
        report = bench("reduce", "--rate", "0", PATH="/nowhere")
        for row in self.check(report, REDUCE):
            self.assertTrue(row["name"].startswith("R16 loopback, "), row["name"])
        self.assertTrue([note for note in report["notes"] if "loopback" in note])

    def test_rows_that_need_a_gpu_say_so(self):
        skipped = [row for row in bench("relay", "--rate", "0")["rows"] if "skipped" in row]
        self.assertEqual([row["name"].split()[0] for row in skipped], GPU)
        for row in skipped:
            self.assertIn("GPU", row["skipped"])

    @unittest.skipUnless("TENON_NCCL_LIBRARY" in os.environ, "built without NCCL")
    def test_gpu_rows_are_there_and_verified(self):
        report = calls.simulate(["relay", *calls.LARGE])
        rows = self.check(report, [])
        self.assertEqual([row["name"].split()[0] for row in rows], GPU)
        for row in rows:
            self.assertGreater(row["samples"], 0, row["name"])
            self.assertEqual(row["wrong"], 0, row["name"])
        self.assertLess(rows[1]["tensors"], rows[0]["tensors"])
        self.assertIn("R11a, extrapolated to all parameters", report["ratios"])


if __name__ == "__main__":
    unittest.main()
