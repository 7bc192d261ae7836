"""Signals, sudden deaths and what they leave behind."""

import os
import signal
import unittest

from support import KIND, OBJECTS, Case, PrivateShm, large, objects_of, pattern, unique_name, write_safetensors

SMALL = [("a", "F32", [2, 2], pattern(16)), ("b", "U8", [3], b"abc")]


class Ending(Case):
    def test_serve_ends_with_0_and_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number=number):
                name = unique_name()
                serve = self.serve(self.file(SMALL), name)
                instance = self.instance_of(name)
                self.assertEqual(len(objects_of(name, instance)), OBJECTS)
                serve.send(number)
                self.assertEqual(serve.wait(), 0, serve.stderr())
                self.assert_nothing_left(name, instance)

    def test_interrupt_inherited_ignored_or_blocked(self):
        """A script's `tenon serve … &` starts like this."""

        def ignore():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        def block():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])

        for prepare in (ignore, block):
            with self.subTest(prepare=prepare.__name__):
                name = unique_name()
                serve = self.serve(self.file(SMALL), name, preexec_fn=prepare)
                serve.send(signal.SIGINT)
                self.assertEqual(serve.wait(), 0)
                self.assert_nothing_left(name)

    def test_hangup_inherited_ignored_stays_ignored(self):
        """nohup tenon serve …"""
        name = unique_name()
        serve = self.serve(self.file(SMALL), name, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        serve.send(signal.SIGHUP)
        self.run_tenon("verify", name, self.file(SMALL))
        self.assertEqual(serve.stop(), 0)

    def test_signal_while_waiting_for_subscribers(self):
        name = unique_name()
        serve = self.start("serve", self.file(SMALL), "--name", name, "--subscribers", "2")
        serve.wait_for_stderr("still waiting")
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name)

    def test_signal_between_versions(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name, "--versions", "2", "--interval", "1h")
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name)

    def test_serving_goes_on_without_a_reader_of_its_output(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name, "--versions", "2", "--interval", "1s")
        serve.process.stdout.close()
        serve.wait_for_stderr("standard output")
        self.run_tenon("dump", name, self.path("o"), "--version", "2")
        self.assertEqual(serve.stop(), 0)


class Dying(Case):
    def test_killed_publisher_ends_a_waiting_dump_with_5(self):
        name = unique_name()
        serve, dump = self.publisher_killed_under_a_dump(name, self.file(SMALL))
        self.assertIn(str(serve.pid), dump.stderr())

    def test_closing_publisher_ends_a_waiting_dump_with_5(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        dump = self.waiting_dump(name)
        self.assertEqual(serve.stop(), 0)
        self.assertEqual(dump.wait(), 5)

    def test_killed_subscriber_is_forgotten(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name, "--versions", "2", "--interval", "3s")
        dump = self.waiting_dump(name, 9)
        dump.send(signal.SIGKILL)
        dump.wait()
        self.assertIn("version=2 ", serve.line())
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name)

    def test_name_that_appears_while_dump_waits(self):
        name = unique_name()
        dump = self.start("dump", name, self.path("o"), "--timeout", "50s")
        self.serve(self.file(SMALL), name)
        self.assertEqual(dump.wait(), 0, dump.stderr())


class Leftovers(Case):
    """Runs in a /dev/shm of its own where it can: a cleaner of another test would take what is looked at."""

    @classmethod
    def setUpClass(cls):
        cls.shm = None
        try:
            cls.shm = PrivateShm(256).__enter__()
        except BaseException:
            pass

    @classmethod
    def tearDownClass(cls):
        if cls.shm:
            cls.shm.__exit__()

    def leftover(self):
        name = unique_name()
        serve = self.serve(self.file(SMALL), name)
        instance = self.instance_of(name)
        serve.send(signal.SIGKILL)
        serve.wait()
        self.assertEqual(len(objects_of(name, instance)), OBJECTS)
        return name, instance, serve.pid

    def test_reading_it_is_5_at_once(self):
        name, _, pid = self.leftover()
        for arguments in (["dump", name, self.path("o")], ["get", name, "a"], ["verify", name, self.file(SMALL)]):
            done = self.run_tenon(*arguments, "--timeout", "10m", expect=5)
            self.assertIn(str(pid), done.stderr)

    def test_it_can_be_looked_at(self):
        name, _, pid = self.leftover()
        seen = self.json_of("inspect", name)
        self.assertEqual((seen["state"], seen["pid"], seen["version"]), ("stale", pid, 1))
        listed = [p for p in self.json_of("ls") if p["name"] == name]
        self.assertEqual([p["state"] for p in listed], ["stale"])
        self.assertRegex(self.run_tenon("ls").stdout, rf"(?m)^{name} +stale ")

    def test_the_next_publisher_replaces_it_and_says_so(self):
        name, instance, pid = self.leftover()
        serve = self.serve(self.file(SMALL), name)
        self.assertIn("replaced", serve.stderr())
        self.assertIn(str(pid), serve.stderr())
        self.run_tenon("verify", name, self.file(SMALL))
        self.assertEqual(objects_of("none", instance), [])
        self.assertEqual(serve.stop(), 0)
        self.assert_nothing_left(name, instance)

    def test_quiet_says_nothing_of_it(self):
        name, _, _ = self.leftover()
        serve = self.serve(self.file(SMALL), name, "--quiet")
        self.assertEqual(serve.stderr(), "")


@unittest.skipIf(KIND == "cuda", "of /dev/shm; of GPU memory in test_gpu")
class TooSmall(Case):
    def test_serve_names_both_sizes_and_leaves_nothing(self):
        file = write_safetensors(self.path("big.safetensors"), [large(8)])
        with PrivateShm(4):
            done = self.run_tenon("serve", file, "--name", "big", expect=1)
            self.assertIn("8 MiB", done.stderr)
            self.assertIn("4 MiB", done.stderr)
            self.assertIn("size=", done.stderr)  # how to enlarge it
            self.assertEqual(os.listdir("/dev/shm"), [])

    def test_demo_says_what_would_fit(self):
        with PrivateShm(700):
            done = self.run_tenon("demo", expect=1)
            self.assertIn("--layers 1 ", done.stderr)
            self.assertEqual(os.listdir("/dev/shm"), [])
        with PrivateShm(4):
            self.assertIn("/dev/shm", self.run_tenon("demo", expect=1).stderr)
