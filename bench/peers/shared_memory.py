#!/usr/bin/env python3
"""What handing weights over in host memory costs with Python's own means (R17), for the tensors of a model's manifest.

  SharedMemory per tensor   every step: the name, dtype and shape of each tensor pickled through a pipe; the engine opens a
                            multiprocessing.shared_memory.SharedMemory for each, and closes it
  SharedMemory, flattened   every step: the tensors copied into one SharedMemory, its index pickled through a pipe; the
                            engine opens it and makes a memoryview of each tensor
  torch per tensor          every step: the tensors, in shared memory already, sent through a torch.multiprocessing pipe
                            (where this python3 has torch)

Timed by CLOCK_MONOTONIC, from the trainer's first call to the moment at which the engine has looked at a byte of every
tensor. Every dimension of the model is divided by --shrink, so that all of it fits: only the second depends on the bytes.
Every tensor begins with a stamp of the round, compared outside the timed part. Prints JSON, in the form of tenon-bench.

  shared_memory.py MANIFEST [--rounds 30] [--layers N] [--shrink 24]
"""
import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import struct
import sys
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

from manifest import parameters

ELEMENT = {"BF16": 2, "F16": 2, "F32": 4}
WARM_UP = 3
MOST_SECONDS = 60  # of one method
PATIENCE = 180  # seconds


def stamp_of(number, i):
    return struct.pack("<Q", (number * 1_000_003 + i) * 0x9E3779B97F4A7C15 % 2**64)


class PerTensor:
    name = "R17 Python, SharedMemory per tensor, opened every step"

    def __init__(self, tensors):
        self.sizes = [size for _, _, _, size in tensors]
        self.about = [(name, dtype, shape) for name, dtype, shape, _ in tensors]
        self.shared = [SharedMemory(create=True, size=max(size, 8)) for size in self.sizes]

    def write(self, number):
        for i, shared in enumerate(self.shared):
            shared.buf[:8] = stamp_of(number, i)

    def message(self):
        return [(about, shared.name) for about, shared in zip(self.about, self.shared)]

    @staticmethod
    def open(message):
        opened = [SharedMemory(name) for _, name in message]
        return {about[0]: shared.buf for (about, _), shared in zip(message, opened)}, opened

    def close(self):
        for shared in self.shared:
            shared.close()
            shared.unlink()


class Flattened:
    name = "R17 Python, one SharedMemory, flattened every step"

    def __init__(self, tensors):
        self.parts = [bytearray(max(size, 8)) for _, _, _, size in tensors]
        self.index, end = [], 0
        for (name, dtype, shape, _), part in zip(tensors, self.parts):
            self.index.append((name, dtype, shape, end, len(part)))
            end += -(-len(part) // 256) * 256
        self.shared = SharedMemory(create=True, size=end)

    def write(self, number):
        for i, part in enumerate(self.parts):
            part[:8] = stamp_of(number, i)

    def message(self):
        to = self.shared.buf
        for part, (_, _, _, offset, size) in zip(self.parts, self.index):
            to[offset:offset + size] = part
        return self.shared.name, self.index

    @staticmethod
    def open(message):
        shared = SharedMemory(message[0])
        return {name: shared.buf[offset:offset + size] for name, _, _, offset, size in message[1]}, [shared]

    def close(self):
        self.shared.close()
        self.shared.unlink()


class Torch:
    name = "R17 torch, CPU tensors, per tensor"

    def __init__(self, tensors):
        import torch
        torch.multiprocessing.set_sharing_strategy("file_system")
        self.names = [name for name, *_ in tensors]
        self.tensors = [torch.zeros(max(size, 8), dtype=torch.uint8).share_memory_() for *_, size in tensors]

    def write(self, number):
        for i, tensor in enumerate(self.tensors):
            tensor.numpy()[:8] = list(stamp_of(number, i))

    def message(self):
        from multiprocessing.reduction import ForkingPickler
        return bytes(ForkingPickler.dumps(dict(zip(self.names, self.tensors))))

    @staticmethod
    def open(message):
        import pickle
        return {name: memoryview(tensor.numpy()) for name, tensor in pickle.loads(message).items()}, []

    def close(self):
        self.tensors.clear()


def engine(pipe, parents_end, method):
    parents_end.close()  # so that the trainer's death is the end of this
    pipe.send("ready")
    while (message := pipe.recv()) is not None:
        number, payload = message
        views, opened = method.open(payload)
        for view in views.values():
            view[0]
        used = time.monotonic_ns()
        wrong = sum(bytes(view[:8]) != stamp_of(number, i) for i, view in enumerate(views.values()))
        for view in views.values():
            view.release()
        views.clear()
        for shared in opened:
            shared.close()
        pipe.send((used, wrong))


def answer(pipe):
    if not pipe.poll(PATIENCE):
        raise TimeoutError(f"the engine has not answered for {PATIENCE} s")
    return pipe.recv()


def measure(kind, tensors, rounds):
    """A row in the form of tenon-bench."""
    pipe, other = multiprocessing.Pipe()
    resource_tracker.ensure_running()  # one for both: an engine's own would remove what the trainer has when it ends
    child = multiprocessing.Process(target=engine, args=(other, pipe, kind), daemon=True)
    child.start()  # first: the engine inherits none of the trainer's descriptors
    other.close()
    method = kind(tensors)
    times, wrong = [], 0
    try:
        answer(pipe)
        begun = time.monotonic()
        for number in range(1, WARM_UP + rounds + 1):
            method.write(number)
            begin = time.monotonic_ns()
            pipe.send((number, method.message()))
            used, bad = answer(pipe)
            times.append((used - begin) / 1e3)
            wrong += bad
            if len(times) > WARM_UP + 2 and time.monotonic() - begun > MOST_SECONDS:
                break
        pipe.send(None)
        child.join(10)
    finally:
        child.kill()
        method.close()
    timed = sorted(times[WARM_UP:])
    at = lambda share: timed[max(math.ceil(share * len(timed)), 1) - 1]
    moved = sum(size for *_, size in tensors) if kind is Flattened else 0
    row = {"name": method.name, "bytes": moved, "tensors": len(tensors), "samples": len(timed), "wrong": wrong,
            "first_us": times[0], "min_us": timed[0], "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
            "max_us": timed[-1], "all_us": times[WARM_UP:]}
    return {**row, "gb_per_s": moved / 1e3 / at(0.5)} if moved else row


def allow_files(wanted):
    """Raises the limit of open files, which root may do beyond the hard one. Returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    for soft, hard in ((wanted, max(wanted, hard)), (min(wanted, hard), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return soft
        except (ValueError, PermissionError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def fitting(options):
    """The model's tensors, with as many of its first layers as a process may have files open for: two for each."""
    tensors = list(shrunk(options, options.layers))
    files = allow_files(2 * len(tensors) + 100)
    layers = options.layers
    while 2 * len(tensors) + 100 > files:
        layers = (layers or 256) - 1
        tensors = list(shrunk(options, layers))
    return tensors, layers


def shrunk(options, layers):
    for name, dtype, shape in parameters(options.manifest, layers):
        shape = [max(1, d // options.shrink) for d in shape]
        yield name, dtype, shape, math.prod(shape) * ELEMENT[dtype]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--shrink", type=int, default=24)
    options = parser.parse_args()
    multiprocessing.set_start_method("fork")
    tensors, layers = fitting(options)
    model = os.path.basename(options.manifest).removesuffix(".txt")
    result = {"scenario": "python", "machine": {"python": platform.python_version(), "kernel": platform.release()},
              "options": {"model": {"model": model, "shrink": options.shrink, "layers": layers or "all",
                                    "tensors": len(tensors), "bytes": sum(size for *_, size in tensors)}},
              "notes": [], "rows": [], "ratios": {}}
    if layers != options.layers:
        result["notes"].append(f"{model} is measured with {layers} layers only: a process may have so many files open")
    methods = [PerTensor, Flattened]
    try:
        import torch
        result["machine"]["torch"] = torch.__version__
        methods.append(Torch)
    except ImportError:
        result["rows"].append({"name": Torch.name, "bytes": 0, "tensors": len(tensors), "samples": 0, "wrong": 0,
                               "skipped": "this python3 has no torch"})
    for method in methods:
        print(f"shared_memory.py: {method.name}", file=sys.stderr)
        result["rows"].append(measure(method, tensors, options.rounds))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
