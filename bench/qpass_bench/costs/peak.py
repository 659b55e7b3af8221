"""How much memory `quantize` takes at most, measured from a process that does nothing else.

``python -m qpass_bench.costs.peak`` makes a model leaf by leaf, quantizes it, and prints JSON. What
the process holds is read from Linux, which also keeps the highest value since it was last told to
start anew. Figures are in leaves: of a model of 12 float leaves, donated, at most 13 should ever be
held.
"""

from __future__ import annotations

import argparse
import gc
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import qpass
from qpass.quantize import tree_nbytes
from qpass_bench.running.memory import alone, forget, held

MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""With this, glibc gives every array back to the system when it is freed."""


@dataclass(frozen=True)
class Model:
    """What is quantized, and how.

    Attributes:
        leaves: matrices in the model.
        width: rows and columns of each.
        dtype: of the float model.
        weight: the quantizer.
        donate: whether floats are deleted as they are quantized.
        mapped: whether glibc is told to keep no freed memory for itself.
    """

    leaves: int = 12
    width: int = 4096
    dtype: str = "float32"
    weight: str = "int8"
    donate: bool = True
    mapped: bool = False


def cases(width: int = 4096) -> list[Model]:
    """Dtypes and quantizers with and without donation; smaller leaves, which glibc keeps."""
    large = [
        Model(12, width, dtype, weight, donate)
        for dtype in ("float32", "bfloat16")
        for weight in ("int8", "int4 g32")
        for donate in (True, False)
    ]
    return [*large, Model(12, width // 2), Model(12, width // 2, mapped=True)]


def measure(model: Model) -> dict[str, Any]:
    """Run the model in a process of its own."""
    more = MAPPED if model.mapped else {}
    words = "qpass_bench.costs.peak", json.dumps(asdict(model))
    return asdict(model) | alone(*words, JAX_PLATFORMS="cpu", **more)


def forward(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """A product with every leaf."""
    for weight in params:
        x = x @ weight
    return x


def run(model: Model) -> dict[str, float]:
    """Make the model, quantize it, and say what the process held before, at most, and after."""
    q = qpass.transform(forward, (qpass.Rule(path="**", weight=model.weight),))
    x, make = jnp.ones((1, model.width), model.dtype), partial(_leaf, model.width, model.dtype)
    float_leaf = jax.eval_shape(make, 0)
    q.plan([float_leaf] * model.leaves, x)
    stored = tree_nbytes(q.quantize([make(0)], x))  # compiles, too
    gc.collect()
    before = held("VmRSS")
    params = [jax.block_until_ready(make(number)) for number in range(model.leaves)]
    forget()
    result = jax.block_until_ready(q.quantize(params, x, donate=model.donate))
    leaf = float_leaf.size * float_leaf.dtype.itemsize
    most, after = held("VmHWM") - before, held("VmRSS") - before
    return figures(model, leaf, stored, most) | {"after": after / leaf, "kept": len(result)}


def figures(model: Model, leaf: int, stored: int, most: int) -> dict[str, float]:
    """Bytes in leaves, beside the bound: all that is held at the end of a leaf, and a leaf more.

    Donated, floats go as codes come, so that is the model. Else it is the model and all codes.
    """
    last = 0 if model.donate else model.leaves * stored
    bound = model.leaves * leaf + last + leaf
    return {
        "leaf_mb": leaf / 1e6,
        "stored": stored / leaf,
        "peak": most / leaf,
        "bound": bound / leaf,
        "excess": (most - bound) / leaf,
    }


@partial(jax.jit, static_argnums=(0, 1))
def _leaf(width: int, dtype: str, number: int) -> jax.Array:
    """A matrix that is made without another array beside it."""
    along = jnp.arange(width, dtype=jnp.float32)
    return jnp.sin(along[:, None] * (number + 1) + along).astype(dtype)


def main() -> None:
    """Print the figures of the model on the command line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the fields of a Model, as JSON")
    print(json.dumps(run(Model(**json.loads(parser.parse_args().model)))))


if __name__ == "__main__":
    main()
