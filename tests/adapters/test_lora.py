"""Adapters of low rank: beside LoRA written by hand, in every layout and transformation."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import qpass
from qpass.errors import CallError
from tests.adapters.products import PRODUCTS, by_hand
from tests.programs import CASES, matmul, scanned

KEY = jax.random.key(5)
LORA = qpass.LoRA(rank=3, alpha=6.0)


def with_lora(fn, weight="int8", act=None, lora=LORA):
    return qpass.transform(fn, [qpass.Rule(weight=weight, act=act, lora=lora)])


def trained(q, *args):
    """Adapters that add something."""
    leaves, tree = jax.tree.flatten(q.init_adapters(KEY, *args))
    keys = jax.random.split(KEY, len(leaves))
    new = [0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, new)


def close(got, wanted, tolerance=2e-5):
    scale = np.max(np.abs(np.asarray(wanted, np.float64)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "weight"),
    [*((name, None) for name in PRODUCTS), ("heads in", "int4 g8"), ("experts left", "int8")],
)
def test_values_and_gradients_are_those_of_lora_by_hand(name, weight):
    product = PRODUCTS[name]
    params, x = product.arguments()
    q = with_lora(product, weight)
    adapters = trained(q, params, x)
    a, b = adapters["w"]["a"], adapters["w"]["b"]
    base = q.quantize(params, x)["w"]
    base = base.dequantize() if isinstance(base, qpass.QTensor) else base

    def loss(adapters, x):
        y = q.with_adapters(adapters)(params, x)
        return jnp.sum(jnp.sin(y)), y

    (da, dx), y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(adapters, x)
    wanted = by_hand(product, x, base, a, b, scale=2.0)
    got = {"y": y, "x": dx, "a": da["w"]["a"], "b": da["w"]["b"]}
    for part, value in wanted.items():
        close(got[part], value)


@pytest.mark.parametrize("name", ["matmul", "batched", "scanned", "weight left"])
def test_at_the_beginning_nothing_is_added(name):
    fn, args = CASES[name].fn, CASES[name].arguments()
    q, plain = with_lora(fn, "int4 g8"), qpass.transform(fn, [qpass.Rule(weight="int4 g8")])
    adapters = q.init_adapters(KEY, *args)
    got = jax.jit(lambda adapters, *args: q.with_adapters(adapters)(*args))(adapters, *args)
    np.testing.assert_array_equal(got, jax.jit(plain)(*args))
    np.testing.assert_array_equal(q(*args), plain(*args))  # without adapters, too


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("scanned", None),
        ("attention", "int8"),
        *((name, "int4 g8") for name in ("batched", "chain", "several axes", "transposed")),
    ],
)
def test_merged_weights_give_the_same_without_adapters(name, weight):
    fn, args = CASES[name].fn, CASES[name].arguments()
    q = with_lora(fn, weight)
    adapters = trained(q, *args)
    wanted = q.with_adapters(adapters)(*args)
    assert np.abs(np.asarray(q(*args)) - wanted).max() > 0.1
    merged = q.merge(adapters, *args)
    assert jax.tree.structure(merged) == jax.tree.structure(args[0])
    close(fn(merged, *args[1:]), wanted)
    stored = q.quantize(*args)
    for path, leaf in q.merge(adapters, stored, *args[1:]).items():
        np.testing.assert_array_equal(leaf, merged[path])


def test_stored_weights_give_the_bits_of_float_ones():
    params, x = CASES["chain"].arguments()
    q = with_lora(CASES["chain"].fn, "int4 g8", "int8")
    run = jax.jit(lambda adapters, p: q.with_adapters(adapters)(p, x))
    adapters = trained(q, params, x)
    np.testing.assert_array_equal(run(adapters, params), run(adapters, q.quantize(params, x)))


def test_only_adapters_are_trained():
    params, x = CASES["chain"].arguments()
    rules = [
        qpass.Rule(path="up", weight="int8", lora=LORA),
        qpass.Rule(path="down", weight="int8"),
    ]
    q = qpass.transform(lambda p, x: jnp.sum(jnp.sin(CASES["chain"].fn(p, x))), rules)
    adapters = trained(q, params, x)
    assert set(adapters) == {"up"}
    gradient = jax.grad(lambda p: q.with_adapters(adapters)(p, x))(params)
    assert not np.any(gradient["up"])
    assert np.any(gradient["down"])
    assert np.any(gradient["bias"])
    assert np.any(jax.grad(q)(params, x)["up"])  # no adapters, nothing is frozen


def test_layers_of_a_scan_have_their_own():
    """Beside the same layers written one after the other; forward, and gradients under remat."""
    params, x = CASES["scanned"].arguments()

    def one_by_one(p, x):
        for layer in range(3):
            x = jnp.tanh(x @ p[str(layer)])
        return x

    def rematerialized(p, x):
        layer = jax.checkpoint(lambda h, w: jnp.tanh(h @ w))
        return lax.scan(lambda h, w: (layer(h, w), None), x, p["w"])[0]

    single = {str(k): params["w"][k] for k in range(3)}
    plain = with_lora(one_by_one)
    for fn in (scanned, rematerialized):
        q = with_lora(fn)
        stack = trained(q, params, x)
        assert stack["w"]["a"].shape == (3, 40, 3)
        each = {str(k): jax.tree.map(lambda f, k=k: f[k], stack["w"]) for k in range(3)}
        run = jax.value_and_grad(lambda a, q=q: jnp.sum(q.with_adapters(a)(params, x)))
        (value, slope), (wanted, slopes) = (
            jax.jit(run)(stack),
            jax.value_and_grad(lambda a: jnp.sum(plain.with_adapters(a)(single, x)))(each),
        )
        close(value, wanted)
        for k in range(3):
            close(slope["w"]["a"][k], slopes[str(k)]["a"], 1e-4)
            close(slope["w"]["b"][k], slopes[str(k)]["b"], 1e-4)


@pytest.mark.parametrize("sliced", ["inner", "outer"])
def test_scans_of_one_length_are_told_apart(sliced):
    """Two scans around a product, of which one takes slices of the weight."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((3, 8, 8)), jnp.float32)}
    xs = jnp.asarray(rng.standard_normal((3, 2, 8)), jnp.float32)

    def inner(p, xs):
        def step(x):
            return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]

        return lax.scan(lambda c, x: (c, step(x)), 0.0, xs)[1]

    def outer(p, xs):
        def step(h, w):
            return lax.scan(lambda c, x: (c, jnp.tanh(x @ w)), 0.0, h)[1], None

        return lax.scan(step, xs, p["w"])[0]

    fn = {"inner": inner, "outer": outer}[sliced]
    q = with_lora(fn, None)
    adapters = trained(q, params, xs)
    close(q.with_adapters(adapters)(params, xs), fn(q.merge(adapters, params, xs), xs))


def test_slices_reshapes_loops_and_branches_are_followed():
    """One weight of three layers, sliced in Python, along what is and what is not summed over."""
    rng = np.random.default_rng(1)
    params = {"qkv": jnp.asarray(rng.standard_normal((8, 3, 24)), jnp.float32)}
    x = jnp.asarray(rng.standard_normal((4, 8)), jnp.float32)

    def fn(p, x):
        query, key, value = (p["qkv"][:, k] for k in range(3))
        h = x[:, :6] @ query[2:, 4:12] + lax.rev(x, (1,)) @ query[::-1, ::3]
        h = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] @ key[:, :8]), (0, h))[1]
        heads = jnp.einsum("bd,dnh->bnh", h, value.reshape(8, 4, 6))
        return lax.cond(x[0, 0] < 9, lambda h: h @ key, lambda h: h @ value, heads[..., 0] @ PAD)

    q = with_lora(fn, None)
    adapters = trained(q, params, x)
    assert {k: v.shape for k, v in adapters["qkv"].items()} == {"a": (3, 8, 3), "b": (3, 3, 24)}
    close(q.with_adapters(adapters)(params, x), fn(q.merge(adapters, params, x), x))


PAD = np.eye(4, 8, dtype=np.float32)


def test_one_weight_in_two_directions():
    """Tied: ``x @ w`` and ``y @ w.T`` contract different factors first."""
    params, x = CASES["matmul"].arguments()
    q = with_lora(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, None)
    adapters = trained(q, params, x)
    close(q.with_adapters(adapters)(params, x), q.fn(q.merge(adapters, params, x), x))


def test_adapters_may_be_mapped():
    """Two of them, each for its example; and one for a batch of examples."""
    params, x = CASES["chain"].arguments()
    q = with_lora(CASES["chain"].fn, "int8")
    one, two = trained(q, params, x), jax.tree.map(jnp.negative, trained(q, params, x))
    both = jax.tree.map(lambda *a: jnp.stack(a), one, two)
    got = jax.vmap(lambda a: q.with_adapters(a)(params, x))(both)
    close(got, jnp.stack([q.with_adapters(a)(params, x) for a in (one, two)]))
    got = jax.vmap(lambda x: q.with_adapters(one)(params, x))(x[:, None])
    close(got[:, 0], q.with_adapters(one)(params, x))


@pytest.mark.parametrize("check_vma", [True, False])
def test_devices_that_share_the_weights_sum_the_gradients(check_vma):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    parts = {"mesh": mesh, "in_specs": (P(), P("d")), "out_specs": P("d")}
    params, x = CASES["matmul"].arguments()
    x = jnp.concatenate([x, -x, x * 2, x / 3])
    whole = with_lora(matmul, "int8", "int8")
    split = with_lora(jax.shard_map(matmul, check_vma=check_vma, **parts), "int8", "int8")
    adapters = trained(whole, params, x)

    def loss(q):
        return jax.jit(
            jax.value_and_grad(lambda a: jnp.sum(jnp.sin(q.with_adapters(a)(params, x))))
        )

    value, slope = loss(split)(adapters)
    wanted, slopes = loss(whole)(adapters)
    close(value, wanted)
    jax.tree.map(close, slope, slopes)


def test_dropout_takes_its_key_and_is_right_in_the_mean():
    params, x = CASES["matmul"].arguments()
    q = with_lora(matmul, None, lora=qpass.LoRA(rank=3, alpha=6.0, dropout=0.5))
    adapters = trained(q, params, x)
    full = with_lora(matmul, None).with_adapters(adapters)(params, x)
    np.testing.assert_array_equal(q.with_adapters(adapters)(params, x), full)  # no key
    run = jax.jit(jax.vmap(lambda key: q.with_adapters(adapters).with_key(key)(params, x)))
    draws = np.asarray(run(jax.random.split(KEY, 600)))
    sigma = draws.std(axis=0) / np.sqrt(len(draws))
    assert sigma.min() > 0
    assert np.all(np.abs(draws.mean(axis=0) - full) < 4.5 * sigma)
    np.testing.assert_array_equal(run(jax.random.split(KEY, 600))[0], draws[0])


def test_layers_drop_their_own_and_a_second_run_the_same():
    """Gradients under remat are those of the values that were drawn."""
    params, x = CASES["scanned"].arguments()
    params = {"w": jnp.broadcast_to(params["w"][:1], params["w"].shape)}
    lora = qpass.LoRA(rank=3, alpha=6.0, dropout=0.4)

    def same_again(p, x):
        return lax.scan(lambda _, w: (0.0, x @ w), 0.0, p["w"])[1]

    q = with_lora(same_again, None, lora=lora).with_key(KEY)
    one = jax.tree.map(lambda f: f[:1], trained(q, params, x))
    alike = jax.tree.map(lambda f: jnp.broadcast_to(f, (3, *f.shape[1:])), one)
    got = np.asarray(q.with_adapters(alike)(params, x))
    assert np.any(got[0] != got[1])
    assert np.any(got[1] != got[2])

    rerun = jax.checkpoint(lambda h, w: jnp.sin(h @ w))
    losses = [
        with_lora(lambda p, x, f=f: jnp.sum(f(x, p["w"][0])), None, lora=lora).with_key(KEY)
        for f in (rerun, lambda h, w: jnp.sin(h @ w))
    ]
    slopes = [jax.grad(lambda a, q=q: q.with_adapters(a)(params, x))(alike) for q in losses]
    jax.tree.map(close, *slopes)


def test_jitted_functions_take_other_adapters_without_compiling():
    params, x = CASES["chain"].arguments()
    q = qpass.jit(CASES["chain"].fn, rules=[qpass.Rule(weight="int8", lora=LORA)])
    adapters = trained(q, params, x)
    for factor in (1.0, 2.0):
        scaled = jax.tree.map(lambda f, factor=factor: f * factor, adapters)
        wanted = with_lora(CASES["chain"].fn).with_adapters(scaled)(params, x)
        close(q.with_adapters(scaled)(params, x), wanted)
    assert q.taking_given._cache_size() == 1
    slope = jax.grad(lambda a: jnp.sum(q.with_adapters(a).with_key(KEY)(params, x)))(adapters)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slope))
    assert jax.tree.structure(q.merge(adapters, params, x)) == jax.tree.structure(params)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
@dataclass
class Layer:
    w: jax.Array

    def __call__(self, x):
        return x @ self.w


def test_model_objects_take_adapters_too():
    params, x = CASES["matmul"].arguments()
    q = with_lora(Layer(params["w"]))
    adapters = trained(q, x)
    wanted = with_lora(matmul).with_adapters(adapters)(params, x)
    np.testing.assert_array_equal(q.with_adapters(adapters)(x), wanted)
    np.testing.assert_array_equal(q.quantize(x).with_adapters(adapters)(x), wanted)
    close(q.merge(adapters, x).module(x), wanted)
    assert np.any(jax.grad(lambda a: jnp.sum(q.with_adapters(a)(x)))(adapters)["w"]["b"])


def test_flax_modules_stay_as_they_are():
    """Of NNX a model object, which is trained in a jitted step; of Linen the apply function."""
    nnx = pytest.importorskip("flax.nnx", reason="needs the extra flax")
    linen = pytest.importorskip("flax.linen", reason="needs the extra flax")
    x = CASES["matmul"].arguments()[1]
    model = nnx.Linear(40, 8, rngs=nnx.Rngs(0))
    q = with_lora(model, "int4 g8").quantize(x)
    adapters = trained(q, x)
    assert adapters.keys() == {"kernel"} or adapters.keys() == {"kernel/value"}
    slope = jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(q.with_adapters(a)(x)))))(adapters)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slope))
    close(q.merge(adapters, x).module(x), q.with_adapters(adapters)(x))

    dense = linen.Dense(8)
    variables = dense.init(KEY, x)
    q = with_lora(dense.apply, "int8")
    adapters = trained(q, variables, x)
    assert set(adapters) == {"params/kernel"}
    close(dense.apply(q.merge(adapters, variables, x), x), q.with_adapters(adapters)(variables, x))


def test_initializers_see_one_matrix_for_each_layer():
    params, x = CASES["scanned"].arguments()
    params = {"w": params["w"].astype(jnp.bfloat16)}
    factors = with_lora(scanned).init_adapters(KEY, params, x)["w"]
    assert factors["a"].dtype == jnp.bfloat16
    assert np.abs(factors["a"].astype(np.float32)).max() < 0.16  # 1/√40, rounded
    assert not np.any(factors["b"])
    assert np.any(factors["a"][0] != factors["a"][1])
    shapes = []

    def init(key, shape, dtype):
        shapes.append(shape)
        return jnp.full(shape, 2, dtype)

    lora = qpass.LoRA(rank=2, init_a=init, init_b=init, dtype="float32")
    product = PRODUCTS["heads in"]
    params, x = product.arguments()
    q = with_lora(product, lora=lora)
    made = q.init_adapters(KEY, params, x)["w"]
    assert shapes == [(30, 2), (2, 24)]
    assert [f.shape for f in made.values()] == [(6, 5, 2), (2, 24)]
    assert all(np.all(f == 2) and f.dtype == np.float32 for f in made.values())
    jax.eval_shape(lambda key: q.init_adapters(key, params, x), KEY)


def test_statistics_and_searches_for_faults_run_with_adapters():
    params, x = CASES["chain"].arguments()
    rules = [qpass.Rule(path="up", lora=LORA), qpass.Rule(weight="int8", act="int8", lora=LORA)]
    q = qpass.transform(CASES["chain"].fn, rules)
    given = q.with_adapters(trained(q, params, x))
    assert set(given.capture(params, x)) == {"down/dot_general.0"}
    assert given.compare(params, x).result < 0.1  # of both programs without them
    spoilt = jax.tree.map(lambda f: f * jnp.nan, given.given.adapters)
    assert not given.nonfinite(params, x).found
    assert q.with_adapters(spoilt).nonfinite(params, x).first.where == "up/dot_general.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"up": a["up"]}, "give adapters for down too"),
        (lambda a: {**a, "upp": a["up"]}, "none is for upp: .*'up'"),
        (lambda a: {**a, "up": a["down"]}, r"a of up has \[40, 3\], not \[24, 3\]"),
        (lambda a: jax.tree.map(lambda f: f[:2], a), r"b of up has \[2, 40\], not \[3, 40\]"),
        (lambda a: a["up"], "give adapters as q.init_adapters makes them"),
        (lambda a: None, "give adapters as q.init_adapters makes them"),
    ],
)
def test_adapters_of_another_program_are_refused(change, message):
    params, x = CASES["chain"].arguments()
    q = with_lora(CASES["chain"].fn)
    adapters = q.init_adapters(KEY, params, x)
    with pytest.raises(CallError, match=message):
        q.with_adapters(change(adapters))(params, x)
    with pytest.raises(CallError, match=message):
        q.merge(change(adapters), params, x)


def test_rules_without_adapters_have_none_to_give():
    params, x = CASES["matmul"].arguments()
    q = qpass.transform(matmul, [qpass.Rule(weight="int8")])
    with pytest.raises(CallError, match=r"give rules with lora=qpass.LoRA"):
        q.init_adapters(KEY, params, x)
    with pytest.raises(CallError, match="no rule has lora= here"):
        q.with_adapters({"w": {"a": x, "b": x}})(params, x)
    with pytest.raises(CallError, match="give the adapters that are to be merged"):
        with_lora(matmul).merge({}, params, x)


@pytest.mark.parametrize("weight", [None, "int8 axis0", "int8"])
def test_what_others_read_is_not_merged(weight):
    """The head of a tied embedding has an adapter; the look-up of rows has none."""
    params, ids = CASES["tied"].arguments()
    q = with_lora(CASES["tied"].fn, weight)
    adapters = trained(q, params, ids)
    assert np.any(np.asarray(q.with_adapters(adapters)(params, ids)) != q(params, ids))
    with pytest.raises(CallError, match=r"emb is read by gather .*Keep these adapters apart"):
        q.merge(adapters, params, ids)
