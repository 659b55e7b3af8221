"""Results that are inputs, through nested programs, and results that are no arrays."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from qpass.graph.outputs import Handed, Static, handed_on
from qpass.graph.program import split_call, trace
from tests.graph.helpers import program_of, shape


def swapped(a, b):
    return b, a


def looped(a, b):
    return lax.fori_loop(0, 3, lambda _, c: (c[0], c[1] * c[0]), (a, b))


@pytest.mark.parametrize(
    ("fn", "wanted"),
    [
        (swapped, [1, 0]),
        (jax.jit(swapped), [1, 0]),
        (jax.checkpoint(jax.jit(swapped)), [1, 0]),
        (lambda a, b: (a, jax.jit(lambda x, y: (y + x, y))(a, b)[1]), [0, 1]),
        (lambda a, b: (a + 0, jnp.zeros(2)), [None, None]),
        (lambda a, b: lax.scan(lambda c, x: (c, x), a, b)[:1], [0]),
        (looped, [0, None]),
        (lambda a, b: lax.cond(True, swapped, lambda a, b: (a, b), a, b), [None, None]),
    ],
    ids=["itself", "jit", "remat", "nested", "computed", "scan", "loop", "cond"],
)
def test_an_input_is_recognised_wherever_it_is_handed_on(fn, wanted):
    jaxpr = jax.make_jaxpr(fn)(jnp.ones(2), jnp.ones((2,)))
    assert handed_on(jaxpr) == wanted


def test_state_that_is_an_input_is_no_result_of_the_program():
    def run(fn, args, kwargs):
        return fn(*args, **kwargs), {"same": args[0], "new": args[0] + 1, "static": "text", "n": 3}

    call = split_call(jnp.dot, (shape(2, 2), shape(2, 2)), {}, 0, lambda value: False)
    program = trace(jnp.dot, call, lambda value: value, run)
    assert len(program.jaxpr.outvars) == 2
    # in the order of the tree: the result, then `n`, `new`, `same` and `static` of the state
    assert [type(leaf) for leaf in program.outputs.leaves] == [
        type(None),
        Static,
        type(None),
        Handed,
        Static,
    ]
    result, state = program.outputs.build(["y", "w + 1"], ["w", "x"])
    assert result == "y"
    assert state == {"same": "w", "new": "w + 1", "static": "text", "n": 3}


def test_results_that_are_inputs_stay_results():
    program = program_of(swapped, shape(2), shape(2))
    assert len(program.jaxpr.outvars) == 2
