"""What the tests of this folder share."""

import jax
import numpy as np

import qpass
from tests.programs import normal, rules

INT8 = rules("int8", "int8")


def arrays(*x_shape: int, **shapes: tuple[int, ...]) -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters of those shapes and an input, of normal numbers."""
    rng = np.random.default_rng(0)
    return {name: normal(rng, shape) for name, shape in shapes.items()}, normal(rng, x_shape)


def quantized_weights(fn, *args, given=INT8):
    """Paths of the weights of quantized products."""
    plan = qpass.transform(fn, given).plan(*args)
    return {d.site.weight_path for d in plan.decisions if d.action}


def near(got, wanted, bound=0.05):
    """Quantized: another result, and close to the float one."""
    np.testing.assert_array_equal(np.isfinite(got), True)
    assert 0 < np.linalg.norm(got - wanted) < bound * np.linalg.norm(wanted)


def same(got, wanted):
    """Not quantized, or in the same way."""
    np.testing.assert_array_equal(got, wanted)
