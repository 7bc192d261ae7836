"""Publications that keep no whole version: readers load as it passes."""

import signal
import time

from support import Case, pattern, read_safetensors, unique_name, wait_until

TENSORS = [(f"t{i}", "U8", [900 + i], pattern(900 + i, i)) for i in range(16)]
STREAMING = ["--mode", "streaming", "--bucket-size", "2KiB"]


class Streaming(Case):
    def start_serving(self, *arguments):
        """Not Case.serve: the first version only comes when somebody is there to read it."""
        name = unique_name()
        return name, self.start("serve", self.file(TENSORS, {"k": "v"}), "--name", name, *STREAMING, *arguments)

    def test_waits_for_a_reader_by_default(self):
        name, serve = self.start_serving()
        serve.wait_for_stderr("still waiting")
        described = self.json_of("inspect", name)
        self.assertEqual((described["mode"], described["version"], described["slots"]), ("streaming", 0, 4))
        out = self.path("out.safetensors")
        self.assertIn("version=1 ", self.run_tenon("dump", name, out, "--timeout", "50s").stdout)
        self.assertIn("version=1 ", serve.line())
        tensors, metadata = read_safetensors(out)
        self.assertEqual(tensors, {n: (dtype, shape, raw) for n, dtype, shape, raw in TENSORS})
        self.assertEqual(metadata, {"k": "v"})
        # It is past for who comes now.
        self.run_tenon("dump", name, out, "--timeout", "200ms", expect=4)
        self.run_tenon("dump", name, out, "--version", "1", "--timeout", "10m", expect=4)
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name)

    def test_two_readers_of_one_version(self):
        name, serve = self.start_serving("--subscribers", "2", "--slots", "2")
        outs = [self.path("1.safetensors"), self.path("2.safetensors")]
        dumps = [self.start("dump", name, out, "--timeout", "50s") for out in outs]
        self.assertEqual([dump.wait() for dump in dumps], [0, 0])
        self.assertIn("version=1 ", serve.line())
        for out in outs:
            self.assertEqual(read_safetensors(out)[0]["t3"][2], TENSORS[3][3])

    def test_versions_go_on_with_the_readers_that_come(self):
        # Without an interval, a reader that is about to leave would be taken for one that waits for more.
        name, serve = self.start_serving("--versions", "2", "--interval", "3s")
        for version in (1, 2):
            out = self.path(f"{version}.safetensors")
            self.assertIn(f"version={version} ", self.run_tenon("dump", name, out, "--timeout", "50s").stdout)
            self.assertIn(f"version={version} ", serve.line())
        self.assertEqual(serve.stop(), 0)

    def test_one_reader_waits_for_a_later_version(self):
        name, serve = self.start_serving("--versions", "3", "--interval", "0")
        out = self.path("out.safetensors")
        done = self.run_tenon("dump", name, out, "--version", "3", "--timeout", "50s")
        self.assertIn("version=3 ", done.stdout)
        self.assertEqual([serve.line().split()[2] for _ in range(3)], ["version=1", "version=2", "version=3"])

    def test_get_and_verify_load_too(self):
        name, serve = self.start_serving("--versions", "2", "--interval", "3s")
        values = self.run_tenon("get", name, "t5", "--head", "3", "--timeout", "50s").stdout.splitlines()
        self.assertEqual(values[1:], [*map(str, TENSORS[5][3][:3]), "... 902 more"])
        self.assertIn("differing=0", self.run_tenon("verify", name, self.path("in.safetensors"), "--timeout", "50s").stdout)
        self.assertEqual(serve.stop(), 0)

    def test_stopped_reader_does_not_keep_serve_from_ending(self):
        name, serve = self.start_serving("--versions", "9", "--interval", "0", "--slots", "2")
        dump = self.start("dump", name, self.path("o"), "--version", "1000", "--timeout", "50s")
        for _ in range(9):
            serve.line()
        dump.send(signal.SIGSTOP)
        serve.send(signal.SIGTERM)
        self.assertEqual(serve.wait(), 0)
        dump.send(signal.SIGCONT)
        self.assertEqual(dump.wait(), 5)

    def test_interrupt_while_a_reader_stalls(self):
        name, serve = self.start_serving("--versions", "1000000", "--interval", "0", "--slots", "2")
        dump = self.start("dump", name, self.path("o"), "--version", "999999", "--timeout", "50s")
        serve.line()
        dump.send(signal.SIGSTOP)
        serve.process.stdout.close()  # so that it is the reader that it waits for
        wait_until(lambda: self.stands_still(name), "the reader's stop to be felt")
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name)

    def stands_still(self, name):
        before = self.json_of("inspect", name)["version"]
        time.sleep(0.2)
        return self.json_of("inspect", name)["version"] == before

    def test_killed_publisher_ends_a_dump_with_5(self):
        name, serve = self.start_serving("--subscribers", "2")
        dump = self.start("dump", name, self.path("o"), "--timeout", "50s")
        self.wait_for_subscriber(name)
        serve.send(signal.SIGKILL)
        self.assertEqual(dump.wait(), 5)
        dump = self.start("dump", name, self.path("o"), "--timeout", "50s")
        self.assertEqual(dump.wait(), 5)

    def test_interrupted_dump_is_130(self):
        name, _ = self.start_serving("--subscribers", "2")
        dump = self.start("dump", name, self.path("o"), "--timeout", "50s")
        self.wait_for_subscriber(name)
        dump.send(signal.SIGINT)
        self.assertEqual(dump.wait(), 130)

    def test_slots_must_fit_the_layout(self):
        name, serve = self.start_serving("--slots", "999")
        self.assertEqual(serve.wait(), 2)
        self.assertIn("slots", serve.stderr())
        self.assert_nothing_left(name)

    def test_too_few_buckets_are_published_in_place(self):
        name = unique_name()
        serve = self.serve(self.file(TENSORS), name, "--mode", "streaming")
        self.assertIn("in place", serve.stderr())
        self.assertEqual(self.json_of("inspect", name)["mode"], "in-place")
