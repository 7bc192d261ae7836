"""Every exit code, and errors that say what to do about it in one line."""

import fcntl
import json
import os
import signal
import struct
import subprocess

from support import (
    TENON,
    Case,
    environment,
    objects_of,
    pattern,
    run,
    safetensors_bytes,
    segment_path,
    unique_name,
    wait_until,
)

SMALL = [("layer.0.weight", "F32", [2, 2], pattern(16)), ("layer.1.weight", "U8", [3], b"abc")]
WITH_CUDA = os.environ.get("TENON_WITH_CUDA") == "1"
MAGIC = 0x01004E4F4E45541D


class Usage(Case):
    def test_bad_usage_is_2(self):
        file = self.file(SMALL)
        name = unique_name()
        serve = ["serve", file, "--name", name]
        for arguments in (
            [],
            ["frobnicate"],
            ["serve"],
            ["serve", file],
            [*serve, "--frobnicate"],
            [*serve, "--bucket-size", "much"],
            [*serve, "--bucket-size", "0"],
            [*serve, "--bucket-size", "-1"],
            [*serve, "--bucket-size", "5XB"],
            [*serve, "--interval", "soon"],
            [*serve, "--interval", "-1s"],
            [*serve, "--mode", "triple"],
            [*serve, "--versions", "0"],
            [*serve, "--versions", "-1"],
            [*serve, "--subscribers", "65"],
            [*serve, "--slots", "2"],
            [*serve, "--slots", "2", "--mode", "double"],
            [*serve, "--slots", "1", "--mode", "streaming"],
            [*serve, "--label", "x" * 64],
            ["dump", name],
            ["dump", name, self.path("o"), "--version", "0"],
            ["get", name],
            ["verify", name],
            ["demo", "--model", "no-such-model"],
            ["demo", "--subscribers", "0"],
            ["demo", "--layers", "0"],
            ["ls", "--owner", "nobody"],
        ):
            with self.subTest(arguments=arguments):
                self.run_tenon(*arguments, expect=2)
        self.assert_nothing_left(name)

    def test_invalid_names_are_2(self):
        file = self.file(SMALL)
        for name in ("", "a/b", "../x", ".hidden", "-x", "a b", "x" * 65):
            with self.subTest(name=name):
                self.run_tenon("serve", file, f"--name={name}", expect=2)
                self.run_tenon("dump", "--", name, self.path("o"), expect=2)
                self.run_tenon("get", "--", name, "a", expect=2)
                self.run_tenon("inspect", "--", name, expect=2)
        self.serve(file, unique_name().ljust(64, "x"))  # the longest there is

    def test_help_has_an_example_of_each_command(self):
        self.assertIn("Exit codes", self.run_tenon("--help").stdout)
        for command in ("serve", "dump", "ls", "inspect", "get", "verify", "gc", "demo"):
            with self.subTest(command=command):
                self.assertIn(f"Example:\n  tenon {command}", self.run_tenon(command, "--help").stdout)

    def test_version(self):
        self.assertRegex(self.run_tenon("--version").stdout, r"\Atenon \d+\.\d+\.\d+\n\Z")

    def test_gpu_memory_where_there_is_none_is_1_and_names_host_memory(self):
        name = unique_name()
        missing = "no GPU can be used here" if WITH_CUDA else "built without the CUDA toolkit"
        for memory in ("cuda", "cuda:0"):
            for arguments in (["serve", self.file(SMALL), "--name", name], ["demo"]):
                # Nothing is visible, also on a machine that has a GPU.
                hidden = environment(CUDA_VISIBLE_DEVICES="")
                done = self.run_tenon(*arguments, "--memory", memory, env=hidden, expect=1)
                self.assertIn("--memory cuda:0: ", done.stderr)
                self.assertIn(missing, done.stderr)
                self.assertIn("--memory host", done.stderr)
        self.assert_nothing_left(name)

    def test_memory_that_is_no_kind_is_2_and_names_those_there_are(self):
        for memory in ("tape", "Host", "host:0", "cuda:", "cuda:x", "cuda:-1", "cuda:0x1", "cuda:1,2", "cuda:99999"):
            for arguments in (["serve", self.file(SMALL), "--name", unique_name()], ["demo"]):
                with self.subTest(memory=memory, command=arguments[0]):
                    done = self.run_tenon(*arguments, f"--memory={memory}", expect=2)
                    self.assertIn(f"'{memory}' is not one of host, cuda, cuda:N", done.stderr)


class BadFiles(Case):
    def assert_refused(self, raw, says, name="bad.safetensors"):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(raw)
        publication = unique_name()
        for arguments in (["serve", path, "--name", publication], ["verify", publication, path]):
            done = self.run_tenon(*arguments, expect=2)
            self.assertIn("bad.safetensors", done.stderr)
            self.assertIn(says, done.stderr)
        self.assert_nothing_left(publication)

    def test_bad_files_are_2_and_nothing_is_published(self):
        good = safetensors_bytes(SMALL)

        def with_header(header, data=b""):
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + data

        def tensor(begin, end, dtype="U8", shape=None):
            return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}

        for what, raw, says in (
            ("empty", b"", "0 bytes"),
            ("no header", good[:6], "bytes"),
            ("header cut off", good[:40], "header"),
            ("data cut off", good[:-1], "data"),
            ("trailing byte", good + b"x", "data"),
            ("not JSON", struct.pack("<Q", 4) + b"{\"a\"", "JSON"),
            ("not safetensors", b"PK\x03\x04" + bytes(100), "header"),
            ("header length beyond all files", struct.pack("<Q", 1 << 62) + b"{}", "header"),
            ("unknown dtype", with_header({"a": tensor(0, 1, "U7")}, b"x"), "dtype"),
            ("overlap", with_header({"a": tensor(0, 2), "b": tensor(1, 3)}, b"xyz"), "\"b\""),
            ("hole", with_header({"a": tensor(0, 1), "b": tensor(2, 3)}, b"xyz"), "\"b\""),
            ("size and shape differ", with_header({"a": tensor(0, 3, "U8", [2])}, b"xyz"), "\"a\""),
            ("rank 9", with_header({"a": tensor(0, 1, "U8", [1] * 9)}, b"x"), "\"a\""),
            ("no tensor", with_header({}), "no tensor"),
        ):
            with self.subTest(what=what):
                self.assert_refused(raw, says)

    def test_missing_files_are_2(self):
        missing = self.path("missing.safetensors")
        for arguments in (["serve", missing, "--name", unique_name()], ["verify", unique_name(), missing]):
            self.assertIn("missing.safetensors", self.run_tenon(*arguments, expect=2).stderr)
        self.assertIn(self.folder, self.run_tenon("serve", self.folder, "--name", unique_name(), expect=2).stderr)

    def test_one_tensor_in_two_files_is_2(self):
        again = self.file(SMALL, name="again.safetensors")
        done = self.run_tenon("serve", self.file(SMALL), again, "--name", unique_name(), expect=2)
        self.assertIn("layer.0.weight", done.stderr)

    def test_an_index_that_leads_elsewhere_is_2(self):
        index = self.path("model.safetensors.index.json")
        for target in ("../in.safetensors", "/etc/passwd", "missing.safetensors"):
            with open(index, "w") as file:
                json.dump({"weight_map": {"a": target}}, file)
            self.assertIn(target, self.run_tenon("serve", index, "--name", unique_name(), expect=2).stderr)


class Reading(Case):
    def test_absent_is_3(self):
        name = unique_name()
        for arguments in (
            ["dump", name, self.path("o"), "--timeout", "100ms"],
            ["get", name, "a", "--timeout", "0"],
            ["verify", name, self.file(SMALL), "--timeout", "0s"],
            ["inspect", name],
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(name, self.run_tenon(*arguments, expect=3).stderr)
        self.assertFalse(os.path.exists(self.path("o")))

    def test_no_such_parameter_is_3_and_near_names_are_given(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        done = self.run_tenon("get", name, "layer.0.wieght", expect=3)
        self.assertIn("layer.0.weight", done.stderr)

    def test_no_such_version_is_4(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        done = self.run_tenon("dump", name, self.path("o"), "--version", "2", "--timeout", "200ms", expect=4)
        self.assertIn("version 2", done.stderr)
        self.assertIn("at version 1", done.stderr)
        self.assertFalse(os.path.exists(self.path("o")))

    def test_no_version_yet_is_4(self):
        name = unique_name()
        serve = self.start("serve", self.file(SMALL), "--name", name, "--subscribers", "64")
        serve.wait_for_stderr("still waiting")
        self.run_tenon("dump", name, self.path("o"), "--timeout", "200ms", expect=4)

    def test_name_in_use_is_6_and_names_the_process(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        done = self.run_tenon("serve", self.file(SMALL), "--name", name, expect=6)
        self.assertIn(str(serve.pid), done.stderr)
        self.run_tenon("verify", name, self.file(SMALL))  # unharmed

    def test_no_place_left_is_6(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        with open(segment_path(name), "r+b") as segment:
            places = struct.pack("hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 64, 0)
            fcntl.fcntl(segment, fcntl.F_OFD_SETLK, places)
            self.assertIn("64", self.run_tenon("dump", name, self.path("o"), expect=6).stderr)
        self.run_tenon("dump", name, self.path("o"))

    def test_interrupted_is_130(self):
        name = unique_name()
        for number in (signal.SIGINT, signal.SIGTERM):
            for ignored in (False, True):
                with self.subTest(number=number, ignored=ignored):
                    ignore = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None
                    dump = self.start("dump", name, self.path("o"), "--timeout", "50s", preexec_fn=ignore)
                    wait_until(lambda: _handles(dump.pid, number), "the signal to be handled")
                    dump.send(number)
                    self.assertEqual(dump.wait(), 130)

    def test_a_reader_of_our_output_that_leaves_is_no_news(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            done = subprocess.run([TENON, "ls"], stdout=write_end, stderr=subprocess.PIPE, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (1, b""))
        finally:
            os.close(write_end)


def _handles(pid, number):
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


class Segments(Case):
    """What is under a name, but was not put there by a publisher of this Tenon."""

    def test_garbage_is_1_and_names_the_field(self):
        name = self.segment(pattern(8192))
        for arguments in (["dump", name, self.path("o")], ["inspect", name], ["get", name, "a"]):
            self.assertIn("magic", self.run_tenon(*arguments, expect=1).stderr)
        self.run_tenon("ls")  # others are still to be seen

    def test_another_format_is_6(self):
        name = self.segment(struct.pack("<QII", MAGIC, 99, 0) + bytes(8192))
        for arguments in (["dump", name, self.path("o")], ["inspect", name]):
            self.assertIn("99.0", self.run_tenon(*arguments, expect=6).stderr)

    def test_a_link_or_a_pipe_is_6(self):
        for what, make in (("link", lambda path: os.symlink(self.file(SMALL), path)), ("pipe", os.mkfifo)):
            with self.subTest(what=what):
                name = unique_name()
                make(segment_path(name))
                self.addCleanup(os.unlink, segment_path(name))
                self.run_tenon("dump", name, self.path("o"), expect=6)
                self.run_tenon("inspect", name, expect=6)
                self.run_tenon("serve", self.file(SMALL), "--name", name, expect=6)
                self.run_tenon("ls")

    def test_too_short_and_abandoned_is_5(self):
        name = self.segment(b"short")
        self.assertIn("5 bytes", self.run_tenon("dump", name, self.path("o"), expect=5).stderr)

    def test_another_users_takes_permission_and_the_owner(self):
        nobody = 65534
        try:
            run("--version", user=nobody, group=nobody, extra_groups=[])
        except PermissionError as error:
            self.skipTest(f"cannot run as another user: {error}")
        name = unique_name()
        self.serve(self.file(SMALL), name)
        theirs = {"user": nobody, "group": nobody, "extra_groups": []}
        self.run_tenon("get", name, "layer.1.weight", "--timeout", "0", expect=3, **theirs)
        for arguments in (["get", name, "layer.1.weight"], ["inspect", name]):
            done = self.run_tenon(*arguments, "--owner", os.geteuid(), expect=6, **theirs)
            self.assertIn(name, done.stderr)
        # The other way round root may look, and must say whose it is.
        name = unique_name()
        os.chmod(self.folder, 0o755)
        self.serve(self.file(SMALL), name, **theirs)
        self.run_tenon("inspect", name, expect=3)
        self.run_tenon("verify", name, self.file(SMALL), "--owner", nobody)
        self.assertEqual([p["name"] for p in self.json_of("ls", "--owner", nobody) if p["name"] == name], [name])

    def test_another_users_is_not_found_under_ours(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        self.run_tenon("inspect", name, "--owner", "12345", expect=3)
        self.assertEqual(self.json_of("ls", "--owner", "12345"), [])
        self.assertEqual(len(objects_of(name)), 1)
