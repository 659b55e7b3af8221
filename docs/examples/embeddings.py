"""A language model whose embedding is its head as well: one table, stored once."""

import jax
import jax.numpy as jnp

import qpass


def model(params, tokens):
    """Logits of ``tokens [T]``."""
    x = params["positions"][jnp.arange(len(tokens)) % 64] + params["table"][tokens]
    return jax.nn.gelu(x @ params["up"]) @ params["down"] @ params["table"].T


def draw(seed, *shape):
    """Normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape)


params = {
    "table": draw(0, 1000, 64),
    "positions": draw(1, 64, 64),
    "up": draw(2, 64, 256),
    "down": draw(3, 256, 64),
}
tokens = jnp.array([3, 141, 59, 26])

rules = [
    qpass.Rule(path="table", role=("forward", "lookup"), weight="int8", act="int8"),
    qpass.Rule(path="positions", role="lookup", weight="int8"),
    qpass.Rule(weight="int4 g32", act="int8 g32"),
]
q = qpass.transform(model, rules)
schemes = {row.id: row.scheme for row in q.plan(params, tokens).rows}
assert schemes["table/gather.0"] == "int8 rows"
assert schemes["table/dot_general.0"] == "int8 x int8"

qparams = q.quantize(params, tokens)
assert qparams["table"].scale.shape == (1000, 1)  # one for each row
assert qparams["positions"].scale.shape == (64, 1)
assert jnp.array_equal(jax.jit(q)(params, tokens), jax.jit(q)(qparams, tokens))
