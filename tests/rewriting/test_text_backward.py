"""Backward products before and after, in qpass's own text form."""

from textwrap import dedent

import jax
import jax.numpy as jnp

import qpass
from tests.helpers import assert_rewrites, text
from tests.rewriting.oracle import random

W, X = random(8, 8, seed=1), random(4, 8, seed=2)
RULE = qpass.Rule(weight="fp8_e4m3 tensor", act="int8", grad="fp8_e5m2")
FORWARD = """
in a:f32[8,8] b:f32[4,8]
c:f8_e4m3fn[8,8] d:f32[1,1] = encode_weight a
e:f8_e4m3fn[8,8] f:f32[1,1] = optimization_barrier c d
g:f32[4,8] = quantized_dot b e f a (i8 x f8_e4m3fn -> f32)
h:f32[4,8] = sin g
i:f32[4,8] = cos g
_:f32[] = reduce_sum h (0,1)
j:f32[4,8] = broadcast_in_dim 1
k:f32[4,8] = mul j i
"""


def loss(w, x):
    return jnp.sin(x @ w).sum()


def test_inside():
    """Both are quantized anew for the backward products: these sum over other axes."""
    assert_rewrites(
        jax.grad(loss, (0, 1)),
        RULE,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = dot_general b a (ab,bc->ac)
        d:f32[4,8] = sin c
        e:f32[4,8] = cos c
        _:f32[] = reduce_sum d (0,1)
        f:f32[4,8] = broadcast_in_dim 1
        g:f32[4,8] = mul f e
        h:f32[8,8] = dot_general g b (ab,ac->bc)
        i:f32[8,8] = transpose h (1,0)
        j:f32[4,8] = dot_general g a (ab,cb->ac)
        out i j
        """,
        FORWARD
        + dedent("""\
        l:i8[8,4] m:f32[8,1] = encode_weight b
        n:i8[8,4] o:f32[8,1] = optimization_barrier l m
        p:f32[8,8] = quantized_dot k n o b (f8_e5m2 x i8 -> f32)
        q:f32[8,8] = transpose p (1,0)
        r:f8_e4m3fn[8,8] s:f32[1,1] = encode_weight a
        t:f8_e4m3fn[8,8] u:f32[1,1] = optimization_barrier r s
        v:f32[4,8] = quantized_dot k t u a (f8_e5m2 x f8_e4m3fn -> f32)
        out q v
        """),
        stored=False,
    )


def test_outside():
    """The derivative of one call: both products in it, none of floats."""
    both = "f8_e5m2 x i8 -> f32; f8_e5m2 x f8_e4m3fn -> f32"
    after = f"{FORWARD}l:f32[4,8] m:f32[8,8] = quantized_dot e f a b k ({both})\nout m l"
    assert text(jax.grad(qpass.transform(loss, RULE), (0, 1)), (W, X)) == after.strip("\n")
