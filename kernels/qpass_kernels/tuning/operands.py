"""Random operands of a product, made on the device: zeros draw less power and run faster."""

from typing import Any

import jax
import jax.numpy as jnp

from qpass_kernels.kernel import Product, dtype


def operands(product: Product, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Make lhs, lhs_scale (or None), rhs and rhs_scale; the product's numbers are about 1."""
    keys = jax.random.split(jax.random.key(seed), 4)
    lhs = values(keys[0], (product.batch, product.m, product.k), product.lhs)
    rhs = values(keys[1], (product.batch, product.n, product.k), product.rhs)
    size = 1 / (product.k**0.5 * _spread(product.rhs))
    lhs_scale = None
    if product.lhs_scale != "none":
        lhs_scale = _scale(keys[2], product, product.m, product.lhs_scale) / _spread(product.lhs)
    return lhs, lhs_scale, rhs, _scale(keys[3], product, product.n, product.rhs_scale) * size


def values(key: Any, shape: tuple[int, ...], name: str) -> Any:
    """Random numbers of a type: integers of its whole range, else normal ones."""
    if "int" in name:
        limits = jnp.iinfo(dtype(name))
        codes = jax.random.randint(key, shape, limits.min, limits.max + 1, jnp.int8)
        return codes.astype(dtype(name))
    return (jax.random.normal(key, shape, jnp.bfloat16) * _spread(name)).astype(dtype(name))


def weight_bytes(product: Product) -> int:
    """Bytes of the right codes."""
    bits = jax.dtypes.itemsize_bits(dtype(product.rhs))
    return max(1, product.batch * product.n * product.k * bits // 8)


def copies_of(weight: Any, number: int) -> tuple[Any, ...]:
    """As many arrays of the same numbers, each in memory of its own."""
    return tuple(jnp.copy(weight) for _ in range(number))


def _spread(name: str) -> float:
    """About what normal numbers are multiplied by to fill the range of a type."""
    return {"int8": 64.0, "int4": 4.0}.get(name, 8.0 if name.startswith("float8") else 1.0)


def _scale(key: Any, product: Product, rows: int, layout: str) -> Any:
    shape = (product.batch, rows, product.groups if layout == "group" else 1)
    return jax.random.uniform(key, shape, jnp.float32, 0.5, 1.5)
