"""What a decoding step is compiled to: codes are written in place and never decoded as a whole."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

import qpass
from tests.cache import programs

SHAPE = (2, 256, 2, 8)


def arrays(compiled, dtype):
    """Sizes of all arrays of a dtype in the optimized program."""
    found = re.findall(rf"= {dtype}\[([\d,]*)\]", compiled.as_text())
    return [math.prod(int(n) for n in sizes.split(",") if n) for sizes in found]


@pytest.mark.parametrize("store", ["int8", "int4 g4"])
def test_no_float_copy_of_the_cache(store):
    p, x = programs.params(), programs.inputs(1)
    q = qpass.transform(programs.step, qpass.Rule(cache="cache/**", store=store))
    cache = q.quantize_cache(p, x, programs.empty(SHAPE), 0)
    args = p, x, cache, jnp.int32(0)
    compiled = jax.jit(q, donate_argnums=2).lower(*args).compile()
    assert max(arrays(compiled, "f32")) < math.prod(SHAPE) / 2
    exact = jax.jit(programs.step).lower(p, x, programs.empty(SHAPE), jnp.int32(0)).compile()
    assert max(arrays(exact, "f32")) >= math.prod(SHAPE)
    if store == "int8":
        assert "copy(" not in "".join(
            line for line in str(compiled.as_text()).splitlines() if "s8[2,2," in line
        )
