"""Broken in five ways: each time the exit code, what happened, with which values, and what to do are in one line."""

import json
import os
import pathlib
import re
import shutil
import struct
import tempfile

from support import TENON, UID, Case, PrivateShm, pattern, run, segment_path, skip_or_fail, unique_name

SMALL = [("layer.0.weight", "F32", [2, 2], pattern(16))]
ERRORS = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text()
MAGIC = 0x01004E4F4E45541D
NOBODY = 65534


class FiveWays(Case):
    def assert_told(self, stderr, error, *says):
        self.assertRegex(stderr, r"\Atenon: [^\n]+\n\Z")
        for text in says:
            self.assertIn(str(text), stderr)
        named = re.search(r" \[docs/errors\.md#(\w+)\]\n\Z", stderr)
        self.assertIsNotNone(named, stderr)
        self.assertEqual(named.group(1), error)
        self.assertIn(f'<a id="{error}"></a>', ERRORS)

    def doctor_says(self, name, *says, owner=UID, **more):
        done = run("doctor", name, "--owner", owner, "--json", **more)
        self.assertEqual(done.returncode, 1, done.stdout)
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}["publication"]
        self.assertEqual(found["status"], "fail")
        for text in says:
            self.assertIn(str(text), found["detail"] + "\n" + found["advice"])

    def test_the_publisher_is_killed_while_a_reader_waits(self):
        name = unique_name()
        serve, dump = self.publisher_killed_under_a_dump(name, self.file(SMALL))
        self.assert_told(dump.stderr(), "PublisherGone", name, f"process {serve.pid}", "died", "attach again")
        self.doctor_says(name, "stale", serve.pid, "start the publisher again", "tenon gc")

    def test_dev_shm_is_full(self):
        name = unique_name()
        file = self.file([("large", "U8", [20 << 20], bytes(20 << 20))])
        with PrivateShm(8):
            done = self.run_tenon("serve", file, "--name", name, expect=1)
            self.assert_told(done.stderr, "OutOfSpace", "20 MiB", "/dev/shm has", "tenon gc", "remount,size=")
            self.assertEqual(os.listdir("/dev/shm"), [])

    def test_it_is_another_users(self):
        if UID != 0:
            skip_or_fail("becoming another user takes root")
        name = unique_name()
        # A copy: the build may lie where others cannot go.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        theirs = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": folder.name,
                  "program": shutil.copy(shutil.which(TENON), folder.name)}  # fmt: skip
        try:
            run("--version", **theirs)
        except PermissionError as error:
            skip_or_fail(f"cannot run as another user: {error}")
        self.serve(self.file(SMALL), name)
        done = self.run_tenon("get", name, "layer.0.weight", "--owner", UID, expect=6, **theirs)
        self.assert_told(done.stderr, "NotYours", segment_path(name), "Permission denied")
        self.doctor_says(name, "not-yours", "Permission denied", "--owner", **theirs)
        done = self.run_tenon("get", name, "layer.0.weight", "--timeout", "0", expect=3, **theirs)
        self.assert_told(done.stderr, "NotFound", f"tenon.{NOBODY}.{name}", "tenon ls")

    def test_the_name_is_wrong(self):
        name = unique_name()
        self.serve(self.file(SMALL), name)
        done = self.run_tenon("get", name + "x", "layer.0.weight", "--timeout", "0", expect=3)
        self.assert_told(done.stderr, "NotFound", segment_path(name + "x"), "tenon ls")
        self.doctor_says(name + "x", "absent", "--owner", "tenon ls")
        done = self.run_tenon("get", name, "layer.0.wieght", expect=3)
        self.assert_told(done.stderr, "NoSuchParameter", "layer.0.wieght", "layer.0.weight")
        done = self.run_tenon("get", "no/name", "a", expect=2)
        self.assert_told(done.stderr, "InvalidName", "no/name", "1 to 64 of A-Z")

    def test_it_is_of_another_version(self):
        name = unique_name()
        with open(segment_path(name), "wb") as file:
            file.write(struct.pack("<QII", MAGIC, 99, 0) + bytes(8192))
        self.addCleanup(os.unlink, segment_path(name))
        done = self.run_tenon("get", name, "a", expect=6)
        self.assert_told(done.stderr, "WrongVersion", segment_path(name), "format 99.0", "1.x", "same version of Tenon")
        self.doctor_says(name, "wrong-version", "format 99.0", "rebuild one")
