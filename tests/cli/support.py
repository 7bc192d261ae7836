"""What the tests of the command share: files to publish, processes with deadlines, a /dev/shm of one's own.

Every wait ends: PATIENCE is far longer than anything here takes, and how long it took is not judged.
"""

import ctypes
import glob
import itertools
import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
import unittest

TENON = os.environ.get("TENON_BIN", "tenon")
MEMORY = os.environ.get("TENON_TEST_MEMORY", "host")  # what publications are in that do not say so
KIND = MEMORY.split(":")[0]
PATIENCE = 60.0
UID = os.geteuid()

_numbers = itertools.count(1)
_names = []


def unique_name(what="cli"):
    _names.append(f"{what}-{os.getpid()}-{next(_numbers)}")
    return _names[-1]


def skip_or_fail(why):
    """For want of what root has where scripts/test sets TENON_REQUIRE_NAMESPACES=1: there it is a failure."""
    raise AssertionError(why) if os.environ.get("TENON_REQUIRE_NAMESPACES") == "1" else unittest.SkipTest(why)


# Files


def safetensors_bytes(tensors, metadata=None):
    """A file: `tensors` are (name, dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path, tensors, metadata=None):
    with open(path, "wb") as file:
        file.write(safetensors_bytes(tensors, metadata))
    return path


def read_safetensors(path):
    """({name: (dtype, shape, bytes)}, metadata or None)"""
    with open(path, "rb") as file:
        whole = file.read()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    metadata = header.pop("__metadata__", None)
    data = whole[8 + length :]
    tensors = {
        name: (t["dtype"], t["shape"], data[t["data_offsets"][0] : t["data_offsets"][1]]) for name, t in header.items()
    }
    return tensors, metadata


def pattern(count, seed=1):
    """`count` bytes that hold something else for every seed."""
    return bytes((i * 7 + i // 251 + seed * 31) % 256 for i in range(count))


DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


def every_dtype(seed=1):
    """A tensor of each dtype, a scalar, an empty one and one with an odd name."""
    tensors = [(f"of.{d}", d, [3, 5], pattern(15 * size, seed + size)) for d, size in DTYPES.items()]
    tensors.append(("scalar", "F32", [], struct.pack("<f", 1.5)))
    tensors.append(("empty", "I64", [0, 7], b""))
    tensors.append(("odd name/ü \"quoted\"", "U8", [1, 1, 9], pattern(9, seed)))
    return tensors


def large(megabytes, seed=1):
    """A tensor of so many MiB, made without a Python loop over its bytes."""
    block = pattern(1 << 12, seed)
    return ("large", "U8", [megabytes << 20], block * (megabytes << 8))


# Processes


def with_memory(arguments):
    """The line, with the memory kind under test where a command takes one and the line does not say."""
    line = [*map(str, arguments)]
    if MEMORY != "host" and line[:1] in (["serve"], ["demo"]) and "--memory" not in line:
        line[1:1] = ["--memory", MEMORY]
    return line


def run(*arguments, timeout=PATIENCE, program=TENON, inside=(), **more):
    """Runs `tenon` to its end, started by the command `inside`. Standard output and error are text."""
    return subprocess.run(
        [*inside, program, *with_memory(arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **more
    )


def look_at(name):
    """What `inspect --json` says; nothing while there is no such publication."""
    done = run("inspect", name, "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def environment(**changes):
    return {**os.environ, **changes}


class Process:
    """A `tenon` that goes on while the test does something else."""

    def __init__(self, *arguments, inside=(), **more):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*inside, TENON, *with_memory(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            **more,
        )
        self.pid = self.process.pid
        self._seen = b""

    def line(self, timeout=PATIENCE):
        """The next line of its standard output; fails when it ends or says nothing in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._seen:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise AssertionError(f"no line from {self.process.args}; standard error:\n{self.stderr()}")
            self._seen += more
        line, self._seen = self._seen.split(b"\n", 1)
        return line.decode()

    def stderr(self):
        self.errors.flush()
        with open(f"/proc/self/fd/{self.errors.fileno()}") as file:
            return file.read()

    def wait_for_stderr(self, text):
        wait_until(lambda: text in self.stderr(), f"'{text}' on standard error")

    def send(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=PATIENCE):
        return self.process.wait(timeout)

    def stop(self):
        """Asks it to end; its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def clean_up(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.errors.close()


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)  # between two looks; what is waited for is the condition


def children_of(pid):
    """Processes whose parent is `pid`."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                after_name = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(after_name[1]) == pid and after_name[0] != "Z":
            found.append(int(path.split("/")[2]))
    return found


# Shared memory


def segment_path(name):
    return f"/dev/shm/tenon.{UID}.{name}"


def objects_of(name, instance=None):
    """What a publication has in /dev/shm: its segment and, by instance, its slots."""
    found = glob.glob(segment_path(glob.escape(name)))
    if instance:
        found += glob.glob(f"/dev/shm/tenon-slot.{UID}.{instance}.*")
    return sorted(found)


# A publication's own objects in /dev/shm: the segment and, of host memory, the slots.
OBJECTS = 2 if KIND == "host" else 1


class SimulatedNode:
    """The machine that the simulated CUDA runtime of tenon-sim shows to one test (tests/cuda_sim/cuda_sim.hpp)."""

    def __init__(self):
        self.name = f"cli-{os.getpid()}-{next(_numbers)}"
        os.environ["TENON_SIM_NODE"] = self.name
        os.environ["TENON_SIM_HOST_ACCESS"] = "0"  # as on a real machine, the host faults on GPU memory

    def objects(self, shm="/dev/shm"):
        return glob.glob(f"{shm}/tenon-sim.{os.getuid()}.{self.name}.*")

    def violations(self, shm="/dev/shm"):
        """What must never happen (memory freed under a reader, say), as the node's control segment counts it."""
        try:
            with open(f"{shm}/tenon-sim.{os.getuid()}.{self.name}.control", "rb") as control:
                return struct.unpack("<QQ", control.read(16))[1]
        except FileNotFoundError:
            return 0

    def remove(self, shm="/dev/shm"):
        count = self.violations(shm)
        for path in self.objects(shm):
            os.unlink(path)
        if count:
            raise AssertionError(f"{count} violations of CUDA's rules; standard error names them")


class PrivateShm:
    """A /dev/shm of `megabytes` MiB that only this process and its children see, until the block ends."""

    CLONE_NEWNS = 0x00020000
    MS_REC_PRIVATE = 0x4000 | 0x40000

    def __init__(self, megabytes):
        self.options = f"size={megabytes}m"
        self.libc = ctypes.CDLL(None, use_errno=True)

    def _check(self, result):
        if result != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def __enter__(self):
        if UID != 0:
            raise unittest.SkipTest("a /dev/shm of one's own takes root")
        self.before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._check(self.libc.unshare(self.CLONE_NEWNS))
            self._check(self.libc.mount(b"none", b"/", None, self.MS_REC_PRIVATE, None))
            self._check(self.libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, self.options.encode()))
        except OSError as error:
            self.__exit__()
            skip_or_fail(f"mount namespaces are not to be had here: {error}")
        return self

    def __exit__(self, *_):
        self.libc.setns(self.before, self.CLONE_NEWNS)
        os.close(self.before)


class Case(unittest.TestCase):
    """Has a folder, cleans up its processes, and says what a command printed when its exit code is wrong."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        if KIND == "cuda":
            self.node = SimulatedNode()
            self.addCleanup(self.node.remove)
        self.addCleanup(self.remove_leftovers)

    def remove_leftovers(self):
        """Of killed publishers. Not with `gc`, which would take what other tests are looking at."""
        while _names:
            name = _names.pop()
            if not os.path.isfile(segment_path(name)):
                continue
            successor = Process("serve", self.file([("a", "U8", [1], b"x")]), "--name", name, "--quiet")
            successor.line()
            successor.stop()
            successor.clean_up()

    def path(self, name):
        return os.path.join(self.folder, name)

    def file(self, tensors, metadata=None, name="in.safetensors"):
        return write_safetensors(self.path(name), tensors, metadata)

    def segment(self, raw):
        """A segment of these bytes; its name."""
        name = unique_name()
        with open(segment_path(name), "wb") as file:
            file.write(raw)
        self.addCleanup(lambda: os.path.exists(segment_path(name)) and os.unlink(segment_path(name)))
        return name

    def start(self, *arguments, **more):
        process = Process(*arguments, **more)
        self.addCleanup(process.clean_up)
        return process

    def serve(self, file, name, *arguments, **more):
        """A `tenon serve` that has published its first version."""
        process = self.start("serve", file, "--name", name, *arguments, **more)
        self.assertRegex(
            process.line(), rf"^published {name} version=1 parameters=\d+ bytes=\d+ seconds=\d+\.\d+$", process.stderr()
        )
        return process

    def waiting_dump(self, name, version=2):
        """A `tenon dump` to the file "o" that has a place and waits for a version that is not there."""
        dump = self.start("dump", name, self.path("o"), "--version", version, "--timeout", "50s")
        self.wait_for_subscriber(name)
        return dump

    def publisher_killed_under_a_dump(self, name, file):
        """(the serve that was killed, the dump that waited for it and has ended with 5)"""
        serve = self.serve(file, name)
        dump = self.waiting_dump(name)
        serve.send(signal.SIGKILL)
        self.assertEqual(dump.wait(), 5)
        self.assertFalse(os.path.exists(self.path("o")))
        return serve, dump

    def run_tenon(self, *arguments, expect=0, **more):
        done = run(*arguments, **more)
        what = f"tenon {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
        self.assertEqual(done.returncode, expect, what)
        if expect not in (0, 130) and not done.stdout:
            # One line, which says where to read on.
            self.assertRegex(done.stderr, r"\Atenon: [^\n]+ (\[docs/errors\.md#\w+\]|--help'\))\n\Z", what)
        return done

    def json_of(self, *arguments):
        return json.loads(self.run_tenon(*arguments, "--json").stdout)

    def instance_of(self, name):
        return self.json_of("inspect", name)["instance"]

    def wait_for_subscriber(self, name):
        """Until somebody is attached; what `inspect` says of them."""
        wait_until(lambda: look_at(name).get("subscribers"), "somebody to attach")
        return look_at(name)["subscribers"]

    def assert_nothing_left(self, name, instance=None):
        self.assertEqual(objects_of(name, instance), [])
