"""What takes long says so on a terminal, and nowhere else."""

import os
import pty
import select
import signal
import subprocess
import time

from support import (
    PATIENCE,
    TENON,
    Case,
    PrivateShm,
    children_of,
    environment,
    large,
    look_at,
    pattern,
    run,
    unique_name,
    wait_until,
)

SMALL = [("a", "F32", [2, 2], pattern(16))]
LARGE = [large(65)]  # more than is pre-faulted at once


class OnATerminal:
    """A `tenon` whose standard error is a terminal."""

    def __init__(self, *arguments, **more):
        self.master, slave = pty.openpty()
        more.setdefault("stdout", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [TENON, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=slave, **more
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

    def forget(self):
        """What it has said so far."""
        while select.select([self.master], [], [], 0)[0]:
            os.read(self.master, 65536)
        self.text = b""

    def stop(self):
        """All it said, when it was told to end."""
        self.process.send_signal(signal.SIGTERM)
        return self.read()

    def clean_up(self):
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
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
        self.assertEqual(on_screen(send.stop()), b"")

    def slow(self, **milliseconds):
        """The environment in which these calls take so long."""
        library = os.environ.get("TENON_TEST_SLOW_CALLS")
        if not library:
            self.skipTest("nothing to preload in this build")
        variables = {f"TENON_SLOW_{call.upper()}": str(time) for call, time in milliseconds.items()}
        return environment(LD_PRELOAD=library, **variables)

    def wiped(self, command):
        """All that it wrote until it ended well, of which nothing is left on the screen."""
        text = command.read()
        self.assertEqual((command.process.wait(PATIENCE), on_screen(text)), (0, b""))
        return text

    def dump_to_a_slow_disk(self, *arguments):
        name = unique_name()
        self.serve(self.file(SMALL), name, "--memory", "host")
        return self.wiped(self.terminal("dump", name, self.path("o"), *arguments, env=self.slow(fsync=5000)))

    def test_syncing_is_shown_and_wiped(self):
        self.assertIn(b"\r\033[Ktenon: syncing (2 s)", self.dump_to_a_slow_disk())

    def test_syncing_quietly(self):
        self.assertEqual(self.dump_to_a_slow_disk("--quiet"), b"")

    def wait_for_version(self, name, version=1):
        wait_until(lambda: look_at(name).get("version", 0) >= version, f"version {version} of '{name}'")

    def serve_slowly(self, *arguments):
        name = unique_name()
        slow = self.slow(madvise=1200, pread=600)
        serve = self.terminal("serve", self.file(LARGE), "--name", name, "--memory", "host", *arguments, env=slow)
        self.wait_for_version(name)
        return serve.stop()

    def test_serving_shows_what_it_allocates_and_reads(self):
        text = self.serve_slowly()
        self.assertIn(b"\r\033[Ktenon: allocating 67.1 MB of ", text)
        self.assertRegex(text, rb"\r\033\[Ktenon: reading [\d.]+ MB of 68")
        self.assertEqual(on_screen(text), b"")

    def test_serving_quietly(self):
        self.assertEqual(self.serve_slowly("--quiet"), b"")

    def demo_slowly(self, *arguments):
        line = ["demo", "--model", self.file(LARGE), "--memory", "host", "--versions", 1, "--subscribers", 1]
        return self.wiped(self.terminal(*line, *arguments, env=self.slow(madvise=1200)))

    def test_a_demo_shows_what_it_allocates(self):
        self.assertIn(b"\r\033[Ktenon: allocating 67.1 MB of ", self.demo_slowly())

    def test_a_demo_quietly(self):
        self.assertEqual(self.demo_slowly("--quiet"), b"")

    def stalled_demo(self, *arguments):
        """One whose inference process is stopped, and its process."""
        line = ["demo", "--model", self.file(SMALL), "--memory", "host", "--versions", 1000000, "--subscribers", 1]
        demo = self.terminal(*line, *arguments)
        name = f"demo-{demo.process.pid}"
        self.wait_for_version(name, 2)
        (inference,) = set(children_of(demo.process.pid)) - {look_at(name)["pid"]}
        os.kill(inference, signal.SIGSTOP)
        return demo, inference

    def test_a_demo_shows_that_versions_are_checked(self):
        quiet, held_quietly = self.stalled_demo("--quiet")
        demo, held = self.stalled_demo()
        demo.read(b"\r\033[Ktenon: checking every byte (2 s)")
        for process in (held_quietly, held):
            os.kill(process, signal.SIGCONT)
        self.assertEqual(on_screen(demo.stop()), b"")
        self.assertEqual(quiet.stop(), b"")

    def test_loading_what_streams_is_shown_and_wiped(self):
        name = unique_name()
        file = self.file([(f"t{i}", "U8", [900], pattern(900, i)) for i in range(8)])
        streaming = ["--mode", "streaming", "--bucket-size", "2KiB", "--subscribers", 3]
        self.start("serve", file, "--name", name, "--memory", "host", *streaming)
        quiet = self.terminal("dump", name, self.path("quiet"), "--timeout", "50s", "--quiet")
        dump = self.terminal("dump", name, self.path("o"), "--timeout", "50s")
        dump.read(f"\r\033[Ktenon: loading a version of '{name}' (2 s)".encode())
        self.run_tenon("dump", name, self.path("third"), "--timeout", "50s")
        self.assertEqual((on_screen(dump.read()), dump.process.wait(PATIENCE)), (b"", 0))
        self.assertEqual((quiet.read(), quiet.process.wait(PATIENCE)), (b"", 0))

    def test_looking_at_a_slow_machine_is_shown_and_wiped(self):
        slow = self.slow(statfs=2500)
        text = self.terminal("doctor", env=slow).read()
        self.assertIn(b"\r\033[Ktenon: looking at this machine (2 s)", text)
        self.assertEqual(on_screen(text), b"")
        self.assertEqual(self.terminal("doctor", "--quiet", env=slow).read(), b"")

    def test_removing_leftovers_is_shown_and_wiped(self):
        slow = self.slow(shm_unlink=1200)
        with PrivateShm(64):
            for arguments in ([], ["--quiet"]):
                serve = self.serve(self.file(SMALL), unique_name(), "--memory", "host")
                serve.send(signal.SIGKILL)
                serve.wait()
                text = self.terminal("gc", *arguments, env=slow).read()
                self.assertEqual(b"\r\033[Ktenon: removing leftovers (1 s)" in text, not arguments, text)
                self.assertEqual(on_screen(text), b"")
                self.assertEqual(b"\033" in text, not arguments, text)

    # Relays, all on this node.

    def relay(self, tensors, *arguments):
        """A publication and its sender, which joins it; what a receiver of it is started with."""
        if run("relay", "send", "--help").returncode != 0:
            self.skipTest("built without the relay")
        name = unique_name()
        self.serve(self.file(tensors), name, "--memory", "host", *arguments)
        send = self.terminal("relay", "send", name, stdout=subprocess.PIPE)
        listening = send.process.stdout.readline().decode()
        self.assertIn("address=", listening)
        return send, ["relay", "recv", name, "--from", listening.split("address=")[1].strip(), "--mode", "in-place"]

    def test_receiving_shows_what_it_allocates_and_joins_no_more(self):
        _, recv = self.relay(LARGE)
        name = unique_name()
        receiver = self.terminal(*recv, "--as", name, env=self.slow(madvise=1500))
        receiver.read(b"\r\033[Ktenon: allocating 67.1 MB of ")
        self.wait_for_version(name)
        text = receiver.stop()
        self.assertNotIn(b"joining 127", text[text.index(b"allocating") :])
        self.assertEqual(on_screen(text), b"")

    def test_every_group_of_relays_is_shown(self):
        send, recv = self.relay(SMALL)
        first, second, quiet = unique_name(), unique_name(), unique_name()
        slow = self.slow(madvise=2500)  # a member that comes late
        receiver = self.terminal(*recv, "--as", first)
        self.wait_for_version(first)
        other = self.terminal(*recv, "--as", second, env=slow)
        other.read(b"\r\033[Ktenon: joining 127.0.0.1:")
        send.read(b"\r\033[Ktenon: forming group 2 (1 s)")
        receiver.read(b"\r\033[Ktenon: joining group 2 (1 s)")
        self.wait_for_version(second)
        silent = self.terminal(*recv, "--as", quiet, "--quiet", env=slow)
        send.read(b"\r\033[Ktenon: forming group 3 (1 s)")
        self.wait_for_version(quiet)
        self.assertEqual(silent.stop(), b"")
        for relay in (receiver, other, send):
            self.assertEqual(on_screen(relay.stop()), b"")

    def test_every_version_that_waits_for_room_is_shown(self):
        send, recv = self.relay(SMALL, "--versions", 99, "--interval", "1s")
        name = unique_name()
        receiver = self.terminal(*recv, "--as", name)
        self.wait_for_version(name)
        for _ in range(2):
            reader = self.start("dump", name, self.path("o"), env=self.slow(pwrite=60000))  # it holds a version
            receiver.read(b"\r\033[Ktenon: making room for version ")
            send.read(b"\r\033[Ktenon: offering version ")
            held = look_at(name)["version"]
            reader.clean_up()
            self.wait_for_version(name, held + 1)
            receiver.forget()
            send.forget()
        for relay in (receiver, send):
            self.assertEqual(on_screen(relay.stop()), b"")

    def test_quiet_is_quiet(self):
        for arguments in (
            ["get", unique_name(), "a"],
            ["dump", unique_name(), self.path("o")],
            ["verify", unique_name(), self.file(SMALL)],
            ["relay", "send", unique_name()],
            ["relay", "recv", unique_name(), "--from", "127.0.0.1:1"],
        ):
            with self.subTest(command=arguments[:2]):
                text = self.terminal(*arguments, "--timeout", "1500ms", "--quiet").read()
                self.assertNotIn(b"\033", text)
                self.assertEqual(text.count(b"\n"), 1, text)  # the error

    def test_a_pipe_gets_none(self):
        done = run("get", unique_name(), "a", "--timeout", "1500ms")
        self.assertNotIn("\033", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_every_command_that_has_progress_can_be_quiet(self):
        for command in (["serve"], ["dump"], ["get"], ["verify"], ["demo"], ["doctor"], ["gc"], ["relay", "send"], ["relay", "recv"]):
            with self.subTest(command=command):
                done = run(*command, "--help")
                if command[0] == "relay" and done.returncode != 0:
                    continue  # built without it
                self.assertIn("--quiet", done.stdout)
