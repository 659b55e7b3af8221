"""The bits of other libraries: 8da4w as torchao has it, and a dialect of one's own."""

from dataclasses import replace

import jax
import jax.numpy as jnp

import qpass
from qpass.numerics import TORCHAO, quantize


def linear(params, x):
    """One layer; ``x [M, 512]``."""
    return x @ params["w"]


keys = jax.random.split(jax.random.key(0))
params = {"w": jax.random.normal(keys[0], (512, 256)).astype(jnp.bfloat16)}
x = jax.random.normal(keys[1], (4, 512)).astype(jnp.bfloat16)

# Of all rules that name none: dialect="torchao". Or quantizer by quantizer, as here.
rules = [qpass.Rule(weight="int4 g32 torchao_intx", act="int8 asym torchao")]
q = qpass.transform(linear, rules)
stored = q.quantize(params, x)
assert (jax.jit(q)(stored, x) == jax.jit(q)(params, x)).all()

# The same weight in five sets of last bits: how many magnitudes of codes are not those of Qwix.
print("--- codes")
for dialect in qpass.numerics.DIALECTS:
    pair = (quantize(params["w"], qpass.int8.in_dialect(d), (0,)).codes for d in (dialect, "qwix"))
    ours, theirs = (jnp.abs(codes.astype(jnp.int32)) for codes in pair)
    print(f"{dialect.name:12} {(ours != theirs).mean():.1%}")

# A dialect is a value. torchao's, with the code range of AQT:
mine = replace(TORCHAO, name="mine", full_range=False)
q = qpass.transform(linear, [qpass.Rule(weight=qpass.int4.in_dialect(mine))])
assert int(q.quantize(params, x)["w"].codes.astype(jnp.int8).min()) == -7
