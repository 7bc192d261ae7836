"""Runs tenon-bench-sim and counts CUDA calls per step: the part of its figures that no machine changes.

As a program it writes bench/results/sim-calls.json: TENON_BENCH_SIM=.../tenon-bench-sim python3 calls.py > FILE
"""

import glob
import json
import os
import subprocess
import tempfile

SCENARIOS = ["gather", "handoff", "handles"]
SYNTHETIC = ["sizes", "subscribers", "--shrink", "512"]  # of no model that can be chosen
SMALL = ["--model", "llama-3.2-1b", "--shrink", "64"]
LARGE = ["--model", "qwen3-30b-a3b", "--layers", "4", "--shrink", "64"]
WHOLE = ["--model", "qwen3-30b-a3b", "--shrink", "64"]


def simulate(arguments, memory=4 << 30):
    """The report of a run on a node of its own, which is removed."""
    node = f"bench-{os.getpid()}"
    environment = dict(
        os.environ,
        TENON_SIM_NODE=node,
        TENON_SIM_MEMORY=str(memory),
        TENON_SIM_DELAY_US="20",
        TENON_SIM_HOST_ACCESS="0",
        TENON_SIM_POISON="0",
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "report.json")
            subprocess.run(
                [os.environ["TENON_BENCH_SIM"], *arguments, "--memory", "cuda:0", "--quick", "--json", file],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
                timeout=200,
            )
            with open(file) as report:
                return json.load(report)
    finally:
        for path in glob.glob(f"/dev/shm/tenon-sim.{os.getuid()}.{node}.*"):
            os.unlink(path)


def calls_of(report):
    """{row: {"buckets", "trainer", "engine"}} of the rows that count calls."""
    rows = {}
    for row in report["rows"]:
        gpu = row.get("gpu", {})
        if "cuda_calls_per_step" in gpu:
            rows[row["name"]] = {"buckets": gpu["buckets"], "trainer": gpu["cuda_calls_per_step"]}
            if "cuda_calls_per_step_engine" in gpu:
                rows[row["name"]]["engine"] = gpu["cuda_calls_per_step_engine"]
    return rows


def main():
    result = {}
    for arguments in (SMALL, LARGE):
        report = simulate([*SCENARIOS, *arguments])
        result[" ".join(arguments)] = {"tensors": report["rows"][0]["tensors"], "calls": calls_of(report)}
    report = simulate(["gather", "handoff", *WHOLE])
    result[" ".join(WHOLE)] = {"tensors": report["rows"][0]["tensors"], "calls": calls_of(report)}
    print(json.dumps({"simulated": True, "commit": report["commit"], "runs": result}, indent=1))


if __name__ == "__main__":
    main()
