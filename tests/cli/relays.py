"""What the tests of whole relays share: a trainer on the first node, relays and questions on each."""

import json
import os
import signal

from nodes import Unavailable, network, not_here
from support import KIND, Case, pattern, read_safetensors, run, safetensors_bytes, wait_until

NAME = "policy"
SENDER = "10.77.0.1:4711"
SMALL = [("a", "F32", [2, 2], pattern(16)), ("b", "U8", [3], b"abc")]
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
        return json.loads(done.stdout).get("instance") if done.returncode == 0 else None

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
        try:
            self.network.slow(rate)
        except Unavailable as why:
            not_here(f"slow links: {why}")
        self.addCleanup(self.network.fast)

    def line_that(self, process, begins):
        """The next line that begins so."""
        while True:
            line = process.line()
            if line.startswith(begins):
                return line
