"""What is served comes back bit for bit."""

import json
import os
import signal

from support import Case, every_dtype, large, pattern, read_safetensors, unique_name, write_safetensors


class RoundTrip(Case):
    def assert_dumped(self, name, tensors, metadata, *options):
        out = self.path("out.safetensors")
        self.run_tenon("dump", name, out, *options)
        found, found_metadata = read_safetensors(out)
        self.assertEqual(found, {n: (dtype, shape, raw) for n, dtype, shape, raw in tensors})
        self.assertEqual(found_metadata, metadata)

    def test_every_dtype_and_metadata(self):
        metadata = {"format": "pt", "note": "ünïcode \"and\" quotes\n", "": ""}
        file = self.file(every_dtype(), metadata)
        name = unique_name()
        serve = self.serve(file, name)
        self.assert_dumped(name, every_dtype(), metadata)
        self.assertIn("differing=0", self.run_tenon("verify", name, file).stdout)
        instance = self.instance_of(name)
        self.assertEqual(serve.stop(), 0, serve.stderr())
        self.assertEqual(serve.stderr(), "")
        self.assert_nothing_left(name, instance)

    def test_line_counts_parameters_and_bytes(self):
        name = unique_name()
        file = self.file([("a", "F32", [4], pattern(16)), ("b", "U8", [3], b"abc")])
        serve = self.start("serve", file, "--name", name)
        self.assertRegex(serve.line(), rf"^published {name} version=1 parameters=2 bytes=19 seconds=\d+\.\d+$")

    def test_many_buckets_in_both_modes_that_keep_versions(self):
        tensors = [(f"t{i}", "U8", [700 + i], pattern(700 + i, i)) for i in range(12)]
        for mode in ("in-place", "double"):
            with self.subTest(mode=mode):
                name = unique_name()
                serve = self.serve(self.file(tensors), name, "--mode", mode, "--bucket-size", "2KiB")
                described = self.json_of("inspect", name)
                self.assertEqual(described["mode"], mode)
                self.assertGreater(described["buckets"], 4)
                self.assertEqual(described["slots"], described["buckets"] * (2 if mode == "double" else 1))
                self.assert_dumped(name, tensors, None)
                self.assertEqual(serve.stop(), 0)

    def test_larger_than_a_piece(self):
        tensors = [large(40), ("small", "U8", [1], b"x")]
        name = unique_name()
        self.serve(self.file(tensors), name, "--bucket-size", "16MiB")
        self.assert_dumped(name, tensors, None)

    def test_several_files(self):
        first = self.file([("a", "U8", [2], b"ab")], {"from": "first", "one": "1"}, "1.safetensors")
        second = self.file([("b", "U8", [2], b"cd")], {"from": "second", "two": "2"}, "2.safetensors")
        name = unique_name()
        self.start("serve", first, second, "--name", name).line()
        self.assert_dumped(
            name,
            [("a", "U8", [2], b"ab"), ("b", "U8", [2], b"cd")],
            {"from": "first", "one": "1", "two": "2"},
        )

    def test_index_of_two_files(self):
        self.file([("a", "U8", [2], b"ab"), ("c", "U8", [1], b"!")], None, "model-1-of-2.safetensors")
        self.file([("b", "U8", [2], b"cd")], None, "model-2-of-2.safetensors")
        index = self.path("model.safetensors.index.json")
        places = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors", "c": "model-1-of-2.safetensors"}
        with open(index, "w") as file:
            json.dump({"metadata": {"total_size": 5}, "weight_map": places}, file)
        name = unique_name()
        self.serve(index, name)
        self.assert_dumped(
            name, [("a", "U8", [2], b"ab"), ("b", "U8", [2], b"cd"), ("c", "U8", [1], b"!")], None
        )
        self.run_tenon("verify", name, index)

    def test_dump_replaces_a_file_and_leaves_no_other(self):
        name = unique_name()
        self.serve(self.file([("a", "U8", [2], b"ab")]), name)
        with open(self.path("out.safetensors"), "w") as file:
            file.write("something else")
        self.assert_dumped(name, [("a", "U8", [2], b"ab")], None)
        self.run_tenon("dump", name, self.path("missing/out.safetensors"), expect=1)
        self.run_tenon("dump", name, self.folder, expect=1)
        self.assertEqual(sorted(os.listdir(self.folder)), ["in.safetensors", "out.safetensors"])


class Versions(Case):
    def test_each_version_reads_the_files_again(self):
        file = self.file([("a", "U8", [4], b"old!")])
        name = unique_name()
        serve = self.serve(file, name, "--versions", "2", "--interval", "3s")
        serve.send(signal.SIGSTOP)  # the second version comes when the test is ready for it
        first = self.path("first.safetensors")
        self.assertIn("version=1 ", self.run_tenon("dump", name, first, "--version", "1").stdout)
        self.assertEqual(read_safetensors(first)[0]["a"][2], b"old!")
        write_safetensors(file, [("a", "U8", [4], b"new!")])
        serve.send(signal.SIGCONT)
        self.assertRegex(serve.line(), rf"^published {name} version=2 parameters=1 bytes=4 ")
        second = self.path("second.safetensors")
        self.run_tenon("dump", name, second, "--version", "2", "--timeout", "30s")
        self.assertEqual(read_safetensors(second)[0]["a"][2], b"new!")
        # Past: at once, whatever the timeout.
        past = self.run_tenon("dump", name, first, "--version", "1", "--timeout", "10m", expect=4)
        self.assertIn("past", past.stderr)
        self.assertEqual(serve.stop(), 0)

    def test_waits_for_a_version_to_come(self):
        name = unique_name()
        out = self.path("out.safetensors")
        self.serve(self.file([("a", "U8", [1], b"x")]), name, "--versions", "3", "--interval", "1s", "--mode", "double")
        self.run_tenon("dump", name, out, "--version", "3", "--timeout", "50s")

    def test_a_changed_layout_ends_serving(self):
        file = self.file([("a", "U8", [4], b"old!")])
        name = unique_name()
        serve = self.serve(file, name, "--versions", "2", "--interval", "2s")
        serve.send(signal.SIGSTOP)
        write_safetensors(file, [("a", "I8", [4], b"new!")])
        serve.send(signal.SIGCONT)
        self.assertEqual(serve.wait(), 2)
        self.assertIn("changed their layout", serve.stderr())
        self.assertIn("'a' I8 [4], before 'a' U8 [4]", serve.stderr())
        self.assert_nothing_left(name)

    def test_waits_for_subscribers(self):
        name = unique_name()
        serve = self.start("serve", self.file([("a", "U8", [1], b"x")]), "--name", name, "--subscribers", "1")
        serve.wait_for_stderr("still waiting")
        self.run_tenon("dump", name, self.path("out.safetensors"), "--timeout", "50s")
        self.assertIn("version=1 ", serve.line())
        self.assertEqual(serve.stop(), 0)
