"""Kernels on the device against float64: random shapes with every tail, in every setting."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from qpass_bench.gpu.cases import BF16, FP8, experts, product
from qpass_bench.gpu.ways import ragged_candidates, ragged_operands
from qpass_kernels import Kernel, Product, RaggedProduct
from qpass_kernels.tuning.operands import operands
from qpass_kernels.tuning.search import Candidate, candidates

KINDS = (
    (BF16, "int8", None),
    (BF16, "int8", 64),
    (BF16, "int4", None),
    (BF16, "int4", 128),
    ("float16", "int4", 32),
    ("int8", "int8", None),
    ("int8", "int8", 128),
    ("int8", "int4", 128),
    (FP8, FP8, None),
    (FP8, "float8_e5m2", None),
    (FP8, FP8, 128),
)
RAGGED = ((FP8, FP8), (FP8, "float8_e5m2"), ("int8", "int8"), (BF16, "int4"), (BF16, "int8"))
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}
TENSOR_CORE_FP8 = 2.0**-12  # what it adds up 8-bit floats with, of the largest term
ROWS, COLUMNS, DEPTHS = (1, 5, 16, 63, 64, 130, 300), (64, 72, 1000, 1024), (64, 320, 576, 1000)


def sweep(number: int, seed: int = 0) -> Iterator[Product]:
    """Products of all kinds in turn, in random sizes, whole and with tails."""
    rng = np.random.default_rng(seed)
    for kind in itertools.islice(itertools.cycle(KINDS), number):
        yield product(*_sizes(rng), *kind)


def ragged_sweep(number: int, seed: int = 0) -> Iterator[RaggedProduct]:
    """The same for products of up to eight experts."""
    rng = np.random.default_rng(seed)
    for lhs, rhs in itertools.islice(itertools.cycle(RAGGED), number):
        yield experts(*_sizes(rng), int(rng.integers(1, 9)), lhs, rhs)


def _sizes(rng: np.random.Generator) -> tuple[int, int, int]:
    m, n, k = (int(rng.choice(sizes)) for sizes in (ROWS, COLUMNS, DEPTHS))
    return m, n, k


def check(
    kernels: Sequence[Kernel], products: Sequence[Product | RaggedProduct]
) -> list[dict[str, Any]]:
    """A row for every kernel in every setting and product: `off`, in units of what is allowed.

    A row with a `reason` is of one that does not run at all.
    """
    platform = jax.default_backend()
    return [
        {"kernel": c.kernel.name, "product": str(p), "config": str(c.config or "")} | _judged(c, p)
        for p in products
        for c in _candidates(kernels, platform, p)
    ]


def _candidates(kernels: Sequence[Kernel], platform: str, p: Product | RaggedProduct) -> Any:
    if isinstance(p, RaggedProduct):
        return ragged_candidates(kernels, platform, p)
    return candidates(kernels, platform, p)


def _judged(candidate: Candidate, p: Product | RaggedProduct) -> dict[str, Any]:
    given = ragged_operands(p) if isinstance(p, RaggedProduct) else operands(p)
    try:
        got = jax.jit(lambda *a: candidate.run(p, *a))(*given)
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"[:300]}
    off = np.abs(np.asarray(got.astype("float32"), np.float64) - exact(p, *given)[0])
    return {"off": float(np.max(off / allowed(p, *given)))}


def exact(
    p: Product | RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    sizes: Any = None,
) -> tuple[Any, Any]:
    """The result and the sum of its terms' sizes, in float64, from the definition."""
    a, b = _real(p, lhs, lhs_scale), _real(p, rhs, rhs_scale).swapaxes(1, 2)
    if sizes is None:
        return a @ b, abs(a) @ abs(b)
    parts = np.split(a, np.cumsum(sizes)[:-1])
    each = [(x @ w, abs(x) @ abs(w)) for x, w in zip(parts, b, strict=True)]
    result, terms = (np.concatenate(part) for part in zip(*each, strict=True))
    return result, terms


def allowed(p: Product | RaggedProduct, *given: Any) -> Any:
    """How far each number may be off: rounding of sums, of decoded weights and of the result."""
    result, terms = exact(p, *given)
    sums = (4 + 2 * p.k**0.5) * EPS["float32"]
    if p.grouped and "float8" not in p.lhs:
        sums += 2 * EPS.get(p.lhs, EPS["bfloat16"])  # the decoded weight
    if "float8" in p.lhs:
        sums += TENSOR_CORE_FP8
    return sums * terms + EPS[p.out] * abs(result) + 1e-30


def _real(p: Product | RaggedProduct, x: Any, scale: Any) -> Any:
    x = np.asarray(x.astype("float32"), np.float64)
    if scale is None:
        return x
    index = np.arange(p.k) // p.group if scale.shape[-1] > 1 else np.zeros(p.k, int)
    return x * np.asarray(scale, np.float64)[..., index]
