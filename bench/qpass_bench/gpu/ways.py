"""All that may compute a product on this device, dense or ragged, with its random operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass_kernels import REFERENCE, Kernel, Product, RaggedProduct
from qpass_kernels.kernel import is_for
from qpass_kernels.ragged_reference import one_expert
from qpass_kernels.tuning.operands import operands, values, weight_bytes
from qpass_kernels.tuning.search import Candidate, candidates


@dataclass(frozen=True)
class Way:
    """One way to compute a product.

    Attributes:
        kernel, config: names for a report.
        run: (lhs, lhs_scale, rhs, rhs_scale) -> the result.
        given: these four, random.
        like: a dense product with as large a weight.
        read: bytes of the weight.
    """

    kernel: str
    config: str
    run: Callable[..., Any]
    given: tuple[Any, Any, Any, Any]
    like: Product
    read: int


def ways(p: Product | RaggedProduct, kernels: Sequence[Kernel]) -> Iterator[Way]:
    """XLA's product of bfloat16, then every kernel that takes the product, in every setting.

    The reference, which nobody would run for its speed, is among them only when it is alone.
    """
    return _ragged(p, kernels) if isinstance(p, RaggedProduct) else _dense(p, kernels)


def _dense(p: Product, kernels: Sequence[Kernel]) -> Iterator[Way]:
    like = Product(p.batch, p.m, p.n, p.k, "bfloat16", "float32", p.out, p.k, "none", "row")
    floats = _floats((p.batch, p.m, p.k), (p.batch, p.n, p.k))
    yield Way("XLA bfloat16", "", _multiply, floats, like, 2 * floats[2].size)
    found = list(candidates(kernels, jax.default_backend(), p))
    given = operands(p)
    for c in [c for c in found if c.kernel is not REFERENCE] or found:
        yield Way(c.kernel.name, str(c.config or ""), partial(c.run, p), given, p, weight_bytes(p))


def _ragged(p: RaggedProduct, kernels: Sequence[Kernel]) -> Iterator[Way]:
    *given, sizes = ragged_operands(p)
    each = replace(one_expert(p, 1), batch=p.experts)
    like = replace(each, lhs="bfloat16", rhs="float32", lhs_scale="none", rhs_scale="row")
    floats = _floats((p.m, p.k), (p.experts, p.k, p.n))
    run = partial(_multiply_ragged, sizes)
    yield Way("XLA bfloat16", "", run, floats, like, 2 * floats[2].size)
    found = list(ragged_candidates(kernels, jax.default_backend(), p))
    for c in [c for c in found if c.kernel is not REFERENCE.ragged] or found:
        run = partial(_with_sizes, partial(c.run, p), sizes)
        yield Way(c.kernel.name, str(c.config or ""), run, tuple(given), each, weight_bytes(each))


def ragged_candidates(
    kernels: Sequence[Kernel], platform: str, p: RaggedProduct
) -> Iterator[Candidate]:
    """All that may compute a ragged product on a platform, in the table's order."""
    dense = one_expert(p, p.m)
    for ragged in (k.ragged for k in kernels if k.ragged and is_for(k, platform, dense)):
        if ragged.supports(p) is None:
            for config in ragged.configs(p) or (None,):
                yield Candidate(ragged, config)


def ragged_operands(p: RaggedProduct, seed: int = 0) -> tuple[Any, Any, Any, Any, Any]:
    """Random lhs, its scale or None, weights of all experts, their scales, rows of each expert."""
    lhs, lhs_scale, *_ = operands(one_expert(p, p.m), seed)
    *_, rhs, rhs_scale = operands(replace(one_expert(p, 1), batch=p.experts), seed + 1)
    sizes = np.random.default_rng(seed).multinomial(p.m, [1 / p.experts] * p.experts)
    scale = None if lhs_scale is None else lhs_scale[0]
    return lhs[0], scale, rhs, rhs_scale, jnp.asarray(sizes, jnp.int32)


def _with_sizes(run: Callable[..., Any], sizes: Any, *given: Any) -> Any:
    return run(*given, sizes)


def _floats(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Any, None, Any, None]:
    keys = jax.random.split(jax.random.key(1))
    return values(keys[0], left, "bfloat16"), None, values(keys[1], right, "bfloat16"), None


def _multiply(lhs: Any, lhs_scale: None, rhs: Any, rhs_scale: None) -> Any:
    contract = (((2,), (2,)), ((0,), (0,)))
    return lax.dot_general(lhs, rhs, contract, preferred_element_type=jnp.bfloat16)


def _multiply_ragged(sizes: Any, lhs: Any, lhs_scale: None, rhs: Any, rhs_scale: None) -> Any:
    return lax.ragged_dot(lhs, rhs, sizes, preferred_element_type=jnp.bfloat16)
