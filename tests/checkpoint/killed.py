"""A process whose children save or quantize, to be killed while they do.

``python -m tests.checkpoint.killed`` reads lines ``["save" | "quantize", argument, ...]`` as JSON.
For each it forks a child, which prints its process id and then what it has done; when the child has
ended, ``status N``, as `os.waitpid` gives it, is printed.
"""

import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import qpass
from qpass.checkpoint import saving, stream
from qpass.checkpoint.index import open_source
from qpass.checkpoint.wishes import job_of_wishes, wishes
from qpass.numerics import as_quantizer, quantize

LEAVES = 20


def params(generation):
    """A tree of which every leaf says which generation it is of."""
    q = quantize(np.ones((8, 16), np.float32), as_quantizer("int4"), (1,))
    floats = {f"w{k}": np.full((16, 8), generation + k, np.float32) for k in range(LEAVES)}
    return floats | {"q": replace(q, scale=np.full((8, 1), generation, np.float32))}


def save(folder, first, count):
    """Save generation after generation; say of each when it is there."""
    saving.SHARD_BYTES = 1  # a file for each leaf
    qpass.save(f"{folder}-warm-{os.getpid()}", params(first))
    print("begun", flush=True)
    for generation in itertools.islice(itertools.count(first), count):
        qpass.save(folder, params(generation))
        print(generation, flush=True)


def quantized(source, folder):
    """Quantize a file, each leaf into a file of its own."""
    stream.BATCH_BYTES = 1
    print("begun", flush=True)
    stream.stream(
        job_of_wishes(open_source(Path(source)), wishes("int8", [], [], "1")), Path(folder)
    )


JOBS = {"save": save, "quantize": quantized}


def main():
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        child = os.fork()  # nothing of JAX runs yet here, so that it can in the child
        if not child:
            print(os.getpid(), flush=True)
            JOBS[name](*arguments)
            os._exit(0)
        print("status", os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
