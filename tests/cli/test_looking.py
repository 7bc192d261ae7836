"""ls, inspect, get, verify."""

import json
import math
import os
import struct
import unittest

from support import KIND, Case, every_dtype, large, objects_of, pattern, run, unique_name, write_safetensors

NAN, INF = math.nan, math.inf

# Raw elements of every dtype, and what they are.
VALUES = {
    "BOOL": (bytes([0, 1, 2]), [False, True, True]),
    "U8": (bytes([0, 255]), [0, 255]),
    "I8": (bytes([0, 127, 128, 255]), [0, 127, -128, -1]),
    "I16": (struct.pack("<2h", -32768, 32767), [-32768, 32767]),
    "U16": (struct.pack("<1H", 65535), [65535]),
    "I32": (struct.pack("<2i", -(2**31), 7), [-(2**31), 7]),
    "U32": (struct.pack("<1I", 2**32 - 1), [2**32 - 1]),
    "I64": (struct.pack("<2q", -(2**63), 2**63 - 1), [-(2**63), 2**63 - 1]),
    "U64": (struct.pack("<1Q", 2**64 - 1), [2**64 - 1]),
    "F64": (struct.pack("<5d", 0.1, -0.0, INF, -INF, NAN), [0.1, -0.0, "inf", "-inf", "nan"]),
    "F32": (struct.pack("<4f", 1.5, 2.0**-149, INF, NAN), [1.5, 2.0**-149, "inf", "nan"]),
    "F16": (
        struct.pack("<6H", 0x3C00, 0x7BFF, 0x0001, 0xC000, 0x7C00, 0x7E00),
        [1.0, 65504.0, 2.0**-24, -2.0, "inf", "nan"],
    ),
    "BF16": (struct.pack("<5H", 0x3F80, 0xC040, 0x0001, 0xFF80, 0x7FC0), [1.0, -3.0, 2.0**-133, "-inf", "nan"]),
    "F8_E4M3": (bytes([0x38, 0x7E, 0x01, 0x80, 0x7F, 0xFF, 0x78]), [1.0, 448.0, 2.0**-9, -0.0, "nan", "nan", 256.0]),
    "F8_E5M2": (bytes([0x3C, 0x7B, 0x01, 0x7C, 0xFC, 0x7D]), [1.0, 57344.0, 2.0**-16, "inf", "-inf", "nan"]),
}
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8,
         "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


class Get(Case):
    def setUp(self):
        super().setUp()
        self.name = unique_name()

    def test_values_of_every_dtype(self):
        tensors = [(d, d, [len(raw) // SIZES[d]], raw) for d, (raw, _) in VALUES.items()]
        self.serve(self.file(tensors), self.name)
        for dtype, (raw, expected) in VALUES.items():
            with self.subTest(dtype=dtype):
                got = self.json_of("get", self.name, dtype)
                self.assertEqual(
                    (got["name"], got["dtype"], got["shape"], got["version"], got["bytes"], got["elements"]),
                    (dtype, dtype, [len(expected)], 1, len(raw), len(expected)),
                )
                self.assertEqual(got["values"], expected)
                self.assertEqual([math.copysign(1, v) for v in got["values"] if v == 0 and dtype[0] == "F"],
                                 [math.copysign(1, v) for v in expected if v == 0 and dtype[0] == "F"])  # fmt: skip
                text = self.run_tenon("get", self.name, dtype).stdout.splitlines()
                self.assertEqual(text[0], f"{dtype} {dtype} [{len(expected)}] version=1 bytes={len(raw)}")
                if dtype[0] in "IU":
                    self.assertEqual(text[1:], [str(value) for value in expected])
                elif dtype == "BOOL":
                    self.assertEqual(text[1:], ["false", "true", "true"])
                else:  # the shortest text that gives the same value of the dtype, or of float
                    code = "<d" if dtype == "F64" else "<f"
                    for line, value in zip(text[1:], expected):
                        self.assertEqual(struct.pack(code, float(line)), struct.pack(code, float(value)))

    def test_head(self):
        self.serve(self.file([("a", "U8", [2, 50], pattern(100)), ("s", "F32", [], struct.pack("<f", 0.1)),
                              ("e", "F32", [0], b"")]), self.name)  # fmt: skip
        self.assertEqual(self.json_of("get", self.name, "a")["values"], list(pattern(100)[:10]))
        self.assertEqual(self.run_tenon("get", self.name, "a", "--head", "0").stdout,
                         "a U8 [2, 50] version=1 bytes=100\n... 100 more\n")  # fmt: skip
        all_of_it = self.run_tenon("get", self.name, "a", "--head", "1000").stdout.splitlines()
        self.assertEqual(all_of_it[1:], [str(v) for v in pattern(100)])
        self.assertEqual(self.run_tenon("get", self.name, "s").stdout, "s F32 [] version=1 bytes=4\n0.1\n")
        self.assertEqual(self.run_tenon("get", self.name, "e").stdout, "e F32 [0] version=1 bytes=0\n")


class Checksums(Case):
    TENSORS = [("a", "U8", [5], pattern(5)), ("b", "F32", [2, 3], pattern(24, 2)), ("e", "F32", [0], b"")]

    def test_what_is_whole_is_shown(self):
        name = unique_name()
        self.serve(self.file(self.TENSORS), name, "--checksums")
        self.assertEqual(self.json_of("get", name, "a", "--verify")["values"], list(pattern(5)))

    @unittest.skipIf(KIND == "cuda", "damages the slots' file")
    def test_what_was_damaged_is_named(self):
        name = unique_name()
        self.serve(self.file(self.TENSORS), name, "--checksums")
        (slots,) = [path for path in objects_of(name, self.instance_of(name)) if "slot" in path]
        offset = next(p["offset"] for p in self.json_of("inspect", name, "--parameters")["parameters"] if p["name"] == "b")
        with open(slots, "r+b") as file:
            file.seek(offset + 7)
            byte = file.read(1)[0]
            file.seek(offset + 7)
            file.write(bytes([byte ^ 4]))
        done = self.run_tenon("get", name, "a", "--verify", expect=1)
        self.assertIn("version 1 differs from its checksums in 1 parameter: b", done.stderr)
        self.run_tenon("get", name, "a")

    def test_without_checksums_is_2(self):
        name = unique_name()
        self.serve(self.file(self.TENSORS), name)
        self.assertIn("tenon serve --checksums", self.run_tenon("get", name, "a", "--verify", expect=2).stderr)
        done = self.run_tenon("serve", self.file([(f"t{i}", "U8", [900], pattern(900)) for i in range(9)]), "--name", unique_name(),
                              "--checksums", "--mode", "streaming", "--bucket-size", "2KiB", expect=2)  # fmt: skip
        self.assertIn("streaming", done.stderr)


class LsAndInspect(Case):
    def test_ls(self):
        names = sorted([unique_name("ls"), unique_name("ls")])
        serves = [self.serve(self.file([("a", "U8", [3], b"abc")]), name, "--label", "trainer 7") for name in names]
        listed = [p for p in self.json_of("ls") if p["name"] in names]
        self.assertEqual([p["name"] for p in listed], names)
        for publication, serve in zip(listed, serves):
            self.assertEqual(publication["state"], "ready")
            self.assertEqual(publication["mode"], "in-place")
            self.assertEqual(publication["memory"], KIND)
            self.assertEqual(publication["version"], 1)
            self.assertEqual(publication["parameter_count"], 1)
            self.assertEqual(publication["bytes"], 3)
            self.assertEqual(publication["pid"], serve.pid)
            self.assertEqual(publication["label"], "trainer 7")
            self.assertEqual(publication["subscribers"], 0)
        text = self.run_tenon("ls").stdout
        self.assertTrue(text.startswith("NAME "))
        for name in names:
            self.assertRegex(text, rf"(?m)^{name} +ready +1 +in-place +{KIND} +1 +3 B +0 +\d+ +trainer 7$")

    def test_inspect(self):
        name = unique_name()
        tensors = every_dtype()
        serve = self.serve(self.file(tensors, {"k": "v"}), name, "--bucket-size", "1KiB")
        seen = self.json_of("inspect", name, "--parameters")
        self.assertEqual(
            (seen["name"], seen["state"], seen["pid"], seen["owner"], seen["version"], seen["metadata"]),
            (name, "ready", serve.pid, os.geteuid(), 1, {"k": "v"}),
        )
        self.assertEqual(seen["parameter_count"], len(tensors))
        self.assertEqual(seen["bytes"], sum(len(raw) for _, _, _, raw in tensors))
        self.assertRegex(seen["instance"], r"^[0-9a-f]{32}$")
        self.assertRegex(seen["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(
            {p["name"]: (p["dtype"], p["shape"], p["bytes"]) for p in seen["parameters"]},
            {n: (dtype, shape, len(raw)) for n, dtype, shape, raw in tensors},
        )
        for p in seen["parameters"]:
            self.assertEqual(p["offset"] % 256, 0)
            self.assertLess(p["bucket"], seen["buckets"])
        self.assertEqual(self.json_of("inspect", name, "--owner", os.geteuid())["instance"], seen["instance"])
        text = self.run_tenon("inspect", name, "--parameters").stdout
        for word in (name, "ready", seen["instance"], "of.BF16", "scalar", "0 of 64 places"):
            self.assertIn(word, text)
        self.assertNotIn("of.BF16", self.run_tenon("inspect", name).stdout)

    def test_subscribers_are_shown_and_looking_takes_no_place(self):
        name = unique_name()
        self.serve(self.file([("a", "U8", [1], b"x")]), name)
        dump = self.start("dump", name, self.path("o"), "--version", "2", "--timeout", "50s")
        seen = self.wait_for_subscriber(name)
        self.assertEqual([(s["pid"], s["label"], s["alive"]) for s in seen], [(dump.pid, "tenon dump", True)])
        self.assertIn("tenon dump", self.run_tenon("inspect", name).stdout)

    def test_terminal_codes_in_names_are_not_obeyed(self):
        name = unique_name()
        self.serve(self.file([("evil\x1b[31m", "U8", [1], b"x")]), name)
        text = self.run_tenon("inspect", name, "--parameters").stdout
        self.assertNotIn("\x1b", text)
        self.assertIn("evil\\x1b[31m", text)

    def test_terminal_codes_of_every_kind_are_not_obeyed(self):
        name = unique_name()
        codes = "\x1b]0;x\x07 \x7f \u009b31m \u0085 \u202e \u2066 \u2028"
        tensors = [("evil " + codes, "U8", [1], b"x"), ("fine \u00fc", "U8", [1], b"y")]
        file = write_safetensors(self.path("evil.safetensors"), tensors, {"key": codes})
        self.serve(file, name, "--label", "label \x1b[2J\u009b")
        shown = [self.run_tenon(*command) for command in (
            ["ls"], ["ls", "--json"], ["inspect", name, "--parameters"], ["inspect", name, "--parameters", "--json"])]  # fmt: skip
        shown.append(self.run_tenon("get", name, "evil", expect=3))  # suggests the nearest names
        shown.append(self.run_tenon("get", "x" + codes, "evil", expect=2))
        for done in shown:
            obeyed = [c for c in done.stdout + done.stderr if c != "\n" and (
                c < " " or "\x7f" <= c <= "\x9f" or c in "\u202e\u2066\u2028")]  # fmt: skip
            self.assertEqual(obeyed, [], done.args)
        self.assertIn("fine \u00fc", shown[2].stdout)
        self.assertIn("evil \\x1b]0;x\\x07 \\x7f \\xc2\\x9b31m", shown[2].stdout)
        parameters = json.loads(shown[3].stdout)["parameters"]
        self.assertEqual([p["name"] for p in parameters], [t[0] for t in tensors])


class Verify(Case):
    def test_every_kind_of_difference_is_named(self):
        name = unique_name()
        self.serve(
            self.file([
                ("same", "U8", [4], b"same"),
                ("changed", "U16", [4], b"abcdefgh"),
                ("other.dtype", "F16", [2], b"abcd"),
                ("other.shape", "F16", [2, 3], pattern(12)),
                ("only.published", "U8", [1], b"x"),
            ]),
            name,
        )  # fmt: skip
        file = self.file([
            ("same", "U8", [4], b"same"),
            ("changed", "U16", [4], b"abcdEfgH"),
            ("other.dtype", "BF16", [2], b"abcd"),
            ("other.shape", "F16", [3, 2], pattern(12)),
            ("only.filed", "U8", [1], b"x"),
        ], name="other.safetensors")  # fmt: skip
        done = self.run_tenon("verify", name, file, expect=1)
        lines = done.stdout.splitlines()
        self.assertIn("bytes changed: 2 of 8 bytes differ, the first at byte 4 (element 2)", lines)
        self.assertIn("dtype other.dtype: published F16 [2], in the file BF16 [2]", lines)
        self.assertIn("shape other.shape: published F16 [2, 3], in the file F16 [3, 2]", lines)
        self.assertIn("extra only.published: in the publication, not in the file", lines)
        self.assertIn("missing only.filed: in the file, not in the publication", lines)
        self.assertEqual(lines[-1], f"verified {name} version=1 parameters=5 bytes=29 differing=5")
        seen = json.loads(run("verify", name, file, "--json").stdout)
        self.assertEqual(
            {d["parameter"]: d["kind"] for d in seen["differences"]},
            {
                "changed": "bytes",
                "other.dtype": "dtype",
                "other.shape": "shape",
                "only.published": "extra",
                "only.filed": "missing",
            },
        )

    def test_one_bit_far_inside(self):
        name = unique_name()
        tensor = large(33)
        self.serve(self.file([tensor]), name)
        raw = bytearray(tensor[3])
        raw[32 * (1 << 20) + 5] ^= 0x80
        file = self.file([(*tensor[:3], bytes(raw))], name="other.safetensors")
        done = self.run_tenon("verify", name, file, expect=1)
        self.assertIn(f"1 of {33 << 20} bytes differ, the first at byte {(32 << 20) + 5}", done.stdout)
