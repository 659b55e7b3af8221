"""Serve a network whose weights are spread over all devices: codes travel, not floats."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import qpass

mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("d"))


def network(params, x):
    """Two layers, each weight of which is gathered where it is used, as FSDP is written."""
    for name in ("up", "down"):
        x = jnp.tanh(x @ jax.lax.with_sharding_constraint(params[name], whole))
    return x


def gathered(compiled):
    """Bytes that all-gathers give on each device, by the type of their elements."""
    sizes = {}
    for dtype, dims in re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather\(", compiled.as_text()):
        size = math.prod(map(int, dims.split(","))) * int(re.findall(r"\d+", dtype)[0]) // 8
        sizes[dtype] = sizes.get(dtype, 0) + size
    return sizes


rng = np.random.default_rng(0)
params = {
    name: jax.device_put(rng.standard_normal(shape).astype(np.float32), split)
    for name, shape in {"up": (64, 256), "down": (256, 64)}.items()
}
x = jax.device_put(rng.standard_normal((64, 64)).astype(np.float32), split)
print("float32", gathered(jax.jit(network).lower(params, x).compile()))

SCHEMES = {
    "int8, activations int8": ("int8", "int8"),
    "int8": ("int8", None),
    "int4 in groups of 16": (qpass.int4.grouped(16), None),
}
for scheme, (weight, act) in SCHEMES.items():
    q = qpass.transform(network, [qpass.Rule(weight=weight, act=act)])
    stored = q.quantize(params, x)  # leaf by leaf; each device quantizes its own part
    assert stored["up"].codes.sharding.num_devices == jax.device_count()
    print(scheme, gathered(jax.jit(q).lower(stored, x).compile()))
