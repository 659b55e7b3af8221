"""What qpass says: why a product is quantized as it is, or is not, and what would help."""

import jax
import jax.numpy as jnp

import qpass


def model(params, tokens):
    """A table, scanned layers, a code book read both ways, and a head with an adapter."""
    x = params["table"][tokens]
    x, _ = jax.lax.scan(layer, x, params["layers"])
    x = jnp.tanh(x @ params["book"]) @ params["book"].T
    head = params["head"] + params["lora_a"] @ params["lora_b"]
    return x @ head


def layer(x, w):
    """One layer in bfloat16; ``w["up"] [64, 32]``."""
    wide = x.astype(jnp.bfloat16) @ w["up"].T.astype(jnp.bfloat16)
    return x + (wide @ w["down"].astype(jnp.bfloat16)).astype(x.dtype), None


def shape(*sizes):
    """A plan needs shapes, no numbers."""
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


params = {
    "table": shape(100, 32),
    "layers": {"up": shape(3, 64, 32), "down": shape(3, 64, 32)},
    "book": shape(32, 256),
    "head": shape(32, 100),
    "lora_a": shape(32, 4),
    "lora_b": shape(4, 100),
}
tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)
rules = [
    qpass.Rule(path="**/down", keep=True),
    qpass.Rule(path="layers/**", weight="int8", act="int8"),
    qpass.Rule(path="book", weight="int4"),
]
plan = qpass.transform(model, rules).plan(params, tokens, platform="cpu")

print("--- stored")
print(plan.why("layers/up/dot_general.0"))

print("--- broken")
print(plan.why("model/dot_general.0"))

print("--- both ways")
print("\n".join(plan.findings))

print("--- the way out")
one_scale = [qpass.Rule(path="book", weight="int4 tensor")]
book = qpass.transform(model, one_scale).plan(params, tokens, platform="cpu")
print(book.why("book/dot_general.1").storage)

print("--- unmatched")
for path in ("layers/upp", "table", "up"):
    try:
        qpass.transform(model, [qpass.Rule(path=path, weight="int8")]).plan(params, tokens)
    except qpass.RuleError as error:
        print(error)

print("--- hidden")
exported = jax.export.export(jax.jit(lambda x, w: x @ w))(shape(16, 32), shape(32, 8))
calls = qpass.transform(lambda w, x: exported.call(x, w), [])
print(calls.plan(shape(32, 8), shape(16, 32)).findings[0])
