"""Callbacks in order, random keys, checks: what a program does beside computing."""

import contextlib
import io

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import io_callback

import qpass
from tests.rewriting.oracle import INT8, close, plain, quantized, random

W = random(8, 8, seed=1)
X = random(4, 8, seed=2)


def printed(fn, *args):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        fn(*args)
        jax.effects_barrier()
    return text.getvalue().split()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_ordered_prints_in_a_scan(wrap):
    def f(w, x):
        def step(c, i):
            jax.debug.print("i{}", i, ordered=True)
            return jnp.tanh(plain(c, w)), None

        return lax.scan(step, x, jnp.arange(3))[0]

    assert printed(wrap(qpass.transform(f, INT8)), W, X) == ["i0", "i1", "i2"]


def test_ordered_io_callbacks_in_a_scan():
    seen = []

    def f(w, x):
        def step(c, i):
            io_callback(lambda v: seen.append(int(v)), None, i, ordered=True)
            return jnp.tanh(plain(c, w)), None

        return lax.scan(step, x, jnp.arange(3))[0]

    jax.jit(qpass.transform(f, INT8))(W, X)
    jax.effects_barrier()
    assert seen == [0, 1, 2]


def test_a_print_in_a_rematerialized_function():
    def f(w, x):
        def block(w, x):
            jax.debug.print("ran")
            return jnp.sin(plain(x, w)).sum()

        return jax.checkpoint(block)(w, x)

    assert printed(jax.grad(qpass.transform(f, INT8)), W, X)[0] == "ran"


def test_typed_keys_as_arguments_and_under_vmap():
    def model(dot):
        def f(w, x, key):
            mask = jax.random.bernoulli(key, 0.5, x.shape)
            return dot(x * mask, w), jax.random.split(key)

        return f

    q = qpass.transform(model(plain), INT8)
    keys = jax.random.split(jax.random.key(0), 2)
    close(q(W, X, keys[0]), model(quantized)(W, X, keys[0]))
    axes = (None, None, 0)
    close(jax.vmap(q, axes)(W, X, keys), jax.vmap(model(quantized), axes)(W, X, keys))


def test_jax_enable_checks():
    def f(w, x):
        step = jax.checkpoint(lambda c, _: ((plain(c[0], w) * 0.1, c[1] + 1.0), None))
        return lax.scan(step, (x, 0.0), None, length=2)[0]

    q = qpass.transform(f, INT8)
    with jax.enable_checks(True):
        q(W, X)
        jax.grad(lambda w: q(w, X)[0].sum())(W)


def test_jax_checking_leaks():
    q = qpass.transform(lambda w, x: jax.jit(plain)(x, w), INT8)
    with jax.checking_leaks():
        close(jax.jit(q)(W, X), quantized(X, W))


def test_debug_nans():
    q = qpass.transform(lambda w, x: jnp.log(plain(x, w)), INT8)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        q(W, X)


def test_dead_products_are_planned():
    def f(w, x):
        plain(x, w)
        return x + 1

    q = qpass.transform(f, INT8)
    assert [d.action is not None for d in q.plan(W, X).decisions] == [True]
    close(q(W, X), X + 1)


def test_mutable_arrays():
    def f(w, x):
        ref = jax.new_ref(jnp.zeros((4, 8)))
        ref[...] = plain(x, w)
        ref[0] = ref[0] + 1
        return jax.freeze(ref)

    close(qpass.transform(f, INT8)(W, X), quantized(X, W).at[0].add(1))


def test_op_names_of_the_hlo_stay():
    def f(w, x):
        with jax.named_scope("block"):

            def step(c, _):
                return (jax.named_scope("mlp")(lambda c: jnp.tanh(plain(c, w)))(c), None)

            return lax.scan(step, x, None, length=2)[0]

    text = jax.jit(qpass.transform(f, INT8)).lower(W, X).compile().as_text()
    assert "block/while/body/" in text
    assert "mlp/tanh" in text
