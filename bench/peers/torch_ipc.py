#!/usr/bin/env python3
"""What PyTorch's own sharing of CUDA tensors costs, for the tensors of a model's manifest.

  per tensor   every step: reduce_tensor() of each tensor, one pickle through a pipe, each rebuilt in the engine, a sum of
               its first bytes enqueued, the device synchronized, all dropped
  flattened    every step: the tensors copied (torch._foreach_copy_) into persistent buckets of at most --bucket bytes,
               the buckets shared by reduce_tensor(), rebuilt in the engine, a view made of each tensor, synchronized

Timed by CLOCK_MONOTONIC, from the trainer's first call to the moment at which the engine has used everything. One
trainer, one engine, one GPU; no collectives and no barrier per tensor, as frameworks add. Values are compared outside
the timed part. Prints JSON.

  torch_ipc.py MANIFEST [--rounds 5] [--layers N] [--bucket BYTES]
"""
import argparse
import itertools
import json
import math
import statistics
import sys
import time

import torch
import torch.multiprocessing as mp
from torch.multiprocessing.reductions import reduce_tensor

from manifest import parameters

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def make_tensors(wanted):
    return {name: torch.randint(0, 100, shape, device="cuda").to(DTYPES[dtype]) for name, dtype, shape in wanted}


def lay_out(tensors, limit):
    """Which bucket and offset each tensor gets, and how large the buckets are."""
    places, sizes = {}, []
    for name, t in tensors.items():
        size = (t.numel() * t.element_size() + 255) // 256 * 256
        if not sizes or sizes[-1] + size > limit:
            sizes.append(0)
        places[name] = (len(sizes) - 1, sizes[-1], t.dtype, list(t.shape))
        sizes[-1] += size
    return places, sizes


def view(buckets, place):
    bucket, offset, dtype, shape = place
    size = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    return buckets[bucket][offset:offset + size].view(dtype).view(shape)


def engine(pipe):
    torch.cuda.init()
    total = torch.zeros((), device="cuda")
    pipe.send("ready")
    places = None
    while (message := pipe.recv()) is not None:
        kind, payload = message
        if kind == "places":
            places = payload
            continue
        if kind == "per tensor":
            got = {name: rebuild(*args) for name, (rebuild, args) in payload.items()}
        else:
            buckets = [rebuild(*args) for rebuild, args in payload]
            got = {name: view(buckets, place) for name, place in places.items()}
        for t in got.values() if len(got) < 1000 else itertools.islice(got.values(), 0, None, 100):
            total += t.view(-1)[0]
        torch.cuda.synchronize()
        used = time.monotonic_ns()
        checks = {name: float(t.view(-1)[:64].float().sum()) for name, t in itertools.islice(got.items(), 0, None, 97)}
        t = got = buckets = payload = message = None
        pipe.send((used, checks))


def step(pipe, kind, make, expected):
    begin = time.monotonic_ns()
    pipe.send((kind, make()))
    used, checks = pipe.recv()
    wrong = sum(checks[name] != value for name, value in expected.items())
    return (used - begin) / 1e6, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--bucket", type=int, default=1 << 30)
    options = parser.parse_args()

    context = mp.get_context("spawn")
    pipe, other = context.Pipe()
    child = context.Process(target=engine, args=(other,), daemon=True)
    child.start()
    pipe.recv()

    tensors = make_tensors(list(parameters(options.manifest, options.layers)))
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    result = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "manifest": options.manifest.split("/")[-1],
              "layers": options.layers or "all", "tensors": len(tensors), "bytes": size, "rows": []}

    def measure(kind, make):
        times, wrong = [], 0
        for number in range(options.rounds + 1):
            for t in itertools.islice(tensors.values(), 0, None, 97):
                t.view(-1)[:64] += 1
            torch.cuda.synchronize()
            expected = {name: float(t.view(-1)[:64].float().sum())
                        for name, t in itertools.islice(tensors.items(), 0, None, 97)}
            ms, bad = step(pipe, kind, make, expected)
            times.append(ms)
            wrong += bad
            print(f"{kind} {number}: {ms:.1f} ms", file=sys.stderr, flush=True)
            if number >= 2 and sum(times) > 30_000:
                break
        result["rows"].append({"name": f"torch {kind}", "first_ms": times[0], "p50_ms": statistics.median(times[1:]),
                               "min_ms": min(times[1:]), "samples": len(times) - 1, "wrong": wrong})

    measure("per tensor", lambda: {name: reduce_tensor(t) for name, t in tensors.items()})

    places, sizes = lay_out(tensors, options.bucket)
    buckets = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in sizes]
    result["buckets"] = len(buckets)
    targets = [view(buckets, place) for place in places.values()]
    sources = list(tensors.values())
    pipe.send(("places", places))

    def flatten():
        torch._foreach_copy_(targets, sources)
        torch.cuda.synchronize()
        return [reduce_tensor(bucket) for bucket in buckets]

    measure("flattened", flatten)
    pipe.send(None)
    child.join(10)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
