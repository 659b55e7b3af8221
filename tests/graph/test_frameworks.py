"""What models of Flax look like: ids, scopes, roles and weight paths of their products."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.graph.helpers import sites_of, table

BATCH, LENGTH, WIDTH, HEADS, HIDDEN, WORDS = 2, 4, 8, 2, 16, 10
IDS = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.LayerNorm(name="ln")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, dtype=jnp.bfloat16, name="attn")(h)
        h = nn.gelu(nn.Dense(HIDDEN, use_bias=False, name="up")(x))
        return x + nn.Dense(WIDTH, use_bias=False, name="down")(h), None


class Net(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(WORDS, WIDTH, name="embed")
        scanned = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return embed.attend(scanned(name="layers")(embed(ids), None)[0])


@pytest.fixture(scope="module")
def linen():
    net = Net()
    return net, jax.eval_shape(net.init, jax.random.key(0), IDS)


LAYER = [
    ("Net/layers/attn/query/dot_general.0", "forward", "params/layers/attn/query/kernel"),
    ("Net/layers/attn/key/dot_general.0", "forward", "params/layers/attn/key/kernel"),
    ("Net/layers/attn/value/dot_general.0", "forward", "params/layers/attn/value/kernel"),
    ("Net/layers/attn/dot_general.0", "qk", ""),
    ("Net/layers/attn/dot_general.1", "pv", ""),
    ("Net/layers/attn/out/dot_general.0", "forward", "params/layers/attn/out/kernel"),
    ("Net/layers/up/dot_general.0", "forward", "params/layers/up/kernel"),
    ("Net/layers/down/dot_general.0", "forward", "params/layers/down/kernel"),
]
HEAD = ("Net/embed.attend/dot_general.0", "forward", "params/embed/embedding")


def test_linen_scan_of_remat_with_a_tied_embedding(linen):
    net, params = linen
    assert table(net.apply, params, IDS) == [*LAYER, HEAD]
    sites = sites_of(net.apply, params, IDS)
    assert [site.repeats for site in sites] == [3] * 8 + [1]
    assert sites[0].scope == "Net/layers/attn/query"
    assert sites[3].einsum_label == "...qhd,...khd->...hqk"


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: jax.vmap(f, (None, 0))])
def test_linen_under_jit_and_vmap(linen, wrap):
    net, params = linen
    ids = jax.ShapeDtypeStruct((1, *IDS.shape), IDS.dtype) if wrap is not jax.jit else IDS
    assert table(wrap(net.apply), params, ids) == [*LAYER, HEAD]


def test_linen_gradient(linen):
    net, params = linen
    sites = sites_of(jax.grad(lambda p, ids: (net.apply(p, ids) ** 2).sum()), params, IDS)
    assert len({site.id for site in sites}) == len(sites)
    roles = {}
    for site in sites:
        roles.setdefault(site.scope, []).append(site.role)
    # In the rematerialized backward program the forward product runs again, before the others.
    assert roles["Net/layers/attn/query"] == ["forward", "forward", "drhs", "dlhs"]
    assert roles["Net/layers/up"] == ["forward", "forward", "drhs", "dlhs"]
    assert roles["Net/layers/down"] == ["forward", "drhs", "dlhs"]
    assert roles["Net/embed.attend"] == ["forward", "drhs", "dlhs"]
    # The two products of attention, run twice; then two gradients of each.
    backward = ["dlhs", "drhs", "drhs", "dlhs"]  # einsum has the values on the left
    assert roles["Net/layers/attn"] == ["qk", "pv"] * 2 + backward
    assert all(bool(site.forward) == (site.role in ("dlhs", "drhs")) for site in sites[:9])
    firsts = {site.id for site in sites[:9]}
    assert {site.forward for site in sites[9:]} == firsts
    paths = {(s.role, bool(s.weight_path)) for s in sites}
    assert paths == {
        ("forward", True),
        ("dlhs", True),
        ("dlhs", False),
        ("drhs", False),
        ("qk", False),
        ("pv", False),
    }


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attn(x)
        return x + self.down(nnx.gelu(self.up(x)))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Layer(rngs)])
        make = nnx.vmap(Layer, in_axes=(0,), out_axes=0)
        self.stack = nnx.split_rngs(splits=2)(make)(rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        step = nnx.remat(lambda x, layer: layer(x))
        x = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack)
        return self.embed.attend(x)


def test_nnx_split_and_merge():
    definition, state = nnx.split(Model(nnx.Rngs(0)))
    found = table(lambda state, ids: nnx.merge(definition, state)(ids), state, IDS)

    def layer(prefix, first):
        names = ("attn/query", "attn/key", "attn/value", "", "", "attn/out", "up", "down")
        rows = []
        for name in names:
            if name:
                path = f"{prefix}/{name}"
                rows.append((f"{path}/dot_general.0", "forward", f"{path}/kernel"))
            else:
                role = ("qk", "pv")[first % 2]
                rows.append((f"dot_product_attention/dot_general.{first}", role, ""))
                first += 1
        return rows

    head = ("embed/dot_general.0", "forward", "embed/embedding")
    assert found == [*layer("blocks/0", 0), *layer("stack", 2), head]
