"""watch, metrics, trace, and what inspect says of where the time goes."""

import fcntl
import json
import math
import os
import pty
import random
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
import unittest

from support import (PATIENCE, TENON, UID, Case, environment, look_at, pattern, segment_path, skip_or_fail, unique_name, wait_until,
                     with_memory)  # fmt: skip

BYTES = 4096
STATISTICS_AT = 240  # in the header, docs/format.md
BLOCK, BLOCKS = 4096, 65


class Seeing(Case):
    def setUp(self):
        super().setUp()
        self.name = unique_name("seeing")

    def publication(self, *arguments):
        return self.serve(self.file([("a", "U8", [BYTES], pattern(BYTES))]), self.name, *arguments)

    def subscriber(self):
        """Holds a place and waits."""
        return self.waiting_dump(self.name)

    def scribble(self, byte=0xFF):
        """Nonsense in all statistics, as a subscriber that means harm could write it."""
        with open(segment_path(self.name), "r+b") as file:
            file.seek(STATISTICS_AT)
            (at,) = struct.unpack("<Q", file.read(8))
            self.assertGreater(at, 0)
            file.seek(at)
            if byte is not None:
                file.write(bytes([byte]) * (BLOCK * BLOCKS))
            else:
                file.write(os.urandom(BLOCK * BLOCKS))


class Inspect(Seeing):
    def test_stages_are_shown(self):
        self.publication()
        seen = self.json_of("inspect", self.name)
        self.assertEqual(seen["doing"], None)
        gather = seen["stages"]["gather"]
        self.assertEqual((gather["count"], gather["bytes"]), (1, BYTES))
        self.assertGreater(gather["seconds"], 0)
        self.assertEqual(gather["seconds"], gather["longest_seconds"])
        self.subscriber()
        text = self.run_tenon("inspect", self.name).stdout
        self.assertRegex(text, r"(?m)^publisher +gather +1 ")
        wait_until(lambda: look_at(self.name)["subscribers"][0]["doing"] == "wait_for_ready", "it to wait")

    def test_nonsense_in_the_statistics_harms_no_command(self):
        self.publication("--label", "a\"b\\c")
        self.subscriber()
        for byte in (0xFF, 0x7F, 0x01, None, None, None):
            self.scribble(byte)
            for command in (["inspect", self.name], ["inspect", self.name, "--json"], ["metrics"],
                            ["watch", self.name, "--looks", "2", "--interval", "10ms"],
                            ["watch", self.name, "--looks", "2", "--interval", "10ms", "--json"],
                            ["trace", self.name, "--seconds", "50ms", "-o", self.path("t.json")]):  # fmt: skip
                done = self.run_tenon(*command)
                self.assertEqual(done.stderr, "")
            with open(self.path("t.json")) as file:
                json.load(file)
            screen = watch_on_terminal(self.name, "--looks", "2", "--interval", "10ms")
            self.assertLessEqual(max(map(len, screen.splitlines())), 80)
            parse_metrics(self, self.run_tenon("metrics").stdout)
        self.assertEqual(self.run_tenon("get", self.name, "a", "--head", "1").stdout.splitlines()[1], str(pattern(1)[0]))


def watch_on_terminal(name, *arguments, rows=24, columns=80, stop=None):
    """What `watch` writes to a terminal, codes taken out. `stop`: called with the process after the first look."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen([TENON, *with_memory(["watch", name, *arguments])], stdin=subprocess.DEVNULL, stdout=follower,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 1)[0]:
                continue
            try:
                more = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            seen += more
            if stop and b"\x1b[J" in seen:
                stop(process)
                stop = None
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    return re.sub(r"\x1b\[[0-9]*[A-Z]", "", seen.decode()).replace("\r\n", "\n")


class Watch(Seeing):
    def test_fits_a_terminal_of_80_columns(self):
        self.publication("--label", "t" * 63)
        self.subscriber()
        screen = watch_on_terminal(self.name, "--looks", "3", "--interval", "20ms")
        self.assertLessEqual(max(map(len, screen.splitlines())), 80)
        self.assertIn("version 1", screen)
        self.assertRegex(screen, r"gather +\[[#.]{24}\]")
        self.assertIn("tenon dump", screen)
        self.assertIn("waits for a version", screen)

    def test_fits_a_small_terminal(self):
        self.publication()
        self.subscriber()
        screen = watch_on_terminal(self.name, "--looks", "1", rows=6, columns=30)
        self.assertLessEqual(max(map(len, screen.splitlines())), 30)
        self.assertLessEqual(len(screen.splitlines()), 6)
        self.assertIn("more lines", screen)

    def test_ends_quietly_when_it_is_interrupted(self):
        self.publication()
        watch = self.start("watch", self.name)
        watch.line()
        watch.send(signal.SIGINT)
        self.assertEqual(watch.wait(), 0)
        self.assertEqual(watch.stderr(), "")

    def test_plain_lines_in_a_pipe(self):
        self.publication()
        self.subscriber()
        done = self.run_tenon("watch", self.name, "--looks", "2", "--interval", "10ms")
        self.assertNotIn("\x1b", done.stdout)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 4)
        self.assertRegex(lines[0], rf"^{self.name} state=ready version=1 subscribers=1$")
        self.assertRegex(lines[1], rf'^{self.name} place=0 pid=\d+ label="tenon dump" version=0 lag=1 ')
        self.assertRegex(lines[2], r" versions/s=0 GB/s=0 ")

    def test_json_is_an_object_a_line(self):
        self.publication()
        done = self.run_tenon("watch", self.name, "--looks", "3", "--interval", "10ms", "--json")
        looks = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([look["version"] for look in looks], [1, 1, 1])
        self.assertEqual(looks[0]["stages"]["gather"]["count"], 1)
        self.assertNotIn("versions_per_second", looks[0])
        self.assertEqual(looks[2]["versions_per_second"], 0)

    def test_rates_are_those_of_what_goes_on(self):
        demo = self.demo()
        watch = self.start("watch", demo, "--looks", "20", "--interval", "100ms", "--json")
        looks = [json.loads(watch.line()) for _ in range(20)]
        versions = [look["version"] for look in looks[1:]]
        self.assertGreater(max(look.get("versions_per_second", 0) for look in looks), 0)
        self.assertGreater(max(versions), min(versions))
        for look in looks[1:]:  # a version is so many bytes
            if look["versions_per_second"] > 100:
                self.assertAlmostEqual(look["bytes_per_second"] / look["versions_per_second"] / look["bytes"], 1, delta=0.5)

    def demo(self):
        """The name of a publication that goes on until the test ends."""
        process = self.start("demo", "--model", self.file([("a", "U8", [BYTES], pattern(BYTES))]), "--subscribers", "1",
                             "--versions", "1000000", "--json", start_new_session=True)  # fmt: skip
        name = f"demo-{process.pid}"
        wait_until(lambda: look_at(name).get("version"), "the demo's first version")
        return name

    def test_no_such_publication_is_3(self):
        self.assertIn("there is no", self.run_tenon("watch", self.name, expect=3).stderr)

    def test_a_publisher_that_closes_ends_it_with_5(self):
        serve = self.publication()
        watch = self.start("watch", self.name, "--interval", "10ms")
        watch.line()
        serve.stop()
        self.assertEqual(watch.wait(), 5)
        self.assertRegex(watch.stderr(), rf"^tenon: watching '{self.name}': .*(closed|gone)")

    def test_a_publisher_that_dies_ends_it_with_5(self):
        serve = self.publication()
        watch = self.start("watch", self.name, "--interval", "10ms")
        watch.line()
        serve.send(signal.SIGKILL)
        serve.wait()
        self.assertEqual(watch.wait(), 5)
        self.assertRegex(watch.stderr(), rf"^tenon: watching '{self.name}': .* which is gone \[docs/errors.md#PublisherGone\]\n$")

    def test_one_that_starts_is_shown(self):
        if UID != 0:
            self.skipTest("who may read what is being created is root")
        path = segment_path(self.name)
        with open(path, "w+b") as file:
            self.addCleanup(os.unlink, path)
            file.truncate(1 << 20)
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 64, 1, 0)
            fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK: the publisher's claim
            done = self.run_tenon("watch", self.name, "--looks", "1")
            self.assertRegex(done.stdout, rf"^{self.name} state=starting")


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\S+)")


def parse_metrics(case, text):
    """{name: {labels: value}}, of text that keeps every rule of the format; fails otherwise."""
    case.assertTrue(text.endswith("\n"))
    families, family, kind = {}, None, None
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            family, help_text = line[7:].split(" ", 1)
            case.assertRegex(family, rf"^{NAME}$")
            case.assertTrue(help_text.endswith("."), line)
            case.assertNotIn(family, families, "a family comes once, in one piece")
            kind = re.match(rf"^# TYPE {family} (counter|gauge)$", next(lines))
            case.assertTrue(kind, line)
            kind = kind[1]
            case.assertEqual(family.endswith("_total"), kind == "counter", line)
            families[family] = {}
            continue
        match = SAMPLE.fullmatch(line)
        case.assertTrue(match, line)
        case.assertEqual(match[1], family, line)
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2]))
        key = tuple(sorted(labels.items()))
        case.assertNotIn(key, families[family], line)
        value = float(match[3])
        case.assertTrue(math.isfinite(value) and value >= 0, line)
        families[family][key] = value
    return families


class Metrics(Seeing):
    def of(self, families, name, **labels):
        return [v for key, v in families[name].items() if {**labels, "publication": self.name}.items() <= dict(key).items()]

    def test_text_is_what_prometheus_reads(self):
        self.publication("--label", 'la"bel\\ \u00fc')
        self.subscriber()
        families = parse_metrics(self, self.run_tenon("metrics").stdout)
        for name, kind in (("tenon_publication_version", 1), ("tenon_publication_payload_bytes", BYTES),
                           ("tenon_publication_subscribers", 1), ("tenon_subscriber_lag_versions", 1),
                           ("tenon_subscriber_alive", 1)):  # fmt: skip
            self.assertEqual(self.of(families, name), [kind], name)
        publisher = {"place": "publisher", "stage": "gather"}
        self.assertEqual(self.of(families, "tenon_stage_runs_total", **publisher), [1])
        self.assertEqual(self.of(families, "tenon_stage_bytes_total", **publisher), [BYTES])
        self.assertGreater(self.of(families, "tenon_stage_seconds_total", **publisher)[0], 0)
        self.assertEqual(self.of(families, "tenon_publication_state", state="ready"), [1])
        for family in families:
            self.assertNotRegex(family, r"(_ms|_ns|_kb|_gb)(_|$)", "seconds and bytes, by convention")

    def test_a_publication_that_died_is_said(self):
        serve = self.publication()
        serve.send(signal.SIGKILL)
        serve.wait()
        families = parse_metrics(self, self.run_tenon("metrics").stdout)
        self.assertEqual(self.of(families, "tenon_publication_state", state="stale"), [1])

    def ask(self, port, raw, shut=False):
        """All of the answer; "" when the connection is closed without one."""
        answer = b""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
            try:
                s.sendall(raw)
                if shut:
                    s.shutdown(socket.SHUT_WR)
                while more := s.recv(65536):
                    answer += more
            except ConnectionError:
                self.assertEqual(answer, b"", "a reset in the middle of an answer")
        return answer.decode()

    def get(self, port, host="localhost", target="/metrics"):
        """The status of a request."""
        return int(self.ask(port, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).split(" ")[1])

    def listen(self, address="127.0.0.1:0"):
        server = self.start("metrics", "--listen", address)
        where = server.line()
        self.assertRegex(where, r"^listening http://127\.0\.0\.1:\d+/metrics$")
        return server, int(where.rsplit(":", 1)[1].split("/")[0])

    def test_served(self):
        self.publication()
        server, port = self.listen()
        answer = self.ask(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, body = answer.split("\r\n\r\n", 1)
        self.assertTrue(head.startswith("HTTP/1.1 200 OK\r\n"), head)
        self.assertIn("Content-Type: text/plain; version=0.0.4", head)
        self.assertIn(f"Content-Length: {len(body)}\r\n", head + "\r\n")
        self.assertEqual(self.of(parse_metrics(self, body), "tenon_publication_version"), [1])
        head, body = self.ask(port, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").split("\r\n\r\n", 1)
        self.assertEqual((head.split(" ")[1], body), ("200", ""))
        self.assertRegex(head, r"\r\nContent-Length: [1-9]\d+(\r\n|$)")  # what GET would have
        self.assertEqual(server.stop(), 130)

    def test_a_port_alone_is_loopback(self):
        self.listen("0")

    def test_query_strings_are_ignored(self):
        _, port = self.listen()
        for target, status in (("/metrics?", 200), ("/metrics?x=/y", 200), ("/metricsx", 404), ("/?/metrics", 404)):
            self.assertEqual(self.get(port, target=target), status, target)

    def test_on_loopback_names_of_other_hosts_are_refused(self):
        """A page whose name was made to lead here (DNS rebinding) sends its own name."""
        _, port = self.listen()
        for host in ("localhost", "LocalHost:9464", "127.0.0.1", "127.0.0.1:9464", "[::1]", "[::1]:9464", "10.1.2.3"):
            self.assertEqual(self.get(port, host), 200, host)
        for host in ("", "evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "1.2.3"):
            self.assertEqual(self.get(port, host), 421, host)

    def test_elsewhere_any_host_is_served(self):
        server = self.start("metrics", "--listen", "0.0.0.0:0")
        port = int(server.line().rsplit(":", 1)[1].split("/")[0])
        self.assertEqual(self.get(port, "node7.example:9464"), 200)

    def test_bad_requests_are_refused_and_the_server_goes_on(self):
        server, port = self.listen()
        host = b"Host: localhost\r\n"
        for raw, status in (
            (b"GET / HTTP/1.1\r\n" + host + b"\r\n", 404),
            (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n", 400),
            (b"POST /metrics HTTP/1.1\r\n" + host + b"Content-Length: 3\r\n\r\nabc", 413),
            (b"DELETE /metrics HTTP/1.1\r\n" + host + b"\r\n", 405),
            (b"nonsense\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (8 << 20) + b"\r\n\r\n", 431),
            (random.Random(1).randbytes(500) + b"\r\n\r\n", 400),
        ):
            answer = self.ask(port, raw)
            self.assertRegex(answer, rf"\AHTTP/1\.1 {status} ", raw[:40])
            self.assertEqual("\r\nAllow: GET, HEAD\r\n" in answer, status == 405, answer)
        self.assertRegex(self.ask(port, b"GET /metr", shut=True), r"\AHTTP/1\.1 400 ")
        self.assertEqual(self.ask(port, b"", shut=True), "")
        self.assertIn("200 OK", self.ask(port, b"GET /metrics HTTP/1.0\r\n\r\n"))
        self.assertIsNone(server.process.poll())

    def idle(self, port, count):
        """Connections that ask for nothing."""
        sockets = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(count)]
        for s in sockets:
            self.addCleanup(s.close)
        return sockets

    def test_16_connections_at_a_time(self):
        for others, answered in ((15, True), (16, False)):
            _, port = self.listen()
            begin = time.monotonic()
            self.idle(port, others)
            answer = self.ask(port, b"GET /metrics HTTP/1.0\r\n\r\n")
            if time.monotonic() - begin < 4:  # else the idle ones may be gone
                self.assertEqual("200 OK" in answer, answered, answer)
                self.assertTrue(answered or answer == "", answer)

    def test_those_who_do_not_ask_within_5_s_are_sent_away(self):
        _, port = self.listen()
        begin = time.monotonic()
        sockets = self.idle(port, 16)
        dripping = sockets[0]
        try:
            while not select.select([dripping], [], [], 0.5)[0]:  # until it is closed
                self.assertLess(time.monotonic() - begin, PATIENCE, "its time never ends")
                dripping.send(b"G")
        except ConnectionError:
            pass
        for s in sockets[1:]:
            self.assertEqual(s.recv(100), b"")
        self.assertGreater(time.monotonic() - begin, 4)
        wait_until(lambda: "200 OK" in self.ask(port, b"GET /metrics HTTP/1.0\r\n\r\n"), "their places")

    def test_addresses_that_are_none_are_2(self):
        for address in ("nonsense", "127.0.0.1", "1.2.3.4:x", "::1:80", "127.0.0.1:70000", ":80"):
            self.assertIn("--listen", self.run_tenon("metrics", "--listen", address, expect=2).stderr)


class Trace(Seeing):
    def check_rows(self, events, names):
        """Each row is one stage of one process, and what is on it comes one after the other."""
        rows = {}
        for e in events:
            self.assertEqual(names[e["pid"], e["tid"]].split(": ")[-1], e["name"], "one row per stage")
            self.assertGreaterEqual(e["dur"], 0)
            rows.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
        for row, spans in rows.items():
            spans.sort()
            for (_, end), (start, _) in zip(spans, spans[1:]):
                self.assertLessEqual(end, start + 0.002, (row, names[row]))

    def check(self, path, publisher, subscriber):
        """One time line: of each version, gathered, then published, then taken."""
        with open(path) as file:
            trace = json.load(file)
        events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
        names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
        processes = {e["pid"] for e in trace["traceEvents"] if e["name"] == "process_name"}
        self.assertLessEqual({publisher, subscriber}, processes)
        self.check_rows(events, names)
        by = {(e["pid"], e["name"], e["args"]["version"]): e for e in events}
        versions = sorted({v for pid, _, v in by if pid == publisher})
        both = [v for v in versions if (subscriber, "hold", v) in by and (publisher, "publish", v) in by]
        self.assertTrue(both, sorted(by))
        for v in both:
            gather, publish = by[publisher, "gather", v], by[publisher, "publish", v]
            hold = by[subscriber, "hold", v]
            slack = 0.002  # us: what a double keeps of a large number
            self.assertLessEqual(by[publisher, "wait_for_slots", v]["ts"], gather["ts"])
            self.assertLessEqual(gather["ts"] + gather["dur"], publish["ts"] + slack)
            self.assertLessEqual(publish["ts"] + publish["dur"], hold["ts"] + hold["dur"])
            self.assertLessEqual(gather["ts"] + gather["dur"], hold["ts"] + slack, "nobody holds what is not there")
        return events

    def demo_with(self, folder, *arguments):
        return self.run_tenon("demo", "--model", self.file([("a", "U8", [BYTES], pattern(BYTES))]), "--subscribers", "2", "--versions", "6", *arguments, "--json",
                              env=environment(TENON_TRACE=folder))  # fmt: skip

    def test_by_environment_and_merged(self):
        folder = self.path("traces")
        os.mkdir(folder)
        self.demo_with(folder)
        files = os.listdir(folder)
        self.assertEqual(len(files), 3, files)
        pids = [int(name.split(".")[-3]) for name in files]
        publisher = next(int(f.split(".")[-3]) for f in files if "publisher" in f)
        subscriber = next(p for p in pids if p != publisher)
        out = self.path("merged.json")
        done = self.run_tenon("trace", "--merge", folder, "-o", out)
        self.assertRegex(done.stdout, r"^merged files=3 events=\d+ lost=0 ")
        events = self.check(out, publisher, subscriber)
        self.assertEqual(sum(e["name"] == "gather" for e in events), 6)
        self.assertEqual(sum(e["name"] == "verify" for e in events), 12)
        self.assertIn(f"events={len(events)} ", done.stdout)

    def test_two_versions_held_at_once_have_a_row_each(self):
        folder = self.path("traces")
        os.mkdir(folder)
        self.demo_with(folder, "--mode", "double")
        out = self.path("merged.json")
        self.run_tenon("trace", "--merge", folder, "-o", out)
        with open(out) as file:
            trace = json.load(file)["traceEvents"]
        events = [e for e in trace if e["ph"] == "X"]
        names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace if e["name"] == "thread_name"}
        self.check_rows(events, names)
        rows = {e["tid"] for e in events if e["name"] == "hold"}
        self.assertEqual(len(rows), 2, "by parity")
        for e in events:
            if e["name"] == "hold":
                self.assertEqual(e["tid"] - min(rows), e["args"]["version"] % 2)

    def test_processes_that_have_the_same_pid_are_kept_apart(self):
        folder = self.path("traces")
        os.mkdir(folder)

        def lines(who, started, namespace, start):
            process = {"ph": "M", "name": "process_name", "pid": 1, "tid": 0,
                       "args": {"name": who, "started": started, "namespace": namespace}}  # fmt: skip
            event = {"ph": "X", "name": "hold", "pid": 1, "tid": 1, "ts": start, "dur": 1, "args": {"version": 1}}
            return "[\n" + json.dumps(process) + ",\n" + json.dumps(event) + ",\n"

        for name, text in (("a", lines("a", 7, 100, 1)), ("b", lines("b", 7, 101, 2)), ("c", lines("c", 8, 100, 3)),
                           ("d", lines("d", 7, 100, 4)), ("e", lines("e", -1, "x", 5))):  # fmt: skip
            with open(os.path.join(folder, name + ".json"), "w") as file:
                file.write(text)
        self.assertIn("events=5 lost=0", self.run_tenon("trace", "--merge", folder, "-o", self.path("o.json")).stdout)
        with open(self.path("o.json")) as file:
            trace = json.load(file)["traceEvents"]
        of = {e["ts"]: e["pid"] for e in trace if e["ph"] == "X"}
        self.assertEqual(of[1], 1)
        self.assertEqual(of[1], of[4], "two files of one process")
        self.assertEqual(len({of[1], of[2], of[3], of[5]}), 4, of)
        named = {e["pid"]: e["args"]["name"] for e in trace if e["name"] == "process_name"}
        self.assertEqual(named, {of[1]: "a", of[2]: "b", of[3]: "c", of[5]: "e"})

    def test_containers_share_a_folder(self):
        if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode != 0:
            skip_or_fail("no pid namespace may be made here")
        folder = self.path("traces")
        os.mkdir(folder)
        model = self.file([("a", "U8", [BYTES], pattern(BYTES))])
        for _ in range(2):
            subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", TENON, "demo", "--model", model, "--subscribers", "1",
                            "--versions", "2", "--quiet"], env=environment(TENON_TRACE=folder), check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        self.assertEqual(len(os.listdir(folder)), 4, os.listdir(folder))
        out = self.path("merged.json")
        self.assertIn(" lost=0 ", self.run_tenon("trace", "--merge", folder, "-o", out).stdout)
        with open(out) as file:
            trace = json.load(file)["traceEvents"]
        self.assertEqual(len({e["pid"] for e in trace if e["ph"] == "X" and e["name"] == "gather"}), 2)
        self.assertEqual(len([e for e in trace if e["name"] == "process_name"]), 4)

    def test_a_line_cut_off_by_a_crash_is_left_out(self):
        folder = self.path("traces")
        os.mkdir(folder)
        self.demo_with(folder)
        first = os.path.join(folder, sorted(os.listdir(folder))[0])
        with open(first, "r+b") as file:
            file.truncate(os.path.getsize(first) - 20)
        out = self.path("merged.json")
        self.assertIn(" lost=1 ", self.run_tenon("trace", "--merge", folder, "-o", out).stdout)
        with open(out) as file:
            json.load(file)

    def test_verify_tells_how_long_it_compared(self):
        self.publication()
        folder = self.path("traces")
        os.mkdir(folder)
        self.run_tenon("verify", self.name, self.path("in.safetensors"), env=environment(TENON_TRACE=folder))
        self.run_tenon("trace", "--merge", folder, "-o", self.path("t.json"))
        with open(self.path("t.json")) as file:
            events = [e for e in json.load(file)["traceEvents"] if e["name"] == "verify" and e["ph"] == "X"]
        self.assertEqual([(e["args"]["version"], e["args"]["bytes"]) for e in events], [(1, BYTES)])

    def test_of_a_publication_that_goes_on(self):
        serve = self.publication()
        get = self.run_tenon("get", self.name, "a", "--head", "1")
        self.assertEqual(get.returncode, 0)
        dump = self.subscriber()
        done = self.run_tenon("trace", self.name, "--seconds", "100ms", "-o", self.path("t.json"))
        self.assertRegex(done.stdout, rf"^traced {self.name} events=[1-9]\d* lost=0 file=")
        with open(self.path("t.json")) as file:
            events = json.load(file)["traceEvents"]
        gathers = [e for e in events if e["name"] == "gather"]
        self.assertEqual([(e["pid"], e["args"]["version"], e["args"]["bytes"]) for e in gathers], [(serve.pid, 1, BYTES)])
        self.assertIsNone(dump.process.poll())

    def test_a_folder_that_cannot_be_written_stops_nothing(self):
        done = self.demo_with(self.path("missing"))
        self.assertIn("tracing to ", done.stderr)

    def test_bad_usage(self):
        self.run_tenon("trace", expect=2)
        self.run_tenon("trace", "--merge", self.folder, expect=2)
        self.run_tenon("trace", self.name, expect=3)


if __name__ == "__main__":
    unittest.main()
