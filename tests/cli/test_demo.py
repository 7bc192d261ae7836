"""tenon demo: hands over a small model, and ends well however it ends."""

import os
import signal

from support import MEMORY, Case, children_of, look_at, objects_of, pattern, wait_until

TENSORS = [(f"t{i}", "BF16", [50 + i, 9], pattern((50 + i) * 18, i)) for i in range(20)]
TENSORS += [("scalar", "F32", [], b"abcd"), ("empty", "U8", [0], b""), ("odd", "U8", [13], pattern(13))]
BYTES = sum(len(raw) for _, _, _, raw in TENSORS)


class Demo(Case):
    def test_every_mode_hands_over_every_byte(self):
        file = self.file(TENSORS)
        for mode in ("in-place", "double", "streaming"):
            with self.subTest(mode=mode):
                got = self.json_of("demo", "--model", file, "--mode", mode, "--versions", 4, "--subscribers", 3)
                self.assertEqual((got["mode"], got["memory"]), (mode, MEMORY))
                self.assertEqual((got["subscribers"], got["bytes"]), (3, BYTES))
                self.assertEqual(got["wrong"], 0)
                self.assertEqual([v["version"] for v in got["versions"]], [1, 2, 3, 4])
                for version in got["versions"]:
                    self.assertEqual((version["bytes"], version["wrong"]), (BYTES, 0))
                    for key in ("gather_ms", "gb_per_s", "share_of_copy", "visible_us", "verify_ms"):
                        self.assertGreaterEqual(version[key], 0)
                    self.assertLess(version["visible_us"], 60e6)

    def test_table(self):
        done = self.run_tenon("demo", "--model", self.file(TENSORS), "--versions", 2)
        self.assertRegex(done.stdout, r"(?m)^version +size +gather ms +GB/s +of copy +visible us +verify ms +wrong$")
        self.assertRegex(done.stdout, r"(?m)^ +2 +\S+ kB +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +0$")
        self.assertIn("0 bytes wrong", done.stdout)
        self.assertEqual(done.stderr, "")

    def test_bad_models(self):
        self.assertIn("llama-3.2-1b", self.run_tenon("demo", "--model", "nothing", expect=2).stderr)
        self.run_tenon("demo", "--model", self.file(TENSORS), "--layers", 1, expect=2)
        self.run_tenon("demo", "--layers", 99, expect=2)
        broken = self.path("broken.safetensors")
        with open(broken, "w") as out:
            out.write("nothing of the kind")
        self.run_tenon("demo", "--model", broken, expect=2)


class Endings(Case):
    """A demo that would go on for hours, ended in the middle."""

    def setUp(self):
        super().setUp()
        self.demo = self.start(
            "demo", "--model", self.file(TENSORS), "--versions", 1000000, "--json", start_new_session=True
        )
        self.name = f"demo-{self.demo.pid}"
        wait_until(lambda: look_at(self.name).get("version", 0) > 1, "the hand-over to begin")
        self.children = children_of(self.demo.pid)
        self.assertEqual(len(self.children), 3)
        described = look_at(self.name)
        self.instance, self.trainer = described["instance"], described["pid"]
        self.assertIn(self.trainer, self.children)

    def assert_all_gone(self):
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in self.children), "the children to end")
        wait_until(lambda: not objects_of(self.name, self.instance), "shared memory to be removed")

    def test_interrupt_from_the_terminal(self):
        os.killpg(self.demo.pid, signal.SIGINT)
        self.assertEqual(self.demo.wait(), 130, self.demo.stderr())
        self.assertEqual(objects_of(self.name, self.instance), [])
        self.assert_all_gone()

    def test_terminate_the_parent_alone(self):
        self.demo.send(signal.SIGTERM)
        self.assertEqual(self.demo.wait(), 130, self.demo.stderr())
        self.assertEqual(objects_of(self.name, self.instance), [])
        self.assert_all_gone()

    def test_a_killed_parent_takes_its_children_along(self):
        self.demo.send(signal.SIGKILL)
        self.demo.wait()
        self.assert_all_gone()

    def test_a_killed_inference_process(self):
        victim = next(pid for pid in self.children if pid != self.trainer)
        os.kill(victim, signal.SIGKILL)
        self.assertEqual(self.demo.wait(), 5, self.demo.stderr())
        self.assertIn(f"(process {victim}) was killed by signal 9", self.demo.stderr())
        self.assert_all_gone()

    def test_a_killed_trainer(self):
        os.kill(self.trainer, signal.SIGKILL)
        self.assertEqual(self.demo.wait(), 5, self.demo.stderr())
        self.assertIn(f"the trainer (process {self.trainer}) was killed by signal 9", self.demo.stderr())
        self.assert_all_gone()
