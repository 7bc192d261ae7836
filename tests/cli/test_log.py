"""TENON_LOG: what is told, where it goes, and that standard output stays what it is."""

import signal
import unittest

from support import Case, environment, pattern, run, unique_name

SMALL = [("weight", "U8", [3], pattern(3))]


class Log(Case):
    def lives(self, level):
        """A publisher that is killed, its successor and a reader; (output, errors) of successor and of reader."""
        name = unique_name("log")
        env = environment(TENON_LOG=level)
        file = self.file(SMALL)
        killed = self.serve(file, name, "--quiet")
        killed.send(signal.SIGKILL)
        killed.wait()
        successor = self.start("serve", file, "--name", name, "--quiet", env=env)
        first = successor.line().replace(name, "NAME").split(" seconds")[0]
        reader = self.run_tenon("get", name, "weight", env=env)
        self.assertEqual(successor.stop(), 0)
        return (first, successor.stderr()), (reader.stdout.replace(name, "NAME"), reader.stderr), name

    def test_tells_who_comes_and_goes(self):
        (_, publisher), (_, reader), name = self.lives("debug")
        for line in (f"tenon: info: published '{name}': 1 parameters in 1 buckets", f"tenon: info: closing '{name}'"):
            self.assertIn(line, publisher)
        self.assertRegex(publisher, rf"tenon: warn: replaced /dev/shm/tenon\.\d+\.{name}, left behind by process \d+")
        self.assertRegex(reader, rf"tenon: debug: place 0 of '\S*{name}' claimed\n")
        self.assertRegex(reader, rf"tenon: debug: slot 0 of '\S*{name}' opened: \d+ bytes\n")
        self.assertRegex(reader, rf"tenon: info: attached to '\S*{name}', place 0, published by process \d+\n")
        self.assertRegex(reader, rf"tenon: info: detached from '\S*{name}', place 0\n")

    def test_info_tells_no_details(self):
        (_, publisher), (_, reader), _ = self.lives("info")
        self.assertIn("tenon: info: published", publisher)
        self.assertNotIn("debug", publisher + reader)

    def test_off_and_default_say_nothing_and_output_is_the_same(self):
        loud, quiet, default = self.lives("debug"), self.lives("off"), self.lives("")
        for calm in (quiet, default):
            self.assertEqual((calm[0][1], calm[1][1]), ("", ""))
            self.assertEqual((calm[0][0], calm[1][0]), (loud[0][0], loud[1][0]))

    def test_debug_tells_the_error_that_is_thrown(self):
        done = run("get", unique_name(), "x", "--timeout", "0", env=environment(TENON_LOG="debug"))
        self.assertEqual(done.returncode, 3)
        self.assertIn("tenon: debug: NotFound: attaching to", done.stderr)


if __name__ == "__main__":
    unittest.main()
