"""What the tests of several frameworks share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass

W8A8 = [qpass.Rule(weight="int8", act="int8")]
KEEP = [qpass.Rule(keep=True)]
WIDTH = 16


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def numbers(tree: Any) -> Any:
    """The tree with numpy arrays for its leaves; a typed key as its bits."""

    def number(leaf: Any) -> np.ndarray:
        typed = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    return jax.tree.map(number, tree)


def assert_same(got: Any, wanted: Any) -> None:
    """Same structure, dtypes and bits."""
    got, wanted = numbers(got), numbers(wanted)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_close(got: Any, wanted: Any, within: float = 0.05) -> None:
    """Near, relative to the norm, and not the same: something was quantized."""
    assert 0 < np.linalg.norm(got - wanted) < within * np.linalg.norm(wanted)


def assert_finite(tree: Any) -> None:
    leaves = jax.tree.leaves(tree)
    assert leaves
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


def weights(plan: qpass.Plan) -> list[str]:
    """Paths of the weights of the quantized sites, in program order."""
    return [row.weight for row in plan.rows if row.scheme]
