"""The decoder block on eight devices, by each kind of parallelism.

``python -m tests.devices.eight SCHEME``, or ``products``, prints what came as JSON.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from tests.devices.block import MESHES, decoder_block, parameters, rules, tokens
from tests.devices.wire import sent

AUTO = Mesh(np.array(jax.devices()), ("d",))
SCHEMES = {
    "int8 x int8": ("int8", "int8"),
    "int8": ("int8", None),
    "int4 g16": (qpass.int4.grouped(16), None),
}


def one_device(scheme):
    """Stored parameters, and what the block gives of them, on one device."""
    q = qpass.transform(decoder_block, rules(*SCHEMES[scheme]))
    stored = q.quantize(parameters(), tokens())
    return stored, np.asarray(jax.jit(q)(stored, tokens()))


def compare(mesh, scheme, whole, wanted):
    """The block on stored codes, sharded, beside the same on one device."""
    specs, spec = MESHES[mesh]
    fn = gathered_block if mesh == "fsdp" else decoder_block
    q = qpass.transform(fn, rules(*SCHEMES[scheme]))
    placed = {k: place(v, specs.get(k, P())) for k, v in parameters().items()}
    x = place(tokens(), spec)
    parts = q.quantize(placed, x)
    compiled = jax.jit(q).lower(parts, x).compile()
    return {
        "alike": all(map(same, jax.tree.leaves(whole), jax.tree.leaves(parts))),
        "error": float(abs(np.asarray(compiled(parts, x)) - wanted).max() / abs(wanted).max()),
        "sent": listed(compiled),
    }


def gathered_block(params, x):
    """As FSDP is written: each weight is whole where it is used."""
    return decoder_block(
        params, x, lambda weight: jax.lax.with_sharding_constraint(weight, sharding(P()))
    )


def place(array, spec):
    return jax.device_put(array, sharding(spec))


def sharding(spec):
    return NamedSharding(AUTO, spec)


def same(one, other):
    return np.array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))


def listed(compiled):
    return [(s.kind, s.dtype, s.shape, s.nbytes) for s in sent(compiled)]


def product(mode, side):
    """One product of integers: what differs from that of one device, to the bit."""
    rng = np.random.default_rng(2)
    w = rng.standard_normal((64, 32)).astype(np.float32)
    x = jnp.asarray(rng.standard_normal((16, 64)), jnp.float32)
    q = qpass.transform(lambda p, x: x @ p, rules("int8", "int8")[1:])
    wanted = jax.jit(q)(q.quantize(w, x), x)
    of_w, of_x = {"data": (P(), P("d")), "columns": (P(None, "d"), P()), "rows": ROWS}[side]
    with jax.set_mesh(jax.make_mesh((8,), ("d",), axis_types=(mode,))):
        out = P(None, None) if side == "rows" else None
        given = jax.device_put(w, of_w), jax.device_put(x, of_x)
        mine = qpass.transform(
            lambda p, x: jnp.matmul(x, p, **({"out_sharding": out} if out else {})),
            rules("int8", "int8")[1:],
        )
        stored = mine.quantize(*given)
        compiled = jax.jit(mine).lower(stored, given[1]).compile()
        got = compiled(stored, given[1])
        return {"error": float(abs(np.asarray(got) - wanted).max()), "sent": listed(compiled)}


ROWS = (P("d"), P(None, "d"))


def products():
    """One product by each way to split it, with and without shardings in the types."""
    return {
        f"{mode.name}, {side}": product(mode, side)
        for mode in (AxisType.Auto, AxisType.Explicit)
        for side in ("data", "columns", "rows")
    }


def blocks(scheme):
    local = one_device(scheme)
    return {mesh: compare(mesh, scheme, *local) for mesh in MESHES}


if __name__ == "__main__":
    asked = sys.argv[1]
    print(json.dumps(products() if asked == "products" else blocks(asked)))
