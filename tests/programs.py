"""Small programs that read their weights in different ways, for tests of whole transformations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import qpass


@dataclass(frozen=True)
class Case:
    """A function with the shapes of its parameters and inputs.

    Attributes:
        fn: takes the parameters, then the inputs.
        params: name -> shape.
        inputs: a shape for each float input; an int for that many row numbers.
    """

    fn: Callable
    params: dict[str, tuple[int, ...]]
    inputs: tuple[Any, ...]

    def arguments(self, dtype: str = "float32", seed: int = 0) -> tuple[Any, ...]:
        """Normal numbers in ``dtype``."""
        rng = np.random.default_rng(seed)
        params = {name: normal(rng, shape, dtype) for name, shape in self.params.items()}
        return params, *(_input(rng, shape, dtype) for shape in self.inputs)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    """Normal numbers of a shape."""
    return jnp.asarray(rng.standard_normal(shape), dtype)


def _input(rng: np.random.Generator, shape: Any, dtype: str) -> jax.Array:
    if isinstance(shape, int):
        return jnp.asarray(rng.integers(0, 8, shape), jnp.int32)
    return normal(rng, shape, dtype)


def matmul(p, x):
    return x @ p["w"]


def chain(p, x):
    return jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"] * 0.3 + x


def output_heads(p, x):
    return jnp.einsum("BTNH,NHD->BTD", x, p["w"])


def batched(p, x):
    return jnp.einsum("ebk,ekn->ebn", x, p["w"])


def weight_left(p, x):
    return p["w"] @ x


def transposed(p, x):
    return x @ p["w"].T


def scanned(p, x):
    def layer(h, w):
        return jnp.tanh(h @ w), None

    return jax.lax.scan(layer, x, p["w"])[0]


def cast(p, x):
    return (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).astype(x.dtype) + 1


def tied(p, ids):
    h = p["emb"][ids]
    return jnp.tanh(h * 1.5 + 0.25) @ p["emb"].T


def attention(p, x):
    qkv = jnp.einsum("BTD,SNDH->SBTNH", x, p["qkv"])
    scores = jax.nn.softmax(jnp.einsum("BTNH,BSNH->BNTS", qkv[0], qkv[1]))
    mixed = jnp.einsum("BNTS,BSNH->BTNH", scores, qkv[2])
    return x + jnp.einsum("BTNH,NHD->BTD", mixed, p["out"])


CASES = {
    "matmul": Case(matmul, {"w": (40, 24)}, ((3, 40),)),
    "one row": Case(matmul, {"w": (40, 24)}, ((1, 40),)),
    "chain": Case(chain, {"up": (24, 40), "bias": (40,), "down": (40, 24)}, ((5, 24),)),
    "several axes": Case(output_heads, {"w": (2, 20, 12)}, ((2, 3, 2, 20),)),
    "batched": Case(batched, {"w": (3, 40, 12)}, ((3, 4, 40),)),
    "weight left": Case(weight_left, {"w": (24, 40)}, ((40, 3),)),
    "transposed": Case(transposed, {"w": (24, 40)}, ((3, 40),)),
    "scanned": Case(scanned, {"w": (3, 40, 40)}, ((2, 40),)),
    "cast": Case(cast, {"w": (40, 24)}, ((3, 40),)),
    "tied": Case(tied, {"emb": (16, 40)}, (4,)),
    "attention": Case(attention, {"qkv": (3, 2, 40, 8), "out": (2, 8, 40)}, ((1, 3, 40),)),
}

# One product, `x[4, 16] @ w[16, 12]`, some followed by another one with v
WAYS_TO_MULTIPLY = {
    "lax.dot": lambda p, x: lax.dot(x, p["w"]),
    "dot_general bound by hand": lambda p, x: lax.dot_general_p.bind(
        x,
        p["w"],
        dimension_numbers=(((1,), (0,)), ((), ())),
        precision=None,
        preferred_element_type=None,
        out_sharding=None,
    ),
    "jnp.matmul": lambda p, x: jnp.matmul(x, p["w"]),
    "operator": lambda p, x: x @ p["w"],
    "tensordot": lambda p, x: jnp.tensordot(x, p["w"], 1),
    "jnp.dot": lambda p, x: jnp.dot(x, p["w"]),
    "einsum": lambda p, x: jnp.einsum("mk,kn->mn", x, p["w"]),
    "einsum of three": lambda p, x: jnp.einsum("mk,kn,nj->mj", x, p["w"], p["v"]),
    "einsum, optimized": lambda p, x: jnp.einsum(
        "mk,kn,nj->mj", x, p["w"], p["v"], optimize="optimal"
    ),
    "multi_dot": lambda p, x: jnp.linalg.multi_dot([x, p["w"], p["v"]]),
    "scaled first": lambda p, x: (x @ p["w"]) * 2,
    "inner": lambda p, x: jnp.inner(x, p["w"].T),
}

TYPES = (qpass.int8, qpass.int4, qpass.fp8_e4m3, qpass.fp8_e5m2)


def rules(weight: Any, act: Any = None, **selectors: Any) -> list[qpass.Rule]:
    """One rule for every product with a weight."""
    return [qpass.Rule(weight=weight, act=act, **selectors)]
