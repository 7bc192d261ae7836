#!/usr/bin/env python3
"""Checks the protocol's models with Spin. Needs spin and gcc, and nothing beyond the standard library.

    models.py --short [MODEL...]   what CI runs: a few minutes, below 1.5 GiB
    models.py --long [MODEL...]    also the large runs: up to an hour, 6 GiB
    models.py NAME                 one run, as `models.py --list` names them

A run that must hold passes when the search found no error and was complete: one cut short by its depth or memory has
shown nothing. A mutant passes when Spin found an error in it. Every M_... in a model must be a mutant of the table.
Exit status: 0 all as expected, 1 something was not, 77 no spin or no gcc here.
"""
import argparse
import collections
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77
PROCESSES = 2
DEPTH = 2_000_000
Run = collections.namedtuple("Run", "name model knobs mutant long")
Outcome = collections.namedtuple("Outcome", "ok text states seconds")


def holds(model, label, knobs, long=False):
    return [Run(f"{model}.{label}", model, knobs.split(), False, long)]


def mutants(model, names, knobs=""):
    return [Run(f"{model}.{n}{'.' + k if k else ''}", model, [n, *knobs.split()], True, False)
            for n, _, k in (m.partition(":") for m in names.split())]


RUNS = [
    *holds("line", "in_place", "NV=3"),
    *holds("line", "double", "NV=3 DBL"),
    *holds("line", "load", "NV=2 DBL LOAD"),
    *holds("line", "restart", "NV=1 LIVES=2 CRASHES=2"),
    *holds("line", "restart_load", "NV=1 LIVES=2 CRASHES=1 LOAD"),
    *mutants("line", "M_NOSF M_NOPF M_PINLATE M_LATE M_GT M_EARLY M_NOWAIT M_NODIRTY M_NOWANTED M_NORECLAIM"),
    *mutants("line", "M_NOSF:double M_NOPF:double M_PINLATE:double M_LATE:double M_GT:double M_EARLY:double "
             "M_PARITY M_NOWAIT:double", "DBL"),
    *mutants("line", "M_FLAG", "DBL LOAD"),
    *mutants("line", "M_NOBIND", "NV=1 LIVES=2 LOAD"),
    *mutants("line", "M_KEYED M_SAMESLOTS", "NV=1 LIVES=2"),
    *holds("stream", "default", ""),
    *holds("stream", "require", "REQ=1 NV=1"),
    *holds("stream", "restart", "NV=1 LIVES=2 NOGU NOABORT HANDOVER FIRST"),
    *mutants("stream", "M_NOSF M_NOPF M_LATE M_BURN M_GM1 M_NOMAX M_JOINMID M_CUR M_ORDER M_EARLY M_ENTRY_LATE "
             "M_NOLINE M_NOWAKE M_NOBURN M_NORECLAIM"),
    *mutants("stream", "M_JOINWAKE", "REQ=1"),
    *mutants("stream", "M_KEYED", "NV=1 LIVES=2"),
    *holds("wake", "default", ""),
    *mutants("wake", "M_WAKE_BEFORE_STORE M_NO_BUMP M_PLAIN_WORD M_CHECK_THEN_READ_WORD M_NO_RECHECK"),
    *holds("place", "default", ""),
    *mutants("place", "M_CAS_CLAIM M_NOLOOK"),
    *mutants("place", "M_CAS_RECLAIM", "M_CAS_CLAIM"),
    *holds("clean", "default", ""),
    *mutants("clean", "M_UNLOCKED M_NO_RESTAT_UNLINK M_NO_RESTAT_CREATE"),
    *holds("attach", "default", ""),
    *mutants("attach", "M_NOSF M_NOPF M_NORECHECK M_IDLE M_NORECLAIM"),
    *holds("pinrace", "default", ""),
    *mutants("pinrace", "M_NO_LOCK"),
    *holds("line", "two_readers", "NV=2 NSUB=2", long=True),
    *holds("line", "two_readers_double", "NV=2 NSUB=2 DBL", long=True),
    *holds("line", "restart_double", "NV=2 DBL LIVES=2", long=True),
    *holds("line", "restart_load_2", "NV=1 LIVES=2 CRASHES=2 LOAD", long=True),
    *holds("stream", "restart_2", "NV=1 LIVES=2 NOGU NOABORT HANDOVER", long=True),
    *holds("stream", "two_readers", "NV=1 NSUB=2 NOGU", long=True),
]


def state_count(text):
    found = re.search(r"(\d+) states, stored", text)
    return int(found[1]) if found else 0


def judge(run, text, returncode, seconds):
    """What a search that ended says about `run`."""
    found = re.search(r"errors: (\d+)", text)
    states = state_count(text)
    if not found:
        return Outcome(False, f"pan ended with {returncode}: {text.strip()[-300:]}", states, seconds)
    errors = int(found[1])
    reason = re.search(r"^pan:\d+: (assertion violated|invalid end state)", text, re.MULTILINE)
    if run.mutant:
        return Outcome(bool(errors and reason), f"caught: {reason[1]}" if reason else "NOT CAUGHT", states, seconds)
    if errors:
        return Outcome(False, text.strip().splitlines()[0], states, seconds)
    for sign in ("Search not completed", "search depth too small", "MEMLIM", "out of memory"):
        if sign in text:
            return Outcome(False, f"the search was cut short ({sign})", states, seconds)
    return Outcome(returncode == 0, "holds", states, seconds)


def check(run):
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tenon-model-") as folder:
        def call(*command):
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  check=False)
            return done.returncode, done.stdout
        steps = [["spin", "-a", *(f"-D{k}" for k in run.knobs), str(HERE / f"{run.model}.pml")],
                 ["gcc", "-O1" if run.mutant else "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=1024",
                  f"-DMEMLIM={5600 if run.long else 1400}", "-o", "pan", "pan.c"]]
        for step in steps:
            returncode, text = call(*step)
            if returncode != 0 or "Error" in text:
                return Outcome(False, f"{step[0]}: {text.strip()[-300:]}", 0, time.monotonic() - start)
        returncode, text = call("./pan", f"-m{DEPTH}", f"-w{26 if run.long else 20 if run.mutant else 23}")
        return judge(run, text, returncode, time.monotonic() - start)


def unlisted(models):
    """Mutants that a model has and the table lacks."""
    listed = {(r.model, knob) for r in RUNS for knob in r.knobs}
    for model in models:
        for name in sorted(set(re.findall(r"^#\s*(?:el)?ifn?def (M_\w+)", (HERE / f"{model}.pml").read_text(), re.M))):
            if (model, name) not in listed:
                yield f"{model}.pml: {name} is not in the table"


def chosen(args):
    models = sorted({r.model for r in RUNS})
    if not args.names:
        return [r for r in RUNS if args.long or not r.long], models
    for name in args.names:
        if name not in models and name not in {r.name for r in RUNS}:
            sys.exit(f"models.py: there is no model or run '{name}'; --list shows them")
    return ([r for r in RUNS if r.name in args.names or (r.model in args.names and (args.long or not r.long))],
            [m for m in models if m in args.names])


def main():
    parser = argparse.ArgumentParser(description="Checks the protocol's models with Spin.")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="what CI runs (the default)")
    form.add_argument("--long", action="store_true", help="also the large runs, one at a time")
    form.add_argument("--list", action="store_true", help="the runs")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a model or a run; all without")
    args = parser.parse_args()
    runs, models = chosen(args)
    if args.list:
        for run in runs if args.names else RUNS:
            print(f"{run.name:28} {'long' if run.long else 'short':6} {'fails' if run.mutant else 'holds':6} {' '.join(run.knobs)}")
        return 0
    if not shutil.which("spin") or not shutil.which("gcc"):
        print("models.py: SKIPPED: spin and gcc are needed ('scripts/setup' installs them)")
        return SKIPPED
    failures = list(unlisted(models))
    for text in failures:
        print(f"FAILED {text}")
    # Large runs one at a time: what they share is the memory.
    with concurrent.futures.ThreadPoolExecutor(1 if any(r.long for r in runs) else PROCESSES) as pool:
        for run, outcome in zip(runs, pool.map(check, runs)):
            print(f"{'ok    ' if outcome.ok else 'FAILED'} {run.name:28} {outcome.states:>11,} states "
                  f"{outcome.seconds:7.1f} s  {outcome.text}", flush=True)
            if not outcome.ok:
                failures.append(run.name)
    print(f"models.py: {len(runs)} runs, {len(failures)} not as expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
