"""Reads the manifests in tests/data/manifests: a line per tensor, or per run of tensors: name, dtype, shape."""
import itertools
import re

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def parameters(path, layers=None):
    """(name, dtype, shape) of each tensor of the first `layers` layers; the order of a loop's turns does not matter here."""
    for line in open(path):
        if line.startswith("#") or not line.strip():
            continue
        name, dtype, shape = (line.split() + [""])[:3]
        ranges = [range(int(a), int(b) + 1) for a, b in RANGE.findall(name)]
        if ranges and layers is not None:
            ranges[0] = ranges[0][:layers]
        for numbers in itertools.product(*ranges):
            it = iter(numbers)
            yield RANGE.sub(lambda _: str(next(it)), name), dtype, [int(d) for d in shape.split("x") if d]
