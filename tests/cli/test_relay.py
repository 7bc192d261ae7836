"""Whole relays between nodes that are namespaces: what arrives, what is told, who dies."""

import glob
import json
import os
import signal
import unittest
import unittest.mock

from relays import MIB, NAME, SENDER, SMALL, RelayCase, Trainer
from support import KIND, every_dtype, large, pattern

ENGINE = "gloo" if KIND == "host" else "nccl"


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

    def test_their_traces_are_on_one_time_line(self):
        folder, out = self.path("traces"), self.path("trace.json")
        os.mkdir(folder)
        with unittest.mock.patch.dict(os.environ, TENON_TRACE=folder):
            trainer = Trainer(self, SMALL)
            send = self.send()
            recv = self.recv(2)
            self.assert_serves(2, 1, SMALL)
            for process in (recv, send):
                self.assertEqual(process.stop(), 0, process.stderr())
            trainer.end()
        self.run_tenon("trace", "--merge", folder, "-o", out)
        with open(out) as file:
            events = json.load(file)["traceEvents"]
        names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
        first = {e["name"]: e for e in events if e["ph"] == "X" and e["args"]["version"] == 1}
        of = {stage: names[first[stage]["pid"]] for stage in ("gather", "send", "receive")}
        self.assertEqual(of["gather"], f"{NAME} publisher")
        self.assertIn("relay", of["send"])
        self.assertEqual(of["receive"], f"{NAME} publisher")
        self.assertEqual(len({first[stage]["pid"] for stage in of}), 3)
        self.assertLessEqual(first["gather"]["ts"], first["send"]["ts"])
        self.assertLess(first["send"]["ts"], first["receive"]["ts"] + first["receive"]["dur"])

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
            (seen["version"], seen["pid"], seen["memory"], seen["mode"], seen["parameter_count"]),
            (1, recv.pid, KIND, "double", 2),
        )
        source = json.loads(self.on(1, "inspect", NAME, "--json").stdout)["instance"]
        self.assertEqual(seen["label"], f"relay of {source[:16]}: from the trainer")
        self.assertRegex(self.on(2, "ls").stdout, rf"(?m)^{NAME} +")
        self.assertEqual(self.on(2, "get", NAME, "b").returncode, 0)
        self.assertEqual(json.loads(self.on(3, "ls", "--json").stdout), [])


class Deaths(RelayCase):
    """Of processes, in the middle of a transfer: links are so slow that it takes seconds."""

    def content(self, seed):
        """12 MiB in six buckets."""
        return [(f"part.{i}", "U8", [2 * MIB], large(2, 10 * seed + i)[3]) for i in range(6)]

    def begin(self, *receivers):
        trainer = Trainer(self, self.content(1), "--bucket-size", "2MiB")
        # No deadline comes to anybody's help.
        send = self.send("--expect", len(receivers), "--deadline", "10m")
        recvs = {number: self.recv(number) for number in receivers}
        for number in receivers:
            self.assert_serves(number, 1, self.content(1))
        self.slow_down("40mbit")  # 2.5 s for a version
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
        self.network.slow("5mbit")  # 20 s
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
