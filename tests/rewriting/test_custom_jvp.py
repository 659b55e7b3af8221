"""User-defined forward rules survive, and forward mode works through everything."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.rewriting.oracle import INT8, check, close, plain, quantized, random, seen, total

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2), "w": random(3, 8, 8, seed=6)}
X = random(4, 8, seed=3)


def tripled(dot):
    """sin(x @ w) whose derivative is three times the true one."""

    @jax.custom_jvp
    def call(x, w):
        return jnp.sin(dot(x, w))

    @call.defjvp
    def _(primals, tangents):
        x, w = primals
        z = dot(x, w)
        return jnp.sin(z), 3.0 * jnp.cos(z) * (
            plain(tangents[0], seen(dot, w)) + plain(x, tangents[1])
        )

    return call


def test_the_users_factor_survives():
    check(lambda dot: lambda p, x: tripled(dot)(x, p["a"]), W, X)


def test_inside_scan_and_remat():
    def model(dot):
        def f(p, x):
            body = jax.checkpoint(lambda c, w: (tripled(dot)(c, w), None))
            return lax.scan(body, x, p["w"])[0]

        return f

    check(model, {"w": W["w"]}, X)


def twice_the_derivative_of_scans(dot):
    """The tangent of the carry begins as zero: nothing but the loop makes it one."""

    def step(c, w):
        return jnp.tanh(dot(c, w)), None

    def layers(w, x):
        return lax.scan(step, lax.scan(step, x, w)[0], w)[0]

    call = jax.custom_jvp(layers)

    @call.defjvp
    def _(primals, tangents):
        w, x = primals
        out, slope = jax.jvp(lambda w: layers(w, x), (w,), tangents[:1])
        return out, 2.0 * slope

    return lambda p, x: call(p["w"], x)


def test_scans_differentiated_by_a_rule():
    model = twice_the_derivative_of_scans(plain)
    q = qpass.transform(model, qpass.Rule(weight="int8"))
    rounded = {"w": jax.vmap(functools.partial(seen, quantized))(W["w"])}
    slope = jax.jit(jax.grad(lambda f, p: total(f(p, X)), 1), static_argnums=0)
    close(slope(q, W)["w"], slope(model, rounded)["w"])
    rule = [d for d in q.plan(W, X).decisions if "jvp" in d.site.id]
    assert sum(d.site.role == "tangent" for d in rule) == 4
    assert sum(d.site.role == "forward" and d.action is not None for d in rule) == 2


def test_nondifferentiated_and_integer_arguments():
    def model(dot):
        @functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
        def call(x, w, factor, n):
            return dot(x, w) * factor * n

        @call.defjvp
        def _(factor, primals, tangents):
            x, w, n = primals
            return call(x, w, factor, n), 3.0 * plain(tangents[0], seen(dot, w)) * n

        return lambda p, x: call(x, p["a"], 0.5, jnp.int32(2))

    check(model, W, X)


def test_jax_nn_functions_with_rules_of_their_own():
    def model(dot):
        def f(p, x):
            return jax.nn.silu(dot(jax.nn.relu(dot(x, p["a"])), p["b"])) + jax.nn.gelu(x)

        return f

    check(model, W, X)


def mixed(dot):
    def f(p, x):
        x, _ = lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(dot(c, w)), None)), x, p["w"])
        return jax.jit(lambda v: tripled(dot)(v, p["a"]))(x)

    return f


@pytest.mark.parametrize("jitted", [False, True])
def test_jvp(jitted):
    q, wanted = qpass.transform(mixed(plain), INT8), mixed(quantized)
    ways = [lambda f: lambda p, x: jax.jvp(f, (p, x), (W, X))]
    got, want = (way(f) for way in ways for f in (q, wanted))
    close((jax.jit(got) if jitted else got)(W, X), jax.jit(want)(W, X))


def test_linearize():
    q, wanted = qpass.transform(mixed(plain), INT8), mixed(quantized)
    out, linear = jax.linearize(q, W, X)
    close(out, wanted(W, X))
    close(linear(W, X), jax.jvp(wanted, (W, X), (W, X))[1])


def unscanned(dot):
    def f(p, x):
        x = jax.checkpoint(lambda v: jnp.tanh(dot(v, p["b"])))(x)
        return jax.jit(lambda v: tripled(dot)(v, p["a"]))(x)

    return f


OLD = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12)


@pytest.mark.parametrize(
    "model",
    [
        unscanned,
        pytest.param(
            mixed,
            marks=pytest.mark.skipif(
                OLD, reason="a scan differentiated in reverse loses derivative rules before 0.12"
            ),
        ),
    ],
)
def test_hessian_vector_product(model):
    def hvp(f):
        slope = jax.grad(lambda x: total(f(W, x)))
        return lambda x: jax.jvp(slope, (x,), (X,))[1]

    q, wanted = qpass.transform(model(plain), INT8), model(quantized)
    close(jax.jit(hvp(q))(X), jax.jit(hvp(wanted))(X), 1e-5)


def test_jacobians_forward_and_backward_agree():
    q = qpass.transform(lambda p, x: jnp.tanh(plain(x, p["a"])), INT8)
    forward, backward = jax.jacfwd(q, 1)(W, X[:1]), jax.jacrev(q, 1)(W, X[:1])
    close(forward, backward)


def test_jvp_with_stored_weights():
    q = qpass.transform(lambda p, x: jnp.tanh(plain(x, p["a"])), INT8)
    stored = q.quantize(W, X)
    close(
        jax.jvp(functools.partial(q, stored), (X,), (X,))[1],
        jax.jvp(functools.partial(q, W), (X,), (X,))[1],
    )
