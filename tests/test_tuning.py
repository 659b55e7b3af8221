"""`qpass.tune`: the products of a program, timed, and the table put to use."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.tuning import products
from qpass_kernels import REFERENCE, Kernel
from qpass_kernels.tuning import Method, load

QUICK = Method(rounds=1, cache=1, least=2)
INT8 = [qpass.Rule(weight="int8", act="int8")]
PARAMS = {"up": jnp.ones((8, 16)), "down": jnp.ones((16, 8))}


@dataclass(frozen=True)
class Config:
    rows: int


def two_settings(log):
    """A kernel that says in `log` with which of its settings it is traced."""
    configs = (Config(1), Config(2))

    def run(product, *operands, config=configs[0]):
        log.append(config)
        return REFERENCE.run(product, *operands)

    return Kernel("two", ("cpu",), lambda p: None, run, configs=lambda p: configs)


def net(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"]


def test_the_table_is_put_to_use(tmp_path):
    log = []
    table = (two_settings(log), REFERENCE)
    made = qpass.tune(net, INT8, PARAMS, jnp.ones((2, 8)), kernels=table, method=QUICK)
    assert {config.rows for config in log} == {1, 2}
    made.tuned.save(tmp_path / "table.json")
    tuned = load(tmp_path / "table.json")
    assert tuned == made.tuned
    assert (tuned.platform, tuned.jax) == ("cpu", jax.__version__)

    bound = tuned.kernels(table)
    q = qpass.transform(net, INT8, kernels=bound)
    plan = q.plan(PARAMS, jnp.ones((2, 8)))
    assert [row.kernel for row in plan.rows] == [choice.kernel for _, choice in tuned.choices]
    plain = qpass.transform(net, INT8, kernels=(REFERENCE,))
    x = jax.random.normal(jax.random.key(0), (2, 8))
    np.testing.assert_array_equal(q(PARAMS, x), plain(PARAMS, x))


def test_the_report_has_a_line_for_each_candidate():
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    seen = []
    made = qpass.tune(
        lambda p, x: x @ p["up"],
        INT8,
        abstract,
        jax.ShapeDtypeStruct((3, 8), "float32"),
        kernels=(two_settings([]), REFERENCE),
        method=QUICK,
        watch=seen.append,
    )
    title, *lines = str(made).splitlines()
    assert title == "int8 × int8 → float32, 3 × 16 × 8"
    assert sorted(line.split("µs  ")[1] for line in lines) == [
        "reference",
        "two rows=1",
        "two rows=2",
    ]
    assert [p.n for p in seen] == [16]


def test_products_inside_loops_and_derivatives_are_found():
    def loss(params, x):
        y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])
        return jnp.sum(net(params, y))

    params = {**PARAMS, "layers": jnp.ones((3, 8, 8))}
    q = qpass.transform(jax.grad(loss), INT8)
    found = products(jax.make_jaxpr(q)(params, jnp.ones((2, 8))).jaxpr)
    assert {(p.n, p.k) for p in found} >= {(16, 8), (8, 16), (8, 8)}


def test_products_of_a_kind_are_timed_once():
    q = qpass.transform(lambda p, x: (x @ p["w"], (x + 1) @ p["v"], x[:1] @ p["w"]), INT8)
    w = jnp.ones((8, 16))
    found = products(jax.make_jaxpr(q)({"w": w, "v": w}, jnp.ones((5, 8))).jaxpr)
    assert [p.m for p in found] == [5, 1]


def test_symbolic_sizes_are_an_error():
    (m,) = jax.export.symbolic_shape("m")
    x = jax.ShapeDtypeStruct((m, 8), "float32")
    with pytest.raises(qpass.CallError, match="m"):
        qpass.tune(net, INT8, PARAMS, x, method=QUICK)
