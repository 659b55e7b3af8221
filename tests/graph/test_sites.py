"""Sites of plain functions: names, roles, weights, and what a rule can ask."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from qpass.graph.provenance import Origin
from tests.graph.helpers import shape, sites_of, table

B, T, D, N, H, F, V = 2, 4, 8, 2, 4, 16, 10
PARAMS = {
    "emb": shape(V, D),
    "layers": {
        "wqkv": shape(2, D, 3 * N * H),
        "wo": shape(2, N, H, D),
        "w1": shape(2, F, D),
        "w2": shape(2, F, D),
    },
    "head": shape(D, V),
    "lora": {"a": shape(D, 2), "b": shape(2, V)},
    "ae": shape(D, D),
    "stack": shape(2, D, D),
}


def decoder(p, ids):
    @jax.checkpoint
    def block(x, w):
        wide = w["wqkv"].astype(jnp.bfloat16).reshape(D, 3, N, H)
        q, k, v = (jnp.einsum("BTD,DNH->BTNH", x, wide[:, i]) for i in range(3))
        scores = jax.nn.softmax(jnp.einsum("BTNH,BSNH->BNTS", q, k))
        mixed = jnp.einsum("BNTS,BSNH->BTNH", scores, v)
        x = x + jnp.einsum("BTNH,NHD->BTD", mixed, w["wo"])
        return x + jax.nn.relu(x @ w["w1"].T) @ w["w2"]

    x = lax.scan(lambda x, w: (block(x, w), None), p["emb"][ids], p["layers"])[0]
    for i in range(2):
        x = jnp.tanh(x @ p["stack"][i])
    x = x @ p["ae"] @ p["ae"].T
    return x @ (p["head"] + p["lora"]["a"] @ p["lora"]["b"]) + x @ p["emb"].T


def test_a_plain_decoder():
    assert table(decoder, PARAMS, shape(B, T, dtype="int32")) == [
        ("layers/wqkv/dot_general.0", "forward", "layers/wqkv"),
        ("layers/wqkv/dot_general.1", "forward", "layers/wqkv"),
        ("layers/wqkv/dot_general.2", "forward", "layers/wqkv"),
        ("block/dot_general.0", "qk", ""),
        ("block/dot_general.1", "pv", ""),
        ("layers/wo/dot_general.0", "forward", "layers/wo"),
        ("layers/w1/dot_general.0", "forward", "layers/w1"),
        ("layers/w2/dot_general.0", "forward", "layers/w2"),
        ("stack/dot_general.0", "forward", "stack"),
        ("stack/dot_general.1", "forward", "stack"),
        ("ae/dot_general.0", "forward", "ae"),
        ("ae/dot_general.1", "forward", "ae"),
        ("lora/b/dot_general.0", "weights", "lora/b"),
        ("decoder/dot_general.0", "activations", ""),
        ("emb/dot_general.0", "forward", "emb"),
    ]


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        (("w",), "w"),
        (("mlp", "w"), "mlp"),
        (("mlp", "kernel"), "mlp"),
        (("embed", "embedding"), "embed"),
        (("mlp", "up"), "mlp/up"),
        (("mlp", "up", "weight"), "mlp/up"),
    ],
)
def test_a_leaf_is_named_unless_every_module_has_one_of_that_name(path, prefix):
    params = shape(8, 8)
    for name in reversed(path):
        params = {name: params}
    site = sites_of(lambda p, x: x @ jax.tree.leaves(p)[0], params, shape(4, 8))[0]
    assert site.id == f"{prefix}/dot_general.0"
    assert site.weight_path == "/".join(path)


def test_steps_between_the_leaf_and_the_product():
    sites = sites_of(decoder, PARAMS, shape(B, T, dtype="int32"))
    flows = {s.id: s.flows[s.weight] for s in sites if s.weight is not None}
    steps = {name: [str(step) for step in flow.steps] for name, flow in flows.items()}
    fused = ["scan slice", "convert_element_type", "reshape", "slice", "squeeze"]
    assert steps["layers/wqkv/dot_general.1"] == fused
    assert steps["layers/w1/dot_general.0"] == ["scan slice", "transpose"]
    assert steps["stack/dot_general.1"] == ["slice", "squeeze"]
    assert steps["emb/dot_general.0"] == ["transpose"]
    # Axis 1 of the fused leaf is contracted; axis 2 holds which of three, heads and head sizes.
    assert flows["layers/wqkv/dot_general.1"].axes == (
        frozenset({1}),
        frozenset({2}),
        frozenset({2}),
    )


def test_the_einsum_that_the_user_wrote_and_its_canonical_form():
    sites = {s.id: s for s in sites_of(decoder, PARAMS, shape(B, T, dtype="int32"))}
    assert sites["layers/wqkv/dot_general.0"].einsum_label == "BTD,DNH->BTNH"
    assert str(sites["layers/wqkv/dot_general.0"].equation) == "abc,cde->abde"
    assert sites["ae/dot_general.0"].einsum_label is None


def scoped(w, x):
    with jax.named_scope("outer"):
        return jax.jit(jax.named_scope("ffn")(lambda w, x: x @ w))(w, x)


def scopes(fn, *args):
    return [(s.scope, s.role) for s in sites_of(fn, *args)]


def test_scopes_through_transformations():
    w, x, xs = shape(8, 8), shape(4, 8), shape(3, 4, 8)
    forward, backward = ("outer/ffn", "forward"), [("outer/ffn", "drhs"), ("outer/ffn", "dlhs")]

    def loss(w, x):
        return jnp.sin(scoped(w, x)).sum()

    assert scopes(scoped, w, x) == [forward]
    assert scopes(jax.vmap(scoped, (None, 0)), w, xs) == [forward]
    assert scopes(jax.vmap(scoped), shape(3, 8, 8), xs) == [forward]
    assert scopes(lambda w, x: jax.jvp(lambda x: scoped(w, x), (x,), (x,)), w, x) == [forward] * 2
    assert scopes(jax.grad(loss, (0, 1)), w, x) == [forward, *backward]
    batched = jax.vmap(jax.grad(loss), (None, 0))
    assert scopes(batched, w, xs) == [forward, ("outer/ffn", "drhs")]
    again = jax.grad(lambda w, x: jnp.sin(jax.checkpoint(scoped)(w, x)).sum())
    assert scopes(again, w, x) == [forward, backward[0]]  # nothing that needs recomputing is left

    def looped(w, x):
        return lax.scan(lambda c, _: (scoped(w, c), None), x, None, length=2)

    assert scopes(looped, w, x) == [forward]


def test_a_weight_on_the_left():
    (site,) = sites_of(lambda w, x: w.T @ x.T, shape(8, 16), shape(4, 8))
    assert (site.weight, site.role, site.weight_path) == (0, "forward", "w")


def test_parameters_by_name_predicate_or_none():
    def f(x, w):
        return x @ w

    args = shape(4, 8), shape(8, 8)
    assert [s.role for s in sites_of(f, *args, params="w")] == ["forward"]
    assert [s.role for s in sites_of(f, *args, params=lambda path: path == "w")] == ["forward"]
    assert [s.role for s in sites_of(f, *args, params=None)] == ["activations"]


def test_a_closed_over_weight_is_a_constant():
    w = jnp.ones((8, 8))
    (site,) = sites_of(lambda p, x: x @ w, shape(1), shape(4, 8))
    assert site.role == "constant"
    (site,) = sites_of(lambda x: x @ w, shape(4, 8), params=None)
    assert (site.role, site.weight) == ("constant", None)


def test_a_parameter_times_closed_over_data_is_the_weight():
    x = jnp.ones((4, 8))
    (site,) = sites_of(lambda w: x @ w, shape(8, 8))
    assert (site.role, site.weight) == ("forward", 1)


def test_products_of_derivative_rules_have_sites_of_their_own():
    call = jax.custom_vjp(lambda x, w: x @ w)
    call.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))

    def model(w, x):
        with jax.named_scope("block"):
            return call(x, w)

    assert table(model, shape(8, 8), shape(4, 8)) == [
        ("block/dot_general.0", "forward", "w"),
        ("block/fwd/dot_general.0", "forward", "w"),
        ("block/bwd/dot_general.0", "dlhs", "w"),
        ("block/bwd/dot_general.1", "drhs", ""),
    ]
    sources = [site.source for site in sites_of(model, shape(8, 8), shape(4, 8))]
    assert all(source.startswith("test_sites.py") for source in sources)


def test_ids_are_unique_and_the_same_each_time():
    args = PARAMS, shape(B, T, dtype="int32")
    slope = jax.grad(lambda p, ids: decoder(p, ids).sum())
    first, second = ([s.id for s in sites_of(slope, *args)] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)


def test_a_merge_of_two_weights_is_no_weight():
    def f(p, x):
        return x @ jnp.concatenate([p["a"], p["b"]], 1)

    (site,) = sites_of(f, {"a": shape(8, 4), "b": shape(8, 4)}, shape(4, 8))
    assert site.role == "activations"
    assert not isinstance(site.flows[1], Origin)
