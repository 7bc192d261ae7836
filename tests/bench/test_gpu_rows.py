import os
import subprocess
import unittest

import calls

ROWS = {
    "gather": ["R0 ", "R1 ", "R1c ", "R1d ", "R2 ", "R12 "],
    "handoff": ["R6 adopt, spinning", "R6 adopt, asleep", "R7 ", "R8 ", "R9 "],
    "handles": ["R3 ", "R4 ", "R5 ", "R6 ", "R7 ", "R10 open, 2 MiB", "R10 close, 2 MiB", "R10 open, 57 "],
}
SYNTHETIC_ROWS = {
    "sizes": [
        f"{row}, {tensors} tensors"
        for row in ("R0 one cudaMemcpyAsync", "R1 gather, kernel", "R1d gather, cudaMemcpyAsync each")
        for tensors in (1, 8, 64, 512, 4096, 32768)
    ],
    "subscribers": [
        f"R15 publish(), {subscribers}, {how}"
        for subscribers in ("1 subscriber", "2 subscribers", "4 subscribers", "8 subscribers")
        for how in ("elsewhere", "asleep")
    ],
}
SYNTHETIC_FIGURES = [
    "sizes: R1: a,",
    "sizes: R1: bandwidth",
    "sizes: R1d: a,",
    "sizes: R1d: bandwidth",
    "sizes: R1 gather, share of memcpy, 1 tensors",
    "sizes: R1 gather, share of memcpy, 4096 tensors",
    "subscribers: R15 publish(), per subscriber, elsewhere",
    "subscribers: R15 publish(), per subscriber, asleep",
]
RATIOS = ["R3 / R6", "R5 / R6", "R3 / R7"]
# What a step of Tenon's own takes; R1d, R3 and R5 are there to show what it costs otherwise.
TENONS = ["gather: R1 ", "gather: R1c ", "gather: R2 ", "gather: R12 ", "handoff: ", "handles: R6 ", "handles: R7 "]


def tenons(rows):
    return {name: row for name, row in rows.items() if any(name.startswith(start) for start in TENONS)}


class GpuRows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.small = calls.simulate([*calls.SCENARIOS, *calls.SMALL])
        cls.large = calls.simulate([*calls.SCENARIOS, *calls.LARGE])
        cls.synthetic = calls.simulate(calls.SYNTHETIC)

    def test_every_row_is_there_and_verified(self):
        for report, wanted in ((self.small, ROWS), (self.large, ROWS), (self.synthetic, SYNTHETIC_ROWS)):
            self.assertEqual(report["scenario"], "all")
            self.assertTrue(report["machine"]["gpu"]["simulated"])
            self.assertRegex(report["machine"]["gpu"]["uuid"], "^GPU-")
            for scenario, starts in wanted.items():
                for start in starts:
                    rows = [row for row in report["rows"] if row["name"].startswith(f"{scenario}: {start}")]
                    self.assertTrue(rows, f"{scenario}: {start}")
                    for row in rows:
                        self.assertNotIn("skipped", row)
                        self.assertGreater(row["samples"], 0, row["name"])
                        self.assertEqual(row["wrong"], 0, row["name"])
        for report in (self.small, self.large):
            for ratio in RATIOS:
                self.assertTrue([name for name in report["ratios"] if name.startswith(f"handles: {ratio}")], ratio)
        for figure in SYNTHETIC_FIGURES:
            self.assertTrue([name for name in self.synthetic["ratios"] if name.startswith(figure)], figure)

    def test_calls_per_step_are_few(self):
        for report in (self.small, self.large):
            for name, row in tenons(calls.calls_of(report)).items():
                most = 4 * row["buckets"] + 4
                self.assertLessEqual(row["trainer"], most, name)
                self.assertLessEqual(row.get("engine", 0), most, name)

    def test_calls_per_step_do_not_depend_on_the_number_of_parameters(self):
        tensors = [report["rows"][0]["tensors"] for report in (self.small, self.large)]
        self.assertGreater(tensors[1], 10 * tensors[0])
        small, large = (tenons(calls.calls_of(report)) for report in (self.small, self.large))
        equal = [name for name in small if name in large and small[name]["buckets"] == large[name]["buckets"]]
        for start in ("gather: R1 ", "handoff: R6 ", "handoff: R7 ", "handoff: R8 ", "handoff: R9 ", "handles: R7 "):
            self.assertTrue([name for name in equal if name.startswith(start)], start)
        for name in equal:
            self.assertEqual(small[name], large[name], name)

    def test_a_gather_by_kernel_takes_as_many_calls_however_many_tensors_the_bytes_are_in(self):
        rows = {name: row for name, row in calls.calls_of(self.synthetic).items() if name.startswith("sizes: R1 ")}
        self.assertEqual(len(rows), 6)
        self.assertEqual(len({(row["buckets"], row["trainer"]) for row in rows.values()}), 1, rows)

    def test_rows_that_do_not_fit_say_why(self):
        report = calls.simulate(["handles", "sizes", *calls.SMALL], memory=64 << 20)
        skipped = {row["name"].split(": ", 1)[1]: row["skipped"] for row in report["rows"] if "skipped" in row}
        for start in ("R3 ", "R7 ", "R10 open, 64 MiB", "R0 one cudaMemcpyAsync, 8 tensors", "R1d gather, cudaMemcpyAsync each, 8"):
            self.assertTrue([why for name, why in skipped.items() if name.startswith(start)], start)
        for why in skipped.values():
            self.assertRegex(why, "needs .* GiB of GPU memory .* are free")


class WithoutGpu(unittest.TestCase):
    def run_bench(self, *arguments):
        return subprocess.run(
            [os.environ["TENON_BENCH"], *arguments],
            env=dict(os.environ, CUDA_VISIBLE_DEVICES="-1"),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_what_is_missing_is_said(self):
        for scenario in [*calls.SCENARIOS, "sizes", "subscribers"]:
            done = self.run_bench(scenario, "--memory", "cuda:0")
            self.assertEqual(done.returncode, 1)
            self.assertIn("no GPU can be used here", done.stderr)

    def test_memory_that_is_none(self):
        for memory in ("gpu", "cuda:", "cuda:x", "cuda:-1"):
            done = self.run_bench("gather", "--memory", memory)
            self.assertEqual(done.returncode, 2, memory)


if __name__ == "__main__":
    unittest.main()
