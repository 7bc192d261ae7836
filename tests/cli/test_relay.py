"""Whole relays between nodes that are namespaces: what arrives, who dies, what is refused, what is left behind."""

import glob
import json
import os
import shutil
import signal
import subprocess
import unittest

from nodes import network
from support import (
    KIND,
    Case,
    every_dtype,
    large,
    pattern,
    read_safetensors,
    run,
    safetensors_bytes,
    wait_until,
)

NAME = "policy"
SENDER = "10.77.0.1:4711"
SMALL = [("a", "F32", [2, 2], pattern(16)), ("b", "U8", [3], b"abc")]
ENGINE = "gloo" if KIND == "host" else "nccl"
MIB = 1 << 20


class Trainer:
    """A `tenon serve` that publishes a version when the test says so: in between it is stopped."""

    def __init__(self, case, tensors, *options, metadata=None):
        self.case = case
        self.file = case.path(f"{NAME}.safetensors")
        self.metadata = metadata
        self.write(tensors)
        self.serve = case.start_on(
            1, "serve", self.file, "--name", NAME, "--versions", 99, "--interval", "1s", *options
        )
        self.version = 0
        self.await_version()

    def write(self, tensors):
        with open(self.file + ".new", "wb") as file:
            file.write(safetensors_bytes(tensors, self.metadata))
        os.replace(self.file + ".new", self.file)

    def await_version(self):
        line = self.serve.line()
        self.serve.send(signal.SIGSTOP)
        self.version += 1
        self.case.assertIn(f"published {NAME} version={self.version} ", line)
        return self.version

    def publish(self, tensors):
        self.write(tensors)
        self.serve.send(signal.SIGCONT)
        return self.await_version()

    def end(self):
        self.serve.send(signal.SIGCONT)
        return self.serve.stop()


class RelayCase(Case):
    """Has a network, whose nodes are clean when a test ends."""

    SHM = (256, 256, 256)

    @classmethod
    def setUpClass(cls):
        cls.network = network(*cls.SHM)
        cls.addClassCleanup(cls.network.end)

    def setUp(self):
        super().setUp()
        self.secret = self.secret_file("a secret of both ends")
        self.addCleanup(self.assert_clean_nodes)  # behind the processes, which are started later

    def assert_clean_nodes(self):
        left = {}
        for number, node in self.network.nodes.items():
            if KIND == "cuda":
                self.node.remove(node.shm)
            left[number] = os.listdir(node.shm)
            for name in left[number]:  # no other test's
                os.unlink(os.path.join(node.shm, name))
        self.assertEqual(left, {number: [] for number in self.network.nodes})

    def secret_file(self, text, mode=0o600, name="secret"):
        path = self.path(name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    # The command on a node.

    def on(self, number, *arguments, env=None, **more):
        node = self.network.nodes[number]
        return self.run_tenon(*arguments, inside=node.enter, env={**node.environment(), **(env or {})}, **more)

    def start_on(self, number, *arguments, env=None):
        node = self.network.nodes[number]
        return self.start(*arguments, inside=node.enter, env={**node.environment(), **(env or {})})

    def send_arguments(self, *more):
        return ["relay", "send", NAME, "--listen", SENDER, "--secret-file", self.secret, *more]

    def recv_arguments(self, *more):
        return ["relay", "recv", NAME, "--from", SENDER, "--secret-file", self.secret, *more]

    def send(self, *more):
        process = self.start_on(1, *self.send_arguments(*more))
        self.assertEqual(process.line(), f"listening {NAME} address={SENDER}")
        return process

    def recv(self, number, *more, **how):
        process = self.start_on(number, *self.recv_arguments(*more), **how)
        self.assertEqual(process.line(), f"receiving {NAME} from={SENDER}")
        return process

    # What is true of a node.

    def assert_serves(self, number, version, tensors, metadata=None):
        """Waits until it does, with every byte."""
        out = self.path(f"out.{number}.safetensors")
        done = self.on(number, "dump", NAME, out, "--version", version, "--timeout", "30s")
        self.assertIn(f"version={version} ", done.stdout)
        found, found_metadata = read_safetensors(out)
        self.assertEqual(found, {n: (dtype, shape, raw) for n, dtype, shape, raw in tensors})
        self.assertEqual(found_metadata, metadata)

    def instance_on(self, number):
        node = self.network.nodes[number]
        done = run("inspect", NAME, "--json", inside=node.enter, env=node.environment())
        return json.loads(done.stdout)["instance"] if done.returncode == 0 else None

    def assert_is_followed(self, tensors, before):
        """Node 2 comes to serve version 1 of another instance."""
        wait_until(lambda: self.instance_on(2) not in (None, before), "another publication on node 2")
        self.assert_serves(2, 1, tensors)

    def wait_for_bytes(self, number, count):
        """Until so many more have come: the middle of a transfer, where more are on their way."""
        node = self.network.nodes[number]
        before = node.received()
        wait_until(lambda: node.received() > before + count, f"{count} bytes to come to node {number}")

    def slow_down(self, rate):
        if not shutil.which("tc"):
            self.skipTest("there is no tc, which makes a link slow")
        self.network.slow(rate)
        self.addCleanup(self.network.fast)

    def line_that(self, process, begins):
        """The next line that begins so."""
        while True:
            line = process.line()
            if line.startswith(begins):
                return line


class Versions(RelayCase):
    def check(self, receivers, *send_options):
        metadata = {"format": "pt", "note": "ünïcode\n"}
        content = lambda seed: [*every_dtype(seed), large(3, seed)]
        trainer = Trainer(self, content(1), "--bucket-size", "1MiB", metadata=metadata)
        send = self.send("--expect", len(receivers), *send_options)
        recvs = [self.recv(number) for number in receivers]
        for seed in (1, 2, 3):
            version = trainer.publish(content(seed)) if seed > 1 else 1
            for number in receivers:
                self.assert_serves(number, version, content(seed), metadata)
                done = self.on(number, "verify", NAME, trainer.file)
                self.assertRegex(done.stdout, rf"verified {NAME} version={version} .* differing=0")
            self.line_that(send, f"sent {NAME} version={version} receivers={len(receivers)} ")
        for process in (*recvs, send):
            self.assertEqual(process.stop(), 0, process.stderr())
        self.assertEqual(trainer.end(), 0)

    def test_every_byte_comes_to_another_node(self):
        self.check([2])

    def test_every_byte_comes_to_two_other_nodes(self):
        self.check([2, 3])

    @unittest.skipIf(KIND == "host", "host memory has no other engine")
    def test_gpu_memory_through_host_memory(self):
        self.check([2, 3], "--engine", "gloo")

    @unittest.skipIf(KIND == "host", "host memory is all there is")
    def test_from_gpu_memory_to_host_memory(self):
        trainer = Trainer(self, SMALL)
        send = self.send()
        self.recv(2, "--memory", "host")
        self.assert_serves(2, 1, SMALL)
        self.assertEqual(json.loads(self.on(2, "inspect", NAME, "--json").stdout)["memory"], "host")
        self.assertIn("engine=gloo", self.line_that(send, "group "))
        trainer.end()

    def test_who_comes_late_gets_the_current_version(self):
        content = lambda seed: [("a", "U8", [4096], pattern(4096, seed))]
        trainer = Trainer(self, content(1))
        trainer.publish(content(2))
        self.send()
        self.recv(2)
        self.assert_serves(2, 2, content(2))
        self.recv(3)
        self.assert_serves(3, 2, content(2))
        trainer.publish(content(3))
        for number in (2, 3):
            self.assert_serves(number, 3, content(3))

    def test_a_trainer_that_starts_again_is_followed(self):
        trainer = Trainer(self, SMALL)
        send = self.send()
        self.recv(2)
        self.assert_serves(2, 1, SMALL)
        before = self.instance_on(2)
        trainer.end()
        send.wait_for_stderr("waiting for its successor")
        other = [("another", "I32", [5], pattern(20))]
        Trainer(self, other)
        self.assert_is_followed(other, before)


class Output(RelayCase):
    VERSION = {
        "event": str, "name": str, "version": int, "receivers": int, "buckets": int, "kept": int, "bytes": int,
        "seconds": float, "wire_seconds": float, "prepare_seconds": float, "waited_seconds": float,
    }  # fmt: skip
    GROUP = {
        "event": str, "group": int, "receivers": int, "engine": str, "setup_seconds": float, "warm_up_seconds": float,
    }  # fmt: skip

    def assert_fields(self, line, types, **values):
        event = json.loads(line)
        self.assertEqual({key: type(value) for key, value in event.items()}, types)
        self.assertEqual({key: event[key] for key in values}, values)
        for key in types:
            if key.endswith("seconds"):
                self.assertGreaterEqual(event[key], 0)
        return event

    def test_json_has_an_object_on_each_line(self):
        size = 2 * MIB
        Trainer(self, [large(2)], "--bucket-size", "1MiB")
        send = self.start_on(1, *self.send_arguments("--json"))
        self.assertEqual(json.loads(send.line()), {"event": "listening", "name": NAME, "address": SENDER})
        recv = self.start_on(2, *self.recv_arguments("--json"))
        self.assertEqual(json.loads(recv.line()), {"event": "receiving", "name": NAME, "from": SENDER})
        for process, event in ((send, "sent"), (recv, "received")):
            group = self.assert_fields(process.line(), self.GROUP, event="group", group=1, receivers=1, engine=ENGINE)
            self.assertGreater(group["setup_seconds"], 0)
            self.assertGreater(group["warm_up_seconds"], 0)
            version = self.assert_fields(
                process.line(), self.VERSION, event=event, name=NAME, version=1, receivers=1, kept=0, bytes=size
            )
            self.assertGreater(version["seconds"], 0)
            self.assertLessEqual(version["wire_seconds"], version["seconds"])

    def test_notes_say_what_happens_and_quiet_leaves_them_out(self):
        Trainer(self, SMALL)
        send = self.send()
        for options in ([], ["--quiet"]):
            first = self.recv(2, *options)
            self.line_that(first, "received ")
            first.send(signal.SIGKILL)
            first.wait()
            second = self.recv(2, *options)
            self.line_that(second, "received ")
            if options:
                self.assertEqual(second.stderr(), "")
            else:
                self.assertRegex(second.stderr(), rf"\Atenon: [^\n]*replaced[^\n]* {first.pid}[^\n]*\n\Z")
            self.assertEqual(second.stop(), 0)
            who = rf"tenon: receiver 10.77.0.2 \([^\n]*, pid {second.pid}\)"
            send.wait_for_stderr(f"pid {second.pid}) left: ")
            self.assertRegex(send.stderr(), rf"(?m)^{who} joined\n{who} left: ")

    def test_the_publication_there_can_be_looked_at(self):
        Trainer(self, SMALL)
        self.send()
        recv = self.recv(2, "--label", "from the trainer")
        self.assert_serves(2, 1, SMALL)
        seen = json.loads(self.on(2, "inspect", NAME, "--json").stdout)
        self.assertEqual(
            (seen["version"], seen["pid"], seen["label"], seen["memory"], seen["mode"], seen["parameter_count"]),
            (1, recv.pid, "from the trainer", KIND, "double", 2),
        )
        self.assertRegex(self.on(2, "ls").stdout, rf"(?m)^{NAME} +")
        self.assertEqual(self.on(2, "get", NAME, "b").returncode, 0)
        self.assertEqual(json.loads(self.on(3, "ls", "--json").stdout), [])


class Deaths(RelayCase):
    """Of processes, in the middle of a transfer: links are so slow that it takes seconds."""

    BIG = 12  # MiB

    def content(self, seed):
        return [large(self.BIG, seed)]

    def begin(self, *receivers):
        trainer = Trainer(self, self.content(1), "--bucket-size", "2MiB")
        # No deadline comes to anybody's help.
        send = self.send("--expect", len(receivers), "--deadline", "10m")
        recvs = {number: self.recv(number) for number in receivers}
        for number in receivers:
            self.assert_serves(number, 1, self.content(1))
        self.slow_down("40mbit")
        return trainer, send, recvs

    def test_a_killed_receiver_is_left_behind_and_its_successor_catches_up(self):
        trainer, send, recvs = self.begin(2, 3)
        trainer.publish(self.content(2))
        self.wait_for_bytes(2, 2 * MIB)
        recvs[2].send(signal.SIGKILL)
        self.network.fast()
        self.assert_serves(3, 2, self.content(2))
        send.wait_for_stderr(f"pid {recvs[2].pid}) left")
        self.recv(2)
        self.assert_serves(2, 2, self.content(2))
        trainer.publish(self.content(3))
        for number in (2, 3):
            self.assert_serves(number, 3, self.content(3))

    def test_a_killed_sender_leaves_the_last_version_whole(self):
        trainer, send, recvs = self.begin(2, 3)
        trainer.publish(self.content(2))
        self.wait_for_bytes(2, 2 * MIB)
        send.send(signal.SIGKILL)
        for number in (2, 3):
            recvs[number].wait_for_stderr("lost the sender")
            self.assert_serves(number, 1, self.content(1))
        self.network.fast()
        self.send("--expect", 2)
        for number in (2, 3):
            self.assert_serves(number, 2, self.content(2))

    def test_a_stopped_receiver_is_left_behind_and_joins_again(self):
        trainer, send, recvs = self.begin(2, 3)
        trainer.publish(self.content(2))
        self.wait_for_bytes(2, 2 * MIB)
        recvs[2].send(signal.SIGSTOP)
        self.network.fast()
        self.assert_serves(3, 2, self.content(2))
        self.assert_serves(2, 1, self.content(1))
        recvs[2].send(signal.SIGCONT)
        self.assert_serves(2, 2, self.content(2))

    def test_a_cut_link_is_noticed_and_when_mended_used_again(self):
        trainer, send, recvs = self.begin(2, 3)
        trainer.publish(self.content(2))
        self.wait_for_bytes(2, 2 * MIB)
        self.network.cut(2)
        self.addCleanup(self.network.mend, 2)
        self.network.fast()
        self.assert_serves(3, 2, self.content(2))
        self.assertIn("nothing came from the other end", send.stderr())
        recvs[2].wait_for_stderr("lost the sender")
        self.assert_serves(2, 1, self.content(1))
        self.network.mend(2)
        self.assert_serves(2, 2, self.content(2))

    def test_an_interrupt_ends_both_in_the_middle_of_a_transfer(self):
        trainer, send, recvs = self.begin(2, 3)
        self.network.slow("5mbit")  # a minute's worth
        trainer.publish(self.content(2))
        self.wait_for_bytes(2, MIB)
        recvs[2].send(signal.SIGINT)
        self.assertEqual(recvs[2].wait(10), 0, recvs[2].stderr())
        self.assertEqual(os.listdir(self.network.nodes[2].shm), self.simulated(2))
        self.wait_for_bytes(3, MIB)  # of the next attempt
        send.send(signal.SIGINT)
        self.assertEqual(send.wait(10), 0, send.stderr())
        self.assert_serves(3, 1, self.content(1))
        recvs[3].send(signal.SIGINT)  # while it looks for its sender
        self.assertEqual(recvs[3].wait(10), 0, recvs[3].stderr())
        self.assertEqual(os.listdir(self.network.nodes[3].shm), self.simulated(3))

    def simulated(self, number):
        """What the simulated CUDA runtime keeps there."""
        return [os.path.basename(path) for path in glob.glob(f"{self.network.nodes[number].shm}/tenon-sim.*")]


class Waiting(RelayCase):
    """For others, which an interrupt ends too."""

    def assert_interrupt_ends(self, process):
        process.send(signal.SIGINT)
        self.assertEqual(process.wait(10), 0, process.stderr())

    def test_for_a_publication(self):
        send = self.start_on(1, *self.send_arguments("--timeout", "10m"))
        Trainer(self, SMALL)
        self.assertEqual(send.line(), f"listening {NAME} address={SENDER}")
        self.assert_interrupt_ends(send)
        self.assert_interrupt_ends(self.started(self.start_on(2, "relay", "send", "other", "--timeout", "10m")))

    def test_for_a_sender(self):
        recv = self.start_on(2, *self.recv_arguments("--timeout", "10m"))
        Trainer(self, SMALL)
        self.send()
        self.assert_serves(2, 1, SMALL)
        self.assert_interrupt_ends(recv)
        self.assert_interrupt_ends(
            self.started(self.start_on(3, "relay", "recv", NAME, "--from", "127.0.0.1:4712", "--timeout", "10m"))
        )

    @staticmethod
    def started(process):
        """It handles signals from some moment on, of which nothing is seen from outside but its mask."""

        def handles_interrupts():
            with open(f"/proc/{process.pid}/status") as file:
                caught = next(line.split()[1] for line in file if line.startswith("SigCgt"))
            return int(caught, 16) >> (signal.SIGINT - 1) & 1

        wait_until(handles_interrupts, "SIGINT to be handled")
        return process

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


if __name__ == "__main__":
    unittest.main()
