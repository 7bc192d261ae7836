"""docs/scaling.md says what scripts/scaling works out, and that agrees with the code and with sense."""

import importlib.machinery
import importlib.util
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["TENON_SOURCE_DIR"])
SCRIPT = SOURCE / "scripts/scaling"
DOCUMENT = SOURCE / "docs/scaling.md"


def load():
    loader = importlib.machinery.SourceFileLoader("scaling", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scaling", loader))
    loader.exec_module(module)
    return module


scaling = load()
FAST = scaling.nccl(400)


def run(*arguments):
    return subprocess.run([sys.executable, "-B", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)


class TheDocument(unittest.TestCase):
    def setUp(self):
        self.text = DOCUMENT.read_text()

    def rejects(self, old, new, why):
        self.assertIn(old, self.text)
        said = scaling.complaints(self.text.replace(old, new, 1))
        self.assertTrue(any(why in line for line in said), said)

    def test_says_what_is_computed(self):
        self.assertEqual(scaling.complaints(self.text), [])
        self.assertLessEqual(len(self.text.splitlines()), 200)

    def test_may_not_differ_in_a_cell(self):
        self.rejects("| 22.3 |", "| 22.4 |", "shapes: ")

    def test_may_not_lack_a_row_or_a_table(self):
        self.rejects("| star, qwen3-30b-a3b |", "| | \n| star, qwen3-30b-a3b |", "ends: ")
        self.rejects("<!-- fixed -->", "", "no table fixed")

    def test_may_not_have_tables_of_its_own(self):
        self.rejects("## Shapes", "| a | b |\n|---|---|\n| 8 | 9 |\n\n## Shapes", "not computed: | a | b |")

    def test_may_not_have_numbers_of_its_own(self):
        self.rejects("0.415 s per step", "0.417 s per step", "no address stands beside: 0.417")

    def test_is_checked_by_the_command(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder, "copy.md")
            copy.write_text(self.text)
            self.assertEqual(run("--check", copy).returncode, 0)
            copy.write_text(self.text.replace("| 22.3 |", "| 22.4 |", 1))
            broken = run("--check", copy)
            self.assertEqual((broken.returncode, broken.stderr), (1, ""))
            self.assertIn("should be: ", broken.stdout)
            self.assertEqual(run("--update", copy, "--check", copy).returncode, 0)
            self.assertEqual(copy.read_text(), self.text)

    def test_has_every_table_that_is_printed(self):
        printed = run().stdout
        for name in scaling.TABLES:
            self.assertIn(f"<!-- {name} -->\n|", printed)
        self.assertNotIn("<!-- ends -->", run("shapes").stdout)
        self.assertEqual(run("no_such_table").returncode, 2)


class TheAssumptions(unittest.TestCase):
    def test_are_those_of_the_code(self):
        s = scaling
        for file, pattern, value in (
            ("lib/relay/gloo_link.hpp", r"kPieceBytes = std::size_t\{4\} << 20U", s.PIECE_GLOO == 4 << 20),
            ("lib/relay/nccl_engine.cpp", r"kLongestPause = std::chrono::microseconds\(200\)", s.TURN_NCCL == 200e-6),
            ("include/tenon/plan.hpp", r"bucket_bytes = 512ULL << 20U", s.BUCKET == 512 << 20),
            ("include/tenon/relay.hpp", r"Duration deadline = std::chrono::seconds\(30\)", s.DEADLINE == 30),
            ("lib/relay/rendezvous/rendezvous.hpp", r"peers = 64;", s.PEERS == 64),
            ("lib/relay/rendezvous/rendezvous.hpp", r"heartbeat = std::chrono::milliseconds\(500\)", s.BEAT == 0.5),
            ("lib/relay/rendezvous/rendezvous.hpp", r"silence = std::chrono::seconds\(3\)", s.SILENCE == 3),
            ("lib/relay/rendezvous/values.cpp", r"kMostBytes = std::size_t\{64\} << 20;", s.STORE == 64 << 20),
            ("lib/relay/rendezvous/values.cpp", r"kEntryBytes = 128;", s.ENTRY == 128 + 136),
        ):
            with self.subTest(file=file, pattern=pattern):
                self.assertRegex((SOURCE / file).read_text(), pattern)
                self.assertTrue(value)

    def test_are_shown_as_they_are_and_have_sources(self):
        units = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "%": 0.01, "days": 86400, "bytes": 1, "KiB": 1 << 10,
                 "MiB": 1 << 20, "GB/s": 10**9}
        for value, what, shown, source in scaling.ASSUMPTIONS:
            with self.subTest(what=what):
                amount, unit = re.match(r"([\d.]+) ?([^ (]*)", shown).groups()
                self.assertAlmostEqual(value / (float(amount) * units[unit]), 1, delta=0.002)
                self.assertTrue(source)

    def test_have_the_models_of_the_library(self):
        self.assertEqual(scaling.QWEN.bytes, 2 * 30_532_122_624)  # bf16
        performance = (SOURCE / "docs/performance.md").read_text()
        self.assertIn("qwen3-30b-a3b (18,867 tensors, 61.06 GB)", performance)
        self.assertEqual(scaling.QWEN.parameters, 18_867)


class TheShapes(unittest.TestCase):
    def test_double_with_the_bytes(self):
        size = 100 * scaling.BUCKET
        for engine in (FAST, scaling.gloo(100)):
            self.assertAlmostEqual(engine.send(2 * size), 2 * engine.send(size))
            once, twice = (scaling.chain(engine, n * size, 512) - scaling.fill(engine, 512) for n in (1, 2))
            self.assertAlmostEqual(twice, 2 * once)
        self.assertAlmostEqual(FAST.send(size), size / FAST.rate + 100 * scaling.TURN_NCCL)

    def test_are_one_sending_where_there_is_one_receiver(self):
        size = scaling.QWEN.bytes
        for shape in (scaling.star, scaling.binomial, scaling.chain, scaling.relays):
            self.assertEqual(shape(FAST, size, 1), FAST.send(size), shape.__name__)

    def test_never_beat_their_links(self):
        for name, shape in scaling.SHAPES.items():
            links = 8 if shape is scaling.senders else 1
            for nodes in (8, 64, 512, 4096):
                self.assertGreaterEqual(shape(FAST, scaling.KIMI.bytes, nodes) * FAST.rate * links, scaling.KIMI.bytes, name)

    def test_never_gain_by_more_nodes(self):
        for name, shape in scaling.SHAPES.items():
            costs = [shape(FAST, scaling.QWEN.bytes, nodes) for nodes in range(1, 300)]
            self.assertEqual(costs, sorted(costs), name)

    def test_take_as_long_as_what_they_do_step_by_step(self):
        """Nodes that send one piece at a time, as soon as they have it, to each child in turn."""
        tick = scaling.Engine(rate=scaling.BUCKET, piece=scaling.BUCKET, hop=0, turn=0)  # a bucket a second
        for pieces in (1, 2, 7):
            size = pieces * scaling.BUCKET
            for nodes in (1, 2, 5, 14, 30):
                children = {n: [n + 1] for n in range(nodes)}
                self.assertEqual(step_by_step(children, pieces), scaling.chain(tick, size, nodes))
            for depth in (1, 2, 3, 4):
                nodes = 2 ** (depth + 1) - 2
                children = {n: [2 * n + 1, 2 * n + 2] for n in range(2**depth - 1)}
                self.assertEqual(step_by_step(children, pieces), scaling.binary(tick, size, nodes))
                nodes = 2**depth - 1
                children = {n: [n | 1 << b for b in reversed(range(depth)) if n % (2 << b) == 0] for n in range(nodes + 1)}
                self.assertEqual(step_by_step(children, pieces), scaling.binomial(tick, size, nodes))

    def test_reach_all_by_relays_of_relays(self):
        for nodes in (1, 8, 64, 65, 512, 4096, 4160, 4161):
            levels, fan = scaling.fan_out(nodes)
            reached = lambda fan, levels: sum(fan**n for n in range(1, levels + 1))
            self.assertLessEqual(fan, scaling.PEERS)
            self.assertGreaterEqual(reached(fan, levels), nodes)
            self.assertLess(reached(fan - 1, levels), nodes)
            self.assertLess(reached(scaling.PEERS, levels - 1), nodes)

    def test_send_what_all_need_to_each_part(self):
        for model in scaling.MODELS:
            self.assertAlmostEqual(scaling.shard_bytes(model, 1), model.bytes)
            both = 2 * scaling.shard_bytes(model, 2)
            self.assertAlmostEqual(both, model.bytes * (2 - model.experts))


def step_by_step(children, pieces):
    """Seconds until the last node has the last piece; a sending takes one. Parents have lower numbers."""
    arrivals = {0: [0] * pieces}
    for parent in sorted(children):
        clock = 0
        for piece, there in enumerate(arrivals[parent]):
            clock = max(clock, there)
            for child in children[parent]:
                clock += 1
                arrivals.setdefault(child, []).append(clock)
                assert len(arrivals[child]) == piece + 1
    return max(arrival[-1] for arrival in arrivals.values())


class TheFixedCosts(unittest.TestCase):
    def test_of_the_store_are_its_keys_and_values(self):
        for nodes in (1, 8, 10, 130):
            ranks = range(nodes + 1)
            keys = [f"gloo/{i}" for i in ranks] + [f"gloo/{i}/{j}" for i in ranks for j in ranks if i != j]
            self.assertEqual(scaling.values_gloo(nodes), len(keys))
            self.assertEqual(scaling.store_bytes(nodes), sum(map(len, keys)) + len(keys) * scaling.ENTRY)

    def test_grow_by_the_laws_that_the_document_names(self):
        grows = lambda cost: cost(4000) / cost(2000)
        self.assertAlmostEqual(grows(scaling.set_up_gloo), 8, delta=0.01)
        self.assertAlmostEqual(grows(lambda n: scaling.messages(scaling.KIMI, n, True)), 2)
        self.assertAlmostEqual(grows(lambda n: scaling.joining(scaling.KIMI, n)), 2)

    def test_of_gloo_agree_with_what_was_tried(self):
        """Within a tenth: at 44 receivers the rule says no, and they came together."""
        for nodes, deadline, seen in scaling.TRIED:
            takes = scaling.deadline_gloo(nodes)
            self.assertTrue(takes < deadline * 1.1 if seen == "formed" else takes > deadline, (nodes, deadline))

    def test_end_where_they_end(self):
        for limit in (1, 10):
            nodes = scaling.first_beyond(limit, scaling.set_up_gloo)
            self.assertGreater(scaling.set_up_gloo(nodes), limit)
            self.assertLessEqual(scaling.set_up_gloo(nodes - 1), limit)
        self.assertIsNone(scaling.first_beyond(1, scaling.chain_is_slow))

    def test_of_deaths_are_probabilities(self):
        self.assertAlmostEqual(scaling.dies_within(60, 1), 60 / scaling.MTBF, delta=1e-11)
        self.assertAlmostEqual(scaling.dies_within(scaling.MTBF, 1), 1 - math.exp(-1))
        self.assertAlmostEqual(1 - scaling.dies_within(60, 2), (1 - scaling.dies_within(60, 1)) ** 2)


if __name__ == "__main__":
    unittest.main()
