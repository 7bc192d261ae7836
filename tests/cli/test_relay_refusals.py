"""What relays wait for, and what they refuse: exit codes, messages, leftovers."""

import os
import signal
import subprocess
import sys
import unittest

from relays import MIB, NAME, SENDER, SMALL, RelayCase, Trainer
from support import KIND, large, pattern


class Waiting(RelayCase):
    """For others, which an interrupt ends too."""

    def assert_interrupt_ends(self, process):
        process.send(signal.SIGINT)
        self.assertEqual(process.wait(10), 0, process.stderr())

    def test_for_a_publication(self):
        send = self.start_on(1, *self.send_arguments("--timeout", "10m"))
        trainer = Trainer(self, SMALL)
        self.assertEqual(send.line(), f"listening {NAME} address={SENDER}")
        self.recv(2)
        self.assert_serves(2, 1, SMALL)
        trainer.end()
        send.wait_for_stderr("waiting for its successor")
        self.assert_interrupt_ends(send)

    def test_for_a_sender(self):
        recv = self.start_on(2, *self.recv_arguments("--timeout", "10m"))
        Trainer(self, SMALL)
        self.send()
        self.assert_serves(2, 1, SMALL)
        self.assert_interrupt_ends(recv)

    def test_for_an_answer(self):
        listening = (
            "import socket, sys; s = socket.create_server(('10.77.0.1', 4712)); print(flush=True);"
            "peer = s.accept(); print(flush=True); sys.stdin.read()"
        )
        silent = subprocess.Popen(
            [*self.network.nodes[1].enter, sys.executable, "-c", listening],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(silent.communicate)
        silent.stdout.readline()
        recv = self.start_on(
            2, "relay", "recv", NAME, "--from", "10.77.0.1:4712", "--secret-file", self.secret, "--timeout", "10m"
        )
        silent.stdout.readline()  # it has come
        self.assert_interrupt_ends(recv)

    def test_for_a_lost_sender_as_long_as_it_is_told_to(self):
        Trainer(self, SMALL)
        send = self.send()
        recv = self.recv(2, "--rejoin", "500ms")
        self.assert_serves(2, 1, SMALL)
        self.assertEqual(send.stop(), 0)
        self.assertEqual(recv.wait(), 5)
        self.assertRegex(recv.stderr(), r"(?m)^tenon: lost the sender: .*\ntenon: .* and then: .*nobody listens there")

    def test_for_the_successor_of_a_killed_trainer(self):
        trainer = Trainer(self, SMALL)
        send = self.send()
        self.recv(2)
        self.assert_serves(2, 1, SMALL)
        before = self.instance_on(2)
        trainer.serve.send(signal.SIGKILL)
        trainer.serve.wait()
        send.wait_for_stderr("waiting for its successor")
        self.assert_serves(2, 1, SMALL)
        other = [("another", "I32", [5], pattern(20))]
        Trainer(self, other)
        self.assert_is_followed(other, before)
        self.assertEqual(send.stderr().count("waiting for its successor"), 1)
        self.assert_interrupt_ends(send)


class Refusals(RelayCase):
    """What does not fit, with the exit code and a line that says what to do."""

    SHM = (256, 256, 6)

    def assert_refused(self, number, arguments, code, text, **more):
        done = self.on(number, *arguments, expect=code, **more)
        self.assertRegex(done.stderr, text)
        return done

    def recv_with(self, secret, *more):
        return ["relay", "recv", NAME, "--from", SENDER, "--secret-file", secret, *more]

    def test_of_the_secret(self):
        Trainer(self, SMALL)
        send = self.send()
        other = self.secret_file("another secret than theirs", name="other")
        self.assert_refused(2, self.recv_with(other), 6, r"another secret|does not know the secret")
        readable = self.secret_file("a secret of both ends", 0o644, "readable")
        self.assert_refused(2, self.recv_with(readable), 2, r"others than its owner may use .* chmod 600")
        short = self.secret_file("fifteen bytes..", name="short")
        self.assert_refused(2, self.recv_with(short), 2, r"has 15 bytes")
        self.assert_refused(2, self.recv_with(self.path("none")), 1, r"No such file")
        self.assert_refused(2, ["relay", "recv", NAME, "--from", SENDER], 2, r"needs a secret that both ends know")
        self.assert_refused(
            1, ["relay", "send", NAME, "--listen", "0.0.0.0:4712"], 2, r"needs a secret that both ends know"
        )
        self.recv(2)
        self.assert_serves(2, 1, SMALL)
        self.assertEqual(send.stderr().count("joined"), 1)

    def test_of_the_address(self):
        Trainer(self, SMALL)
        self.send()
        for address, code, text in (
            (SENDER, 1, "another process listens on this port"),
            ("10.77.0.9:4711", 1, "no interface of this node has it"),
            ("nowhere", 2, "it has no port"),
            ("10.77.0.1:99999", 2, "its port is no number"),
        ):
            with self.subTest(listen=address):
                self.assert_refused(
                    1, ["relay", "send", NAME, "--listen", address, "--secret-file", self.secret], code, text
                )
        for address, code, text in (
            ("10.77.0.1:4712", 4, "nobody listens there"),
            ("10.77.0.9:4711", 4, "nothing answers there|there is no way there"),
            ("192.0.2.1:4711", 4, "there is no way there"),
            ("nowhere", 2, "it has no port"),
        ):
            with self.subTest(source=address):
                line = ["relay", "recv", NAME, "--from", address, "--secret-file", self.secret, "--timeout", "300ms"]
                self.assert_refused(2, line, code, text)

    def test_of_the_publication(self):
        self.assert_refused(1, self.send_arguments("--timeout", "100ms"), 3, "tenon ls")
        Trainer(self, SMALL)
        self.send()
        other = ["relay", "recv", "critic", "--from", SENDER, "--secret-file", self.secret]
        self.assert_refused(2, other, 6, f"hands on '{NAME}', not 'critic'")
        self.start_on(2, "serve", self.file(SMALL), "--name", NAME).line()
        self.assert_refused(2, self.recv_arguments(), 6, f"{NAME}' is in use: published by process")
        self.recv_as("policy.copy")

    def recv_as(self, name):
        process = self.start_on(2, *self.recv_arguments("--as", name))
        self.assertEqual(process.line(), f"receiving {name} from={SENDER}")
        self.on(2, "verify", name, self.path(f"{NAME}.safetensors"), "--timeout", "30s")

    def test_of_a_publication_whose_trainer_is_dead(self):
        trainer = Trainer(self, SMALL)
        trainer.serve.send(signal.SIGKILL)
        trainer.serve.wait()
        self.assert_refused(1, self.send_arguments("--timeout", "1s"), 5, f"attaching to '{NAME}': .*tenon gc")
        self.on(1, "gc")

    def test_of_a_source_that_streams(self):
        tensors = [(f"t{i}", "U8", [2048], pattern(2048, i)) for i in range(4)]
        self.start_on(
            1, "serve", self.file(tensors), "--name", NAME, "--mode", "streaming", "--bucket-size", "2KiB"
        )
        self.assert_refused(1, self.send_arguments(), 1, f"'{NAME}': it streams")

    def test_of_memory_that_is_not_there(self):
        Trainer(self, SMALL)
        self.send()
        none = {"CUDA_VISIBLE_DEVICES": "", "TENON_SIM_DRIVER": "0"}
        self.assert_refused(2, self.recv_arguments("--memory", "cuda"), 1, "GPU", env=none)
        if KIND == "cuda":
            self.assert_refused(2, self.recv_arguments(), 1, "GPU", env=none)
        self.recv(2, "--memory", "host", env=none)
        self.assert_serves(2, 1, SMALL)

    @unittest.skipIf(KIND == "cuda", "of /dev/shm")
    def test_without_room_for_the_slots(self):
        Trainer(self, [large(8)])
        send = self.send()
        before = self.network.nodes[3].received()
        done = self.assert_refused(3, self.recv_arguments(), 1, "16 MiB")
        self.assertIn("6 MiB", done.stderr)
        self.assertEqual(os.listdir(self.network.nodes[3].shm), [])
        self.assertLess(self.network.nodes[3].received() - before, MIB)
        self.recv(2)
        self.assert_serves(2, 1, [large(8)])
        self.assertEqual(send.stderr().count(" left"), 1)

    def test_of_those_who_talk_something_else(self):
        """Beside them a relay goes on."""
        content = lambda seed: [("a", "U8", [4096], pattern(4096, seed))]
        trainer = Trainer(self, content(1))
        send = self.send()
        self.recv(2)
        self.assert_serves(2, 1, content(1))
        host, port = SENDER.split(":")
        garbage = f"exec 3<>/dev/tcp/{host}/{port}; head -c 100000 /dev/urandom >&3; cat <&3 >/dev/null"
        silence = f"exec 3<>/dev/tcp/{host}/{port}; echo here; exec cat <&3 >/dev/null"
        node = self.network.nodes[3]
        silent = [
            subprocess.Popen([*node.enter, "bash", "-c", silence], stdout=subprocess.PIPE) for _ in range(20)
        ]
        for process in silent:
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
            self.assertEqual(process.stdout.readline(), b"here\n")
        for _ in range(5):  # ends: they are sent away
            subprocess.run([*node.enter, "bash", "-c", garbage], stderr=subprocess.DEVNULL, timeout=60)
        self.recv(3)  # there is a place for it
        trainer.publish(content(2))
        for number in (2, 3):
            self.assert_serves(number, 2, content(2))
        self.assertEqual(send.stderr().count("joined"), 2)
        self.assertNotIn("left", send.stderr())
