"""Programs before and after, in qpass's own text form."""

import jax
import jax.numpy as jnp
from jax import lax

import qpass
from tests.helpers import assert_rewrites, text
from tests.rewriting.oracle import INT8, random

W, X = random(8, 8, seed=1), random(4, 8, seed=2)

call = jax.custom_vjp(lambda x, w: jnp.tanh(x @ w))
call.defvjp(lambda x, w: (jnp.tanh(x @ w), w), lambda w, g: (2 * g @ w.T, None))


def test_a_product():
    assert_rewrites(
        lambda w, x: jnp.tanh(x @ w),
        INT8,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = dot_general b a (ab,bc->ac)
        d:f32[4,8] = tanh c
        out d
        """,
        """
        in a:i8[8,8] b:f32[8,1] c:f32[4,8]
        d:f32[4,8] = quantized_dot c a b (i8 x i8 -> f32)
        e:f32[4,8] = tanh d
        out e
        """,
    )


def test_weight_only_int4_in_groups():
    assert_rewrites(
        lambda w, x: x @ w,
        qpass.Rule(path="**", weight=qpass.int4.grouped(4)),
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = dot_general b a (ab,bc->ac)
        out c
        """,
        """
        in a:i4[8,8] b:f32[8,2] c:f32[4,8]
        d:f32[4,8] = quantized_dot c a b (f32 x i4 -> f32, groups of 4)
        out d
        """,
    )


def test_an_einsum():
    assert_rewrites(
        lambda w, x: jnp.einsum("td,dnh->tnh", x, w),
        INT8,
        (W.reshape(8, 2, 4), X),
        """
        in a:f32[8,2,4] b:f32[4,8]
        c:f32[4,2,4] = dot_general b a (ab,bcd->acd)
        out c
        """,
        """
        in a:i8[2,4,8] b:f32[2,4,1] c:f32[4,8]
        d:f32[4,2,4] = quantized_dot c a b (i8 x i8 -> f32)
        out d
        """,
    )


def test_a_scan():
    assert_rewrites(
        lambda w, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0],
        INT8,
        (random(3, 8, 8), X),
        """
        in a:f32[3,8,8] b:f32[4,8]
        c:f32[4,8] = scan b a (length=3)
            in a:f32[4,8] b:f32[8,8]
            c:f32[4,8] = dot_general a b (ab,bc->ac)
            d:f32[4,8] = tanh c
            out d
        out c
        """,
        """
        in a:i8[3,8,8] b:f32[3,8,1] c:f32[4,8]
        _:i32[] d:f32[4,8] = scan a b 0 c (length=3)
            in a:i8[3,8,8] b:f32[3,8,1] c:i32[] d:f32[4,8]
            e:f32[4,8] = quantized_dot d c a b (i8 x i8 -> f32, a layer of 3)
            f:f32[4,8] = tanh e
            g:i32[] = add c 1
            out g f
        out d
        """,
    )


def test_a_scan_over_layers_of_a_scan():
    assert_rewrites(
        lambda w, x: lax.scan(lambda c, w: lax.scan(lambda c, w: (c @ w, None), c, w), x, w)[0],
        INT8,
        (random(3, 2, 8, 8), X),
        """
        in a:f32[3,2,8,8] b:f32[4,8]
        c:f32[4,8] = scan b a (length=3)
            in a:f32[4,8] b:f32[2,8,8]
            c:f32[4,8] = scan a b (length=2)
                in a:f32[4,8] b:f32[8,8]
                c:f32[4,8] = dot_general a b (ab,bc->ac)
                out c
            out c
        out c
        """,
        """
        in a:i8[3,2,8,8] b:f32[3,2,8,1] c:f32[4,8]
        _:i32[] d:f32[4,8] = scan a b 0 c (length=3)
            in a:i8[3,2,8,8] b:f32[3,2,8,1] c:i32[] d:f32[4,8]
            e:i8[6,8,8] = reshape a (6,8,8)
            f:f32[6,8,1] = reshape b (6,8,1)
            _:i32[] g:f32[4,8] = scan c e f 0 d (length=2)
                in a:i32[] b:i8[6,8,8] c:f32[6,8,1] d:i32[] e:f32[4,8]
                f:i32[] = mul a 2
                g:i32[] = add f d
                h:f32[4,8] = quantized_dot e g b c (i8 x i8 -> f32, a layer of 6)
                i:i32[] = add d 1
                out i h
            h:i32[] = add c 1
            out h g
        out d
        """,
    )


def test_a_remat():
    assert_rewrites(
        jax.checkpoint(lambda w, x: jnp.sin(x @ w)),
        INT8,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = remat a b
            in a:f32[8,8] b:f32[4,8]
            c:f32[4,8] = dot_general b a (ab,bc->ac)
            d:f32[4,8] = sin c
            out d
        out c
        """,
        """
        in a:i8[8,8] b:f32[8,1] c:f32[4,8]
        d:f32[4,8] = remat a b c
            in a:i8[8,8] b:f32[8,1] c:f32[4,8]
            d:f32[4,8] = quantized_dot c a b (i8 x i8 -> f32)
            e:f32[4,8] = sin d
            out e
        out d
        """,
    )


def test_a_cond():
    assert_rewrites(
        lambda w, x: lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: x, x),
        INT8,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[1,1] = slice b (0:1,0:1)
        d:f32[] = squeeze c (0,1)
        e:bool[] = gt d 0
        f:i32[] = convert_element_type e (i32)
        g:f32[4,8] = cond f a b
            branch0:
                in _:f32[8,8] a:f32[4,8]
                out a
            branch1:
                in a:f32[8,8] b:f32[4,8]
                c:f32[4,8] = dot_general b a (ab,bc->ac)
                out c
        out g
        """,
        """
        in a:i8[8,8] b:f32[8,1] c:f32[4,8]
        d:f32[1,1] = slice c (0:1,0:1)
        e:f32[] = squeeze d (0,1)
        f:bool[] = gt e 0
        g:i32[] = convert_element_type f (i32)
        h:i32[] = clamp 0 g 1
        i:f32[4,8] = cond h a b c
            branch0:
                in _:i8[8,8] _:f32[8,1] a:f32[4,8]
                out a
            branch1:
                in a:i8[8,8] b:f32[8,1] c:f32[4,8]
                d:f32[4,8] = quantized_dot c a b (i8 x i8 -> f32)
                out d
        out i
        """,
    )


def test_a_custom_vjp():
    assert_rewrites(
        lambda w, x: call(x, w),
        INT8,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = custom_vjp_call b a
            in a:f32[4,8] b:f32[8,8]
            c:f32[4,8] = dot_general a b (ab,bc->ac)
            d:f32[4,8] = tanh c
            out d
        out c
        """,
        """
        in a:i8[8,8] b:f32[8,1] c:f32[4,8]
        d:f32[4,8] = custom_vjp_call c a b
            in a:f32[4,8] b:i8[8,8] c:f32[8,1]
            d:f32[4,8] = quantized_dot a b c (i8 x i8 -> f32)
            e:f32[4,8] = tanh d
            out e
        out d
        """,
    )


def test_a_tied_embedding():
    assert_rewrites(
        lambda w, ids: jnp.take(w, ids, axis=0, mode="clip") @ w.T,
        INT8,
        (W, jnp.arange(3)),
        """
        in a:f32[8,8] b:i32[3]
        c:f32[3,8] = jit a b (name=_take)
            in a:f32[8,8] b:i32[3]
            c:i32[3,1] = broadcast_in_dim b (0)
            d:f32[3,8] = gather a c
            out d
        d:f32[8,8] = transpose a (1,0)
        e:f32[3,8] = dot_general c d (ab,bc->ac)
        out e
        """,
        """
        in a:i8[8,8] b:f32[8,1] c:i32[3]
        d:i8[3,8] e:f32[3,1] = jit a b c (name=_take)
            in a:i8[8,8] b:f32[8,1] c:i32[3]
            d:i32[3,1] = broadcast_in_dim c (0)
            e:i8[3,8] = gather a d
            f:f32[3,1] = gather b d
            out e f
        f:f32[3,8] = convert_element_type d (f32)
        g:f32[3,8] = mul f e
        h:f32[3,8] = stop_gradient g
        i:f32[3,8] = quantized_dot h a b (i8 x i8 -> f32)
        out i
        """,
    )


def test_a_rule_that_keeps():
    assert_rewrites(
        lambda p, x: x @ p["a"] @ p["b"],
        [qpass.Rule(path="a", keep=True), INT8],
        ({"a": W, "b": W}, X),
        """
        in a:f32[8,8] b:f32[8,8] c:f32[4,8]
        d:f32[4,8] = dot_general c a (ab,bc->ac)
        e:f32[4,8] = dot_general d b (ab,bc->ac)
        out e
        """,
        """
        in a:f32[8,8] b:i8[8,8] c:f32[8,1] d:f32[4,8]
        e:f32[4,8] = dot_general d a (ab,bc->ac)
        f:f32[4,8] = quantized_dot e b c (i8 x i8 -> f32)
        out f
        """,
    )


def test_float_weights_are_encoded_on_entry():
    assert_rewrites(
        lambda w, x: jnp.tanh(x @ w),
        INT8,
        (W, X),
        """
        in a:f32[8,8] b:f32[4,8]
        c:f32[4,8] = dot_general b a (ab,bc->ac)
        d:f32[4,8] = tanh c
        out d
        """,
        """
        in a:f32[8,8] b:f32[4,8]
        c:i8[8,8] d:f32[8,1] = encode_weight a
        e:i8[8,8] f:f32[8,1] = optimization_barrier c d
        g:f32[4,8] = quantized_dot b e f a (i8 x i8 -> f32)
        h:f32[4,8] = tanh g
        out h
        """,
        stored=False,
    )


def test_names_of_values():
    from qpass.graph.text import letters

    assert [letters(k) for k in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


def test_the_same_program_reads_the_same():
    first, second = (text(lambda w, x: x @ w, (W, X)) for _ in range(2))
    assert first == second
