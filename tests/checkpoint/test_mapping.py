"""Parameters of a function out of a checkpoint: templates, axes, layers, plans, and errors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass import QTensor
from qpass.checkpoint.fit import rules_for
from qpass.checkpoint.formats import Decoded, Imported, read
from qpass.checkpoint.formats.leaves import Leaf
from qpass.checkpoint.mapping import To, fill
from qpass.errors import CheckpointError
from qpass.numerics import as_quantizer, quantize
from tests.checkpoint.formats.written import folder

LAYERS, WIDTH, HEADS, SIZE, HIDDEN = 3, 64, 4, 32, 96


@cache
def weight(seed, shape, scheme="int4 g16"):
    """What an import gives of a weight ``[out, in]``."""
    x = jax.random.normal(jax.random.key(seed), shape)
    return quantize(x, as_quantizer(scheme), (1,), pack=True)


def source(values):
    """An import with these values, each with the reason where it is a pair."""

    def leaf(name, value):
        value, reason = value if isinstance(value, tuple) else (value, "")
        return Leaf(value.shape, f"{name} in here", lambda: Decoded(value, reason))

    return Imported("test", {name: leaf(name, value) for name, value in values.items()})


def checkpoint(scheme="int4 g16", **changes):
    values = {"model.norm.weight": jnp.arange(WIDTH, dtype=jnp.bfloat16)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        values[f"{layer}.q_proj.weight"] = weight(i, (HEADS * SIZE, WIDTH), scheme)
        values[f"{layer}.o_proj.weight"] = weight(10 + i, (WIDTH, HEADS * SIZE), scheme)
        values[f"{layer}.up_proj.weight"] = weight(20 + i, (HIDDEN, WIDTH), scheme)
        values[f"{layer}.router.weight"] = weight(30 + i, (8, WIDTH), scheme)
    return source(values | changes)


LIKE = {
    "norm": jax.ShapeDtypeStruct((WIDTH,), jnp.float32),
    "layers": {
        "q": jax.ShapeDtypeStruct((LAYERS, WIDTH, HEADS, SIZE), jnp.float32),
        "o": jax.ShapeDtypeStruct((LAYERS, HEADS, SIZE, WIDTH), jnp.float32),
        "up": jax.ShapeDtypeStruct((LAYERS, WIDTH, HIDDEN), jnp.float32),
        "router": jax.ShapeDtypeStruct((LAYERS, WIDTH, 8), jnp.float32),
    },
}
NAMES = {
    "model.norm": "norm",
    "model.layers.{i}.q_proj": To("layers/q", "(n h) d -> d n h"),
    "model.layers.{i}.o_proj": To("layers/o", "d (n h) -> n h d"),
    "model.layers.{i}.up_proj": "layers/up",
    "model.layers.{i}.router": To("layers/router", "out in -> in out"),
}


def model(params, x):
    """Three layers in a scan."""

    def layer(x, p):
        q = jnp.einsum("bd,dnh->bnh", x, p["q"])
        x = x + jnp.einsum("bnh,nhd->bd", jnp.tanh(q), p["o"])
        return x + jnp.sum(x @ p["up"], -1, keepdims=True) + jnp.sum(x @ p["router"]), None

    return jax.lax.scan(layer, x * params["norm"] / 64, params["layers"])[0]


def expected(given):
    """The same leaves by hand, from dequantized values."""
    value = {
        n: np.asarray(v.dequantize() if isinstance(v, QTensor) else v) for n, v in given.items()
    }
    layers = [f"model.layers.{i}" for i in range(LAYERS)]
    q = [value[f"{layer}.q_proj.weight"].reshape(HEADS, SIZE, WIDTH) for layer in layers]
    o = [value[f"{layer}.o_proj.weight"].reshape(WIDTH, HEADS, SIZE) for layer in layers]
    return {
        "norm": value["model.norm.weight"].astype(np.float32),
        "layers": {
            "q": np.stack([x.transpose(2, 0, 1) for x in q]),
            "o": np.stack([x.transpose(1, 2, 0) for x in o]),
            "up": np.stack([value[f"{layer}.up_proj.weight"].T for layer in layers]),
            "router": np.stack([value[f"{layer}.router.weight"].T for layer in layers]),
        },
    }


def dense(params):
    is_leaf = lambda x: isinstance(x, QTensor)  # noqa: E731
    return jax.tree.map(lambda x: x.dequantize() if is_leaf(x) else x, params, is_leaf=is_leaf)


@pytest.mark.parametrize(
    "scheme", ["int4 g16", "int3 g32 asym", "int8", "nvfp4", "fp8_e4m3 b16x32"]
)
def test_leaves_are_the_parameters_with_their_axes_moved(scheme):
    given = checkpoint(scheme)
    filled = fill(LIKE, given, NAMES)
    jax.tree.map(np.testing.assert_array_equal, dense(filled.params), expected(given))
    assert [row.path for row in filled.report][:2] == ["layers/o", "layers/q"]
    for path, leaf in filled.params["layers"].items():
        assert isinstance(leaf, QTensor), path
        leaf.check(path)


@pytest.mark.parametrize("scheme", ["int4 g16", "int3 g32 asym", "nvfp4"])
def test_rules_for_them_run_the_codes_as_they_are(scheme):
    params = fill(LIKE, checkpoint(scheme), NAMES).params
    q = qpass.transform(model, rules_for(params))
    x = jax.random.normal(jax.random.key(1), (5, WIDTH))
    filled = fill(LIKE, checkpoint(scheme), NAMES, plan=q.plan(LIKE, x))
    assert all(isinstance(leaf, QTensor) for leaf in filled.params["layers"].values())
    found, exact = jax.jit(q)(filled.params, x), jax.jit(model)(dense(filled.params), x)
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-4)


def test_sites_that_rules_keep_float_are_dequantized_on_load():
    rules = [qpass.Rule(path="layers/router", keep=True), qpass.Rule(weight="int4 g16")]
    q = qpass.transform(model, rules)
    x = jnp.ones((2, WIDTH))
    given = checkpoint()
    filled = fill(LIKE, given, NAMES, plan=q.plan(LIKE, x))
    how = {row.path: row.how for row in filled.report}
    assert how["layers/router"] == "dequantized: the rules keep it float"
    assert how["layers/up"] == "codes kept: int4 g16"
    assert how["norm"] == "float"
    np.testing.assert_array_equal(
        filled.params["layers"]["router"], expected(given)["layers"]["router"]
    )
    assert jnp.isfinite(q(filled.params, x)).all()


def test_finer_groups_and_zero_points_of_the_rules_are_met_by_repeating():
    q = qpass.transform(model, qpass.Rule(weight="int4 g8 asym"))
    x = jnp.ones((2, WIDTH))
    params = fill(LIKE, checkpoint(), NAMES, plan=q.plan(LIKE, x)).params
    jax.tree.map(np.testing.assert_array_equal, dense(params), expected(checkpoint()))
    assert params["layers"]["up"].zero is not None
    assert jnp.isfinite(q(params, x)).all()


@pytest.mark.parametrize("rule", ["int8", "int4 g32", "int4"])
def test_rules_that_store_otherwise_are_refused_with_the_rule_that_fits(rule):
    q = qpass.transform(model, qpass.Rule(weight=rule))
    plan = q.plan(LIKE, jnp.ones((2, WIDTH)))
    with pytest.raises(CheckpointError, match=r"rule whose weight is 'int4 g16'.*rules_for"):
        fill(LIKE, checkpoint(), NAMES, plan=plan)


def test_column_sums_are_there_where_activations_have_zero_points():
    q = qpass.transform(model, qpass.Rule(weight="int4 g16", act="int8 asym"))
    x = jax.random.normal(jax.random.key(1), (5, WIDTH))
    params = fill(LIKE, checkpoint(), NAMES, plan=q.plan(LIKE, x)).params
    assert params["layers"]["up"].sums is not None
    np.testing.assert_allclose(q(params, x), model(dense(params), x), rtol=0.2, atol=1.0)


def test_layers_of_different_kinds_become_dense_together_and_say_so():
    name = "model.layers.1.up_proj.weight"
    other = weight(21, (HIDDEN, WIDTH), "int8")
    filled = fill(LIKE, checkpoint(**{name: other}), NAMES)
    how = {row.path: row.how for row in filled.report}
    assert how["layers/up"] == "dequantized: its layers are quantized differently"
    act_order = (jnp.ones((HIDDEN, WIDTH)), "act-order")
    how = {r.path: r.how for r in fill(LIKE, checkpoint(**{name: act_order}), NAMES).report}
    assert how["layers/up"] == "dequantized: act-order"


def test_layers_with_and_without_zero_points_share_them():
    name = "model.layers.1.up_proj.weight"
    given = checkpoint(**{name: weight(21, (HIDDEN, WIDTH), "int4 g16 asym")})
    filled = fill(LIKE, given, NAMES)
    assert filled.params["layers"]["up"].zero.shape == (LAYERS, HIDDEN, WIDTH // 16)
    jax.tree.map(np.testing.assert_array_equal, dense(filled.params), expected(given))


def test_axes_that_scales_cannot_follow_are_dequantized_and_said_so():
    given = source({"w": weight(0, (24, 48), "int4 g16")})
    like = {"w": jax.ShapeDtypeStruct((2, 24, 24), jnp.float32)}
    filled = fill(like, given, {"w": To("w", "n (a b) -> a n b")})
    assert "cannot follow" in filled.report[0].how
    value = np.asarray(given["w"].dequantize()).reshape(24, 2, 24).transpose(1, 0, 2)
    np.testing.assert_array_equal(filled.params["w"], value)


def test_pairs_of_rotary_rows_are_taken_apart_with_their_codes():
    """llama.cpp has the rows of a head in pairs, one of each half; qpass keeps halves together."""
    given = source({"blk.0.attn_q.weight": weight(0, (HEADS * SIZE, WIDTH))})
    like = {"q": jax.ShapeDtypeStruct((WIDTH, HEADS, SIZE), jnp.float32)}
    filled = fill(like, given, {"blk.0.attn_q": To("q", "(n h 2) d -> d n (2 h)")})
    value = np.asarray(given["blk.0.attn_q.weight"].dequantize())
    halves = value.reshape(HEADS, SIZE // 2, 2, WIDTH).transpose(0, 2, 1, 3)
    exact = halves.reshape(HEADS, SIZE, WIDTH).transpose(2, 0, 1)
    assert filled.report[0].how == "codes kept: int4 g16"
    np.testing.assert_array_equal(filled.params["q"].dequantize(), exact)


def test_what_is_left_over_goes_by_shape_where_one_alone_has_it():
    given = source(
        {"a.weight": weight(0, (16, 32)), "b": jnp.ones(5), "c.weight": jnp.ones((3, 4))}
    )
    shapes = {"x": (32, 16), "y": (5,), "z": (3, 4)}
    like = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    params = fill(like, given, {"c": "z"}, by_shape=True).params
    np.testing.assert_array_equal(params["x"].dequantize(), given["a.weight"].dequantize().T)
    with pytest.raises(CheckpointError, match="Say which parameter of the checkpoint is x, y"):
        fill(like, given, {"c": "z"})


def test_leaves_can_stay_and_parameters_be_left_out():
    like = {"w": jnp.zeros((32, 16)), "lora": jnp.ones((2, 2))}
    given = source({"w.weight": weight(0, (16, 32)), "rotary.inv_freq": jnp.ones(3)})
    filled = fill(like, given, {"w": "w"}, skip=["rotary.*"], keep=["lora*"])
    assert filled.params["lora"] is like["lora"]
    assert "codes kept: int4 g16 (w.weight)" in str(filled)


def changed(names=(), like=(), **given):
    layers = LIKE["layers"] | dict(like)
    layers = {path: leaf for path, leaf in layers.items() if leaf is not None}
    names = {n: t for n, t in (NAMES | dict(names)).items() if t is not None}
    return {"norm": LIKE["norm"], "layers": layers}, checkpoint(**given), names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed(names={"model.layers.{i}.up_proj": None}),
            r"Say which parameter of the checkpoint is layers/up.*model\.layers\.\d\.up_proj",
        ),
        (
            changed(names={"model.layers.{i}.up_proj": "layers/upp"}),
            r"Name a leaf of the parameters; 'layers/upp' is none: did you mean 'layers/up'",
        ),
        (
            changed(like={"router": None}, names={"model.layers.{i}.router": None}),
            r"Say which leaf model\.layers\.0\.router\.weight \[8, 64\].*skip=",
        ),
        (
            changed(names={"model.layers.{i}.up": "layers/up"}),
            r"fits no parameter .*did you mean 'model\.layers\.\d\.up_proj\.weight'",
        ),
        (
            changed(names={"model.layers.{i}.up_proj": "layers/{j}"}),
            r"Name 'j' in 'model\.layers\.{i}\.up_proj' too",
        ),
        (
            changed(
                names={"model.layers.0.up_proj": "layers/up", "model.layers.{i}.up_proj": None}
            ),
            r"Say which leaf model\.layers\.1\.up_proj\.weight \[96, 64\], model",
        ),
        (
            changed(like={"up": jax.ShapeDtypeStruct((4, WIDTH, HIDDEN), jnp.float32)}),
            r"Give layers/up the parameters of all its layers: it is \[4, 64, 96\].* 3 of them",
        ),
        (
            changed(**{"model.layers.4.up_proj.weight": jnp.ones((HIDDEN, WIDTH))}),
            r"Give every layer of layers/up: there are 4 of the 5",
        ),
        (
            changed(names={"model.layers.{i}.q_proj": To("layers/q", "(n h) d -> n h d")}),
            r"Mend the axes '\(n h\) d -> n h d' of model\.layers\.0\.q_proj.*\[64, 4, 32\]",
        ),
        (
            changed(names={"model.layers.{i}.q_proj": To("layers/q", "out in")}),
            r"Write axes as 'out in -> in out'",
        ),
        (
            changed(names={"model.layers.{i}.q_proj": "layers/q"}),
            r"Say what becomes of the axes of model\.layers\.0\.q_proj",
        ),
    ],
)
def test_what_does_not_fit_names_both_sides(change, message):
    like, given, names = change
    with pytest.raises(CheckpointError, match=message):
        fill(like, given, names)


def test_a_square_matrix_needs_its_axes_said():
    given = source({"w": weight(0, (32, 32))})
    like = {"w": jax.ShapeDtypeStruct((32, 32), jnp.float32)}
    with pytest.raises(CheckpointError, match="it is square"):
        fill(like, given, {"w": "w"})
    params = fill(like, given, {"w": To("w", "o i -> i o")}).params
    np.testing.assert_array_equal(params["w"].dequantize(), given["w"].dequantize().T)


def test_float_checkpoints_are_read_and_cast(tmp_path):
    w = np.random.default_rng(0).normal(size=(4, 8)).astype(jnp.bfloat16)
    found = read(folder(tmp_path, {"up.weight": w}))
    like = {"up": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
    filled = fill(like, found, {"{name}.weight": "{name}/kernel"})
    assert (found.format, filled.report[0].how) == ("safetensors", "float")
    np.testing.assert_array_equal(filled.params["up"]["kernel"], w.astype(np.float32).T)
