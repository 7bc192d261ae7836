"""What takes long says so on a terminal, and nowhere else."""

import os
import pty
import select
import signal
import subprocess
import time

from support import PATIENCE, TENON, Case, environment, pattern, run, unique_name

SMALL = [("a", "F32", [2, 2], pattern(16))]


class OnATerminal:
    """A `tenon` whose standard error is a terminal."""

    def __init__(self, *arguments, **more):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [TENON, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave, **more
        )
        os.close(slave)
        self.text = b""

    def read(self, until=None):
        """All it says until it ends, or until it has said that."""
        deadline = time.monotonic() + PATIENCE
        while until is None or until not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"waited in vain; it said {self.text!r}")
            try:
                more = os.read(self.master, 65536)
            except OSError:  # nobody writes any more
                more = b""
            if not more:
                if until is not None:
                    raise AssertionError(f"it ended, and said {self.text!r}")
                break
            self.text += more
        return self.text

    def clean_up(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def on_screen(text):
    """What a terminal shows at the end of its last line."""
    return text.replace(b"\r\n", b"\n").split(b"\n")[-1].split(b"\r\033[K")[-1]


class Shown(Case):
    def terminal(self, *arguments, **more):
        terminal = OnATerminal(*arguments, **more)
        self.addCleanup(terminal.clean_up)
        return terminal

    def test_waiting_for_a_name_is_shown_and_wiped(self):
        name = unique_name()
        get = self.terminal("get", name, "a", "--timeout", "50s")
        get.read(f"\r\033[Ktenon: waiting for '{name}' (2 s)".encode())
        self.serve(self.file(SMALL), name, "--memory", "host")
        self.assertEqual(on_screen(get.read()), b"")
        self.assertEqual(get.process.wait(PATIENCE), 0)

    def test_waiting_for_a_version_is_shown_and_the_error_begins_a_line(self):
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "host")
        dump = self.terminal("dump", name, self.path("o"), "--version", "2", "--timeout", "2500ms")
        text = dump.read()
        self.assertIn(f"tenon: waiting for a version of '{name}' (1 s)".encode(), text)
        self.assertIn(b"\r\033[Ktenon: '" + name.encode() + b"' had no version 2", text)
        self.assertEqual(dump.process.wait(PATIENCE), 4)

    def test_a_relay_says_what_it_waits_for(self):
        send = self.terminal("relay", "send", unique_name(), "--timeout", "50s")
        if b"built without" in send.read(b"tenon: "):
            self.skipTest("built without the relay")
        send.read(b"tenon: waiting for '")
        send.process.send_signal(signal.SIGTERM)
        self.assertEqual(on_screen(send.read()), b"")

    def dump_to_a_slow_disk(self, *arguments):
        library = os.environ.get("TENON_TEST_SLOW_FSYNC")
        if not library:
            self.skipTest("nothing to preload in this build")
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "host")
        dump = self.terminal("dump", name, self.path("o"), *arguments, env=environment(LD_PRELOAD=library))
        text = dump.read()
        self.assertEqual((dump.process.wait(PATIENCE), on_screen(text)), (0, b""))
        return text

    def test_syncing_is_shown_and_wiped(self):
        self.assertIn(b"\r\033[Ktenon: syncing (2 s)", self.dump_to_a_slow_disk())

    def test_syncing_quietly(self):
        self.assertEqual(self.dump_to_a_slow_disk("--quiet"), b"")

    def test_quiet_is_quiet(self):
        for arguments in (
            ["get", unique_name(), "a"],
            ["dump", unique_name(), self.path("o")],
            ["verify", unique_name(), self.file(SMALL)],
        ):
            with self.subTest(command=arguments[0]):
                text = self.terminal(*arguments, "--timeout", "1500ms", "--quiet").read()
                self.assertNotIn(b"\033", text)
                self.assertEqual(text.count(b"\n"), 1, text)  # the error

    def test_a_pipe_gets_none(self):
        done = run("get", unique_name(), "a", "--timeout", "1500ms")
        self.assertNotIn("\033", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_every_command_that_has_progress_can_be_quiet(self):
        for command in (["serve"], ["dump"], ["get"], ["verify"], ["demo"], ["doctor"], ["relay", "send"], ["relay", "recv"]):
            with self.subTest(command=command):
                done = run(*command, "--help")
                if command[0] == "relay" and done.returncode != 0:
                    continue  # built without it
                self.assertIn("--quiet", done.stdout)
